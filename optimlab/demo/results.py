"""What the demo found, as values and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from optimlab.demo.recipes import RECIPES, Recipe, Settings
from optimlab.demo.resume import PAIRS, Resumption
from optimlab.demo.training import Epoch, LockStep
from optimlab.lab.compare.bits import Distance
from optimlab.version import __version__

PACKAGES = ("torch", "numpy", "scikit-learn", "matplotlib", "rich")
NOTHING = Distance(elements=0, differing=0)

# What the entries of Outcome.distances are.
COMPARISONS = (
    "in lock step, over all steps",
    *(f"{saver}'s checkpoint, resumed with {resumer}" for saver, resumer in PAIRS),
)


@dataclass(frozen=True)
class Outcome:
    """All that was found with one recipe.

    Attributes:
        settings: What was trained and how long.
        steps: Number of steps of the whole training.
        interrupted_after: Number of steps before the checkpoint.
        epochs: Loss, accuracy and differences, epoch by epoch.
        first_difference: Number of the first step after which a bit differed, or ``None``.
        resumptions: What became of the interrupted runs.
    """

    settings: Settings
    steps: int
    interrupted_after: int
    epochs: Sequence[Epoch]
    first_difference: int | None
    resumptions: Sequence[Resumption]

    @classmethod
    def collect(
        cls, lock_step: LockStep, epochs: Sequence[Epoch], resumptions: Sequence[Resumption]
    ) -> Outcome:
        """Sum up a lock step that has been trained to its end."""
        return cls(
            settings=lock_step.settings,
            steps=lock_step.steps,
            interrupted_after=lock_step.half,
            epochs=epochs,
            first_difference=lock_step.first_difference,
            resumptions=resumptions,
        )

    @property
    def recipe(self) -> Recipe:
        """The optimizer and its arguments."""
        return RECIPES[self.settings.recipe]

    @property
    def lock_step(self) -> Distance:
        """All elements compared after all steps of the uninterrupted runs."""
        return sum((epoch.distance for epoch in self.epochs), NOTHING)

    @property
    def distances(self) -> list[Distance]:
        """What was compared in the lock step, then at the end of each resumption."""
        return [self.lock_step, *(end.distance for end in self.resumptions)]

    @property
    def distance(self) -> Distance:
        """All elements compared, in the lock step and after resuming."""
        return sum(self.distances, NOTHING)


def overall(outcomes: Sequence[Outcome]) -> Distance:
    """Return all elements compared with all optimizers."""
    return sum((outcome.distance for outcome in outcomes), NOTHING)


def versions() -> dict[str, str]:
    """Return the versions of all that the bits and the figure depend on."""
    python = {"python": platform.python_version(), "optimlab": __version__}
    return python | {package: version(package) for package in PACKAGES}


def device_name(device: str) -> str:
    """Name the hardware as far as it decides on the bits: the GPU, or the CPU's capability."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"


def write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write everything but the tensors: versions, device, numbers of each epoch, differences."""
    settings, distance = outcomes[0].settings, overall(outcomes)
    content = {
        "same_bits": distance.differing == 0,
        **count(distance),
        "versions": versions(),
        "device": device_name(settings.device),
        "process": os.getpid(),
        "settings": {
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "device": settings.device,
        },
        "optimizers": {outcome.settings.recipe: as_json(outcome) for outcome in outcomes},
    }
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Lay out what was found with one recipe."""
    return {
        "optimizer": str(outcome.recipe),
        "steps": outcome.steps,
        "interrupted_after_step": outcome.interrupted_after,
        "first_differing_step": outcome.first_difference,
        "lock_step": count(outcome.lock_step),
        "resumed": [resumption_as_json(resumption) for resumption in outcome.resumptions],
        "epochs": [epoch_as_json(epoch) for epoch in outcome.epochs],
    }


def resumption_as_json(resumption: Resumption) -> dict[str, Any]:
    """Lay out how one interrupted run ended."""
    names = {"saved_by": resumption.saved_by, "resumed_by": resumption.resumed_by}
    return {**names, "process": resumption.process, **count(resumption.distance)}


def epoch_as_json(epoch: Epoch) -> dict[str, Any]:
    """Lay out the numbers of one epoch."""
    return {
        "epoch": epoch.number,
        "training_loss": {name: finite(loss) for name, loss in epoch.loss.items()},
        "test_accuracy": dict(epoch.accuracy),
        **count(epoch.distance),
    }


def count(distance: Distance) -> dict[str, int]:
    """Lay out how many elements were compared and how many differ."""
    return {"elements_compared": distance.elements, "elements_differing": distance.differing}


def finite(number: float) -> float | None:
    """Return the number, or ``None`` for what JSON has no spelling for."""
    return number if math.isfinite(number) else None
