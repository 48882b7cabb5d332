"""Prove that a run with dropout and a schedule resumes to the same bits, if all of it is saved."""

import sys
import textwrap
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import optimlab


class Training:
    """A small network learns to reverse eight numbers.

    Args:
        saves_random: whether a checkpoint has the state of torch's generator.
    """

    def __init__(self, *, saves_random: bool = True) -> None:
        torch.manual_seed(0)
        self.saves_random = saves_random
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 8))
        self.optimizer = optimlab.Adam(self.model.named_parameters(), lr=0.01)
        self.scheduler = StepLR(self.optimizer, step_size=2, gamma=0.5)

    def step(self) -> None:
        """Take one step of the training."""
        self.optimizer.zero_grad()
        x = torch.randn(4, 8)
        nn.functional.mse_loss(self.model(x), x.flip(1)).backward()
        self.optimizer.step()
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what the program saves."""
        saved = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        return {**saved, "random": torch.get_rng_state()} if self.saves_random else saved

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        """Go on from there; random numbers come last."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if "random" in saved:
            torch.set_rng_state(saved["random"])

    def tensors(self) -> dict[str, Any]:
        """Name all that has to have the same bits."""
        return {
            **dict(self.model.named_parameters()),
            "state": self.optimizer.state_dict()["state"],
            "lr": self.scheduler.get_last_lr(),
        }


def show(text: object) -> None:
    """Print lines that fit a page."""
    for line in str(text).splitlines():
        print(textwrap.fill(line, 88, subsequent_indent="  "))


def main() -> int:
    """Prove the run, then see what becomes of it without its random numbers."""
    complete = optimlab.prove_resume(Training, steps=6, at=3)
    show(complete)
    without = optimlab.prove_resume(partial(Training, saves_random=False), steps=6, at=3)
    show(without)
    return 0 if complete.equal and not without.equal else 1


if __name__ == "__main__":
    sys.exit(main())
