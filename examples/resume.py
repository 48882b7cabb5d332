"""Kill a training run at any moment, start it again, and end in the same bits.

What decides how a run goes on is more than its network. The optimizer's state, the scheduler, the
gradient scaler, the order of the data with the place in it, and every generator of random numbers
belong to it: leave out one of them, and a resumed run ends in other numbers. `states.py` has those
parts that torch has no class for, `checkpoints.py` the way to the disk.

    python examples/resume.py

trains once without interruption, once in processes that are killed with SIGKILL at random moments,
and counts what differs at the end: nothing.

    python examples/resume.py --directory run

trains with checkpoints in the directory `run`, from the newest that is there. Kill it and start it
again as often as you like. `--optim`, `--steps`, `--every` and `--keep` may change from one start
to the next: torch.optim goes on where optimlab stopped, and the reverse. Any other option would
make another run of it, and is refused. The same bits are those of one machine and one release of
torch. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from checkpoints import Checkpoints, newest_first, opened, read
from common import Result, conclude, not_negative, positive
from states import Order, RandomState, Stateful
from torch import Tensor, nn

from optimlab.demo.digits import read_digits
from optimlab.demo.training import reproducible
from optimlab.lab.compare.diff import Diff, path_name

LINES = 5
LONGEST_WAIT = 0.02  # seconds; a few steps and checkpoints

say = partial(print, flush=True)  # a process that is killed would take its last lines along


class Options(common.Options):
    """The options of this example.

    Attributes:
        lr: learning rate to begin with.
        directory: where the checkpoints are; ``None`` for the demonstration.
        every: number of steps from one checkpoint to the next.
        keep: number of checkpoints that stay.
        kills: how many processes of the demonstration are killed.
    """

    lr: float
    directory: Path | None
    every: int
    keep: int
    kills: int


class OtherRunError(ValueError):
    """The checkpoint is one of a run with other settings."""


@dataclass(frozen=True)
class Settings:
    """Those options that make one run differ from another."""

    seed: int
    lr: float
    device: str


class Run:
    """One training run: a small network with dropout learns handwritten digits.

    Args:
        settings: which run it is.
        library: where the optimizer comes from, ``optimlab`` or ``torch.optim``.

    Attributes:
        parts: all that decides how the run goes on.
        step: how many steps it has taken.
        loss: of the last step.
    """

    def __init__(self, settings: Settings, library: Any) -> None:
        self.settings, self.device = settings, torch.device(settings.device)
        generators = RandomState(settings.seed, self.device)
        self.digits = read_digits()
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)
        ).to(self.device)
        self.optimizer = library.Adam(self.model.parameters(), lr=settings.lr)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self.optimizer, 200)
        # The scale grows until float16 overflows, and that step is then left out: which ones are,
        # the scaler's state decides.
        self.scaler = torch.amp.GradScaler(settings.device, init_scale=2.0**13, growth_interval=20)
        self.order = Order(len(self.digits.train_images), settings.seed)
        self.parts: dict[str, Stateful] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "order": self.order,
            "random": generators,
        }
        self.step, self.loss = 0, float("nan")

    def train_step(self) -> None:
        """Train on the next batch."""
        chosen = self.order.draw(64)
        images = disturbed(self.digits.train_images[chosen]).to(self.device)
        labels = self.digits.train_labels[chosen].to(self.device)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.float16):
            logits = self.model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.step, self.loss = self.step + 1, loss.item()

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return {
            "settings": asdict(self.settings),
            "step": self.step,
            "loss": self.loss,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, whichever library wrote it.

        Raises:
            OtherRunError: it is one of a run with other settings.
        """
        ours, theirs = asdict(self.settings), saved["settings"]
        different = [f"--{name} {theirs[name]}" for name in ours if ours[name] != theirs[name]]
        if different:
            raise OtherRunError(f"there are checkpoints of a run with {', '.join(different)}")
        for name, part in self.parts.items():
            part.load_state_dict(saved["parts"][name])
        self.step, self.loss = saved["step"], saved["loss"]


def disturbed(images: Tensor) -> Tensor:
    """Move all images of a batch by the same pixel or none, and add noise."""
    shifts = random.randint(-1, 1), random.randint(-1, 1)
    noise = np.random.normal(scale=0.2, size=images.shape)  # noqa: NPY002 - see RandomState
    return images.roll(shifts, dims=(2, 3)) + torch.from_numpy(noise).float()


def train(run: Run, checkpoints: Checkpoints, steps: int, every: int) -> None:
    """Train on from the newest checkpoint; save one every so many steps, and at the end."""
    saved = checkpoints.load()
    if saved is not None:
        run.load_state_dict(saved)
    if run.step > steps:
        raise OtherRunError(f"there is a checkpoint of step {run.step}, beyond --steps {steps}")
    while run.step < steps:
        run.train_step()
        at_end = run.step == steps
        if at_end or run.step % every == 0:
            checkpoints.save(run.step, run.state_dict())
        if at_end or run.step % -(-steps // LINES) == 0:
            say(f"step {run.step:5}  loss {run.loss:.4f}")


def train_in(directory: Path, options: Options) -> Result:
    """Train with checkpoints in a directory; return the last of them.

    Raises:
        OtherRunError: there are checkpoints in it that this run cannot go on from.
        BlockingIOError: another process is training there.
    """
    # The files of this example are its checkpoints.
    library = common.start(Options(**{**vars(options), "out": directory}))
    settings = Settings(options.seed, options.lr, options.device.type)
    with opened(directory, options.keep) as checkpoints, reproducible():
        train(Run(settings, library), checkpoints, options.steps, options.every)
        return read(newest_first(directory)[0])


def train_killed(
    directory: Path, options: Options, context: ForkContext | SpawnContext
) -> list[int | None]:
    """Train in processes that are killed at random moments, and then in one that is not.

    Args:
        directory: where the checkpoints are.
        options: how to train, and how many processes to kill.
        context: how a process is started.

    Returns:
        The exit codes of all processes: -9 for those that were killed, 0 for those that ended
        before they could be.
    """
    chance = random.Random(options.seed)
    moments = sorted(chance.choices(range(max(1, options.steps * 4 // 5)), k=options.kills))
    codes = []
    for moment in [*moments, options.steps]:
        process = context.Process(target=train_in, args=(directory, options))
        process.start()
        while process.is_alive() and newest_step(directory) < moment:
            time.sleep(0.001)
        if moment < options.steps:
            time.sleep(chance.uniform(0, LONGEST_WAIT))
            process.kill()
        process.join()
        if process.exitcode:
            say(f"killed; on the disk is step {newest_step(directory)}")
        codes.append(process.exitcode)
    return codes


def newest_step(directory: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    return next((int(path.stem.removeprefix("step-")) for path in newest_first(directory)), 0)


def demonstrate(directory: Path, options: Options) -> Result:
    """Train without and with interruptions and compare the last checkpoints bit by bit."""
    say("without interruption")
    straight = train_in(directory / "straight", options)
    say("\nkilled and started again")
    codes = train_killed(directory / "killed", options, multiprocessing.get_context("spawn"))
    if codes.pop() or set(codes) - {0, -signal.SIGKILL}:
        raise RuntimeError(f"a process could not go on: {codes}")
    resumed = read(newest_first(directory / "killed")[0])
    comparison = Diff()
    found = comparison.differences(resumed, straight)
    for place, mismatch in found:
        say(f"{path_name(place)}: {mismatch}")
    compared = comparison.tensors + comparison.values
    return conclude(
        {"last checkpoint": straight, "differences": len(found)},
        f"after {codes.count(-signal.SIGKILL)} SIGKILLs {len(found)} of {compared} "
        "tensors and values in the last checkpoint differ.",
    )


def run(options: Options) -> Result:
    """Train in the directory given, or demonstrate what happens to killed processes."""
    if options.directory is None:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.out) as directory:
            return demonstrate(Path(directory), options)
    saved = train_in(options.directory, options)
    shown = f"{options.directory} holds all that decides how the run would go on."
    return conclude({"last checkpoint": saved, "differences": 0}, shown)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    built = common.parser(__doc__, steps=1500)
    add = built.add_argument
    add("--lr", type=float, default=0.01, help="learning rate to begin with, default: 0.01")
    add("--directory", type=Path, metavar="DIR", help="train with checkpoints in this directory")
    add("--every", type=positive, default=10, metavar="STEPS", help="per checkpoint, default: 10")
    add("--keep", type=positive, default=3, help="number of checkpoints that stay, default: 3")
    add(
        "--kills",
        type=not_negative,
        default=3,
        help="processes to kill without --directory, default: 3",
    )
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example; return 1 if bits differ."""
    built = parser()
    options = built.parse_args(arguments, Options())
    try:
        return int(run(options)["differences"] > 0)
    except OtherRunError as error:
        built.error(f"{error}; give the same options, or another --directory")
    except BlockingIOError:
        built.error(f"another process is training in {options.directory}")


if __name__ == "__main__":
    sys.exit(main())
