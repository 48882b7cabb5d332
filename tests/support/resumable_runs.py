"""Training runs that save all that they need, or leave something out: for the resume prover.

A module of its own, because a new process imports it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import optimlab

LEFT_OUT = ("random", "scheduler", "optimizer", "order")


class Order:
    """A new order of eight items in each epoch, and the place in it."""

    def __init__(self) -> None:
        self.generator = random.Random(3)
        self.items: list[int] = []

    def draw(self) -> list[int]:
        if not self.items:
            self.items = self.generator.sample(range(8), 8)
        drawn, self.items = self.items[:2], self.items[2:]
        return drawn


class Training:
    """A small network with dropout, a schedule, momentum and data in an order of its own.

    Args:
        without: parts that are not saved.
        lossy: whether the optimizer's state is saved as bfloat16.
    """

    def __init__(self, *without: str, lossy: bool = False) -> None:
        torch.manual_seed(5)
        self.model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.3), nn.Linear(6, 1))
        self.optimizer = optimlab.Adam(self.model.parameters(), lr=0.1)
        self.scheduler = StepLR(self.optimizer, step_size=3, gamma=0.5)
        self.order = Order()
        self.data = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        self._without, self._lossy = without, lossy

    def step(self) -> None:
        self.optimizer.zero_grad()
        batch = self.data[self.order.draw()]
        self.model(batch).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        saved: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "order": (self.order.generator.getstate(), self.order.items),
            "random": torch.get_rng_state(),
        }
        if self._lossy:
            for held in saved["optimizer"]["state"].values():
                held["exp_avg"] = held["exp_avg"].bfloat16()
        return {name: part for name, part in saved.items() if name not in self._without}

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        for name in ("model", "optimizer", "scheduler"):
            if name in saved:
                getattr(self, name).load_state_dict(saved[name])
        if "order" in saved:
            state, self.order.items = saved["order"]
            self.order.generator.setstate(state)
        if "random" in saved:
            torch.set_rng_state(saved["random"])

    def tensors(self) -> dict[str, Any]:
        return {**self.model.state_dict(), "lr": self.optimizer.param_groups[0]["lr"]}


class Watched(Training):
    """As Training, with the optimizer's state among what is compared."""

    def tensors(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()["state"]
        return {**super().tensors(), "state": state}


class WarmUp(StepLR):
    """A schedule that holds another one, which it pickles whole, with its optimizer."""

    def __init__(self, optimizer: Any) -> None:
        self.after = StepLR(optimizer, step_size=1, gamma=0.5)
        super().__init__(optimizer, step_size=100)

    def step(self, epoch: int | None = None) -> None:
        self.after.step() if self.last_epoch > 0 else super().step(epoch)


class Miswired(Training):
    """Loads a schedule that goes on to drive the optimizer it was saved with."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = WarmUp(self.optimizer)


class Unequal(Training):
    """Changes one thing of the optimizer after loading it."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        super().load_state_dict(saved)
        held = self.optimizer.state[next(self.model.parameters())]
        match self.change:
            case "lr":
                self.optimizer.param_groups[0]["lr"] = 0.1
            case "step":
                held["step"] += 1
            case "rounded":
                held["exp_avg"] = held["exp_avg"].half().float()
            case "state":
                self.optimizer.state.clear()


class Naming(Training):
    """Names one thing of its own choice."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def tensors(self) -> dict[str, Any]:
        return {**super().tensors(), "value": self.value, "all": [self.model, self.optimizer]}


class Unseeded(Training):
    """Starts from whatever the process's generator is at."""

    def __init__(self) -> None:
        state = torch.get_rng_state()
        super().__init__()
        torch.set_rng_state(state)
        for param in self.model.parameters():
            nn.init.normal_(param)


class Unrepeatable(Training):
    """Counts on, from one run to the next."""

    drawn: Iterator[int] = iter(range(100))

    def step(self) -> None:
        super().step()
        with torch.no_grad():
            next(self.model.parameters()).add_(1e-3 * next(self.drawn))


class Idle(Training):
    """Never changes anything."""

    def step(self) -> None:
        pass


class Nameless(Training):
    """Names nothing to compare."""

    def tensors(self) -> dict[str, Tensor]:
        return {}


class Unloadable(Training):
    """Cannot read what it saves."""

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        raise KeyError("no such entry")
