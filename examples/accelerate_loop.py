"""Train with a loop of one's own under accelerate, and resume it in the middle of an epoch.

What one learns: accelerate wraps model, optimizer, data and scheduler, and leaves the loop as it
was. The wrapped optimizer steps only when enough gradients have been accumulated, the wrapped
scheduler only when the optimizer did. `save_state` writes all four and the generators of random
numbers; the place in the data is for the loop to find again, with `skip_first_batches`.

    python examples/accelerate_loop.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from common import Options, Result, conclude, parser, start
from runs import Make, ending, same_bits
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from optimlab.demo.digits import read_digits

BATCH_SIZE, ACCUMULATED = 48, 3


class Training:
    """A small network with dropout that learns handwritten digits.

    Args:
        make: makes the optimizer.
        steps: how many optimizer steps the schedule is for.
        seed: of the weights, of dropout and of the order of the images.
        cpu: whether to train on the CPU although there may be a GPU.

    Attributes:
        model: the network, without accelerate's wrapping.
        optimizer: the optimizer, likewise.
        batches: how many batches have been trained on.
        loss: of the last batch.
    """

    def __init__(self, make: Make, steps: int, seed: int, cpu: bool) -> None:
        self.accelerator = Accelerator(
            cpu=cpu,
            gradient_accumulation_steps=ACCUMULATED,
            # A sampler that knows the order of every epoch, so that any epoch can be resumed.
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=seed),
        )
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
        )
        self.optimizer = make(self.model.parameters())
        scheduler = CosineAnnealingLR(self.optimizer, T_max=steps)
        prepared = self.accelerator.prepare(self.model, self.optimizer, loader(seed), scheduler)
        self.wrapped, self.wrapped_optimizer, self.images, self.scheduler = prepared
        self.batches, self.loss = 0, float("nan")

    def train(self, steps: int) -> None:
        """Train until so many optimizer steps have been taken since the beginning."""
        for images, labels in self.coming(ACCUMULATED * steps):
            with self.accelerator.accumulate(self.wrapped):
                loss = nn.functional.cross_entropy(self.wrapped(images), labels)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.wrapped.parameters(), 0.5)
                self.wrapped_optimizer.step()
                self.scheduler.step()
                self.wrapped_optimizer.zero_grad()
            self.loss = loss.item()

    def coming(self, until: int) -> Iterator[Any]:
        """Yield the batches from where the training is, until it has seen so many."""
        while self.batches < until:
            epoch, seen = divmod(self.batches, len(self.images))
            self.images.set_epoch(epoch)
            for batch in self.accelerator.skip_first_batches(self.images, seen):
                self.batches += 1
                yield batch
                if self.batches == until:
                    return

    def save(self, folder: Path) -> None:
        """Save everything but the place in the data."""
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path, steps: int) -> None:
        """Go on from what was saved after so many steps."""
        self.accelerator.load_state(str(folder))
        self.batches = ACCUMULATED * steps


def loader(seed: int) -> DataLoader[Any]:
    """Load the digits in random order: 30 batches, a multiple of what is accumulated."""
    digits = read_digits()
    dataset = TensorDataset(digits.train_images, digits.train_labels)
    # A generator of its own: otherwise each epoch would begin with a draw from dropout's.
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, generator=generator)


def run(options: Options) -> Result:
    """Train without interruption, then again from what was saved half way."""
    optim = start(options)
    folder, half = options.out / "accelerate", options.steps // 2

    def training() -> Training:
        def make(params: Iterable[Tensor]) -> Optimizer:
            optimizer: Optimizer = optim.AdamW(params, lr=1e-2, amsgrad=True)
            return optimizer

        return Training(make, options.steps, options.seed, options.device.type == "cpu")

    whole = training()
    whole.train(half)
    whole.save(folder)
    print(f"step {half:4}  loss {whole.loss:.6f}  saved")
    whole.train(options.steps)
    print(f"step {options.steps:4}  loss {whole.loss:.6f}")

    resumed = training()
    resumed.load(folder, half)
    resumed.train(options.steps)
    print(f"step {options.steps:4}  loss {resumed.loss:.6f}  resumed from step {half}")

    result = ending(whole.model, whole.optimizer)
    same = same_bits(ending(resumed.model, resumed.optimizer), result)
    shown = f"under accelerate, the resumed run ends in {same}."
    return conclude({**result, "loss": whole.loss}, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=100).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
