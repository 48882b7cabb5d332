"""What the demo found, as values whose fields are the keys of the JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from optimlab.demo.libraries import LibraryName
from optimlab.demo.recipes import RECIPES, Recipe, Settings
from optimlab.lab.compare.bits import named_distances
from optimlab.lab.report import as_json
from optimlab.version import __version__

PACKAGES = ("torch", "numpy", "scikit-learn", "matplotlib", "rich")

# (library that wrote the checkpoint, library that goes on from it)
PAIRS: tuple[tuple[LibraryName, LibraryName], ...] = (
    ("optimlab", "optimlab"),
    ("torch", "optimlab"),
    ("optimlab", "torch"),
)
# What the entries of Outcome.counts are.
COMPARISONS = (
    "in lock step, over all steps",
    *(f"{saver}'s checkpoint, resumed with {resumer}" for saver, resumer in PAIRS),
)


@dataclass(frozen=True)
class Count:
    """How many elements were compared, and how many of them differ in their bits."""

    elements_compared: int
    elements_differing: int

    @classmethod
    def of(cls, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Count:
        """Compare two sets of named tensors; a tensor of one side alone differs everywhere."""
        found = named_distances(ours, theirs, ulps=False).values()
        return cls(sum(each.elements for each in found), sum(each.differing for each in found))

    @classmethod
    def total(cls, counts: Sequence[Count]) -> Count:
        """Add counts up."""
        compared = sum(each.elements_compared for each in counts)
        return cls(compared, sum(each.elements_differing for each in counts))

    def __str__(self) -> str:
        return f"{self.elements_differing:,} of {self.elements_compared:,}"


@dataclass(frozen=True)
class Epoch(Count):
    """One epoch of the lock step: its number, mean training loss and test accuracy."""

    epoch: int
    training_loss: Mapping[LibraryName, float]
    test_accuracy: Mapping[LibraryName, float]


@dataclass(frozen=True)
class Resumption(Count):
    """A run that was carried on in another process, beside the uninterrupted run of its library."""

    saved_by: LibraryName
    resumed_by: LibraryName
    process: int
    losses: Sequence[float] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """All that was found with one recipe; ``lock_step`` counts all steps of uninterrupted runs."""

    settings: Settings = field(repr=False)
    optimizer: str
    steps: int
    interrupted_after_step: int
    first_differing_step: int | None
    lock_step: Count
    resumed: Sequence[Resumption]
    epochs: Sequence[Epoch]

    @property
    def recipe(self) -> Recipe:
        """The optimizer and its arguments."""
        return RECIPES[self.settings.recipe]

    @property
    def counts(self) -> list[Count]:
        """What was compared in the lock step, then at the end of each resumption."""
        return [self.lock_step, *self.resumed]


@dataclass(frozen=True)
class Results:
    """All that was found, optimizer by optimizer."""

    outcomes: Sequence[Outcome]

    @property
    def total(self) -> Count:
        """All elements compared with all optimizers, in the lock step and after resuming."""
        return Count.total([count for outcome in self.outcomes for count in outcome.counts])

    @property
    def same_bits(self) -> bool:
        """Whether no bit differed."""
        return self.total.elements_differing == 0

    def as_json(self) -> dict[str, Any]:
        """Return everything but the tensors as a value that the json module can write."""
        settings = as_json(self.outcomes[0].settings)
        del settings["recipe"]
        return {
            "same_bits": self.same_bits,
            **as_json(self.total),
            "versions": versions(),
            "device": device_name(settings["device"]),
            "process": os.getpid(),
            "settings": settings,
            "optimizers": {each.settings.recipe: as_json(each) for each in self.outcomes},
        }


def versions() -> dict[str, str]:
    """Return the versions of all that the bits and the figure depend on."""
    python = {"python": platform.python_version(), "optimlab": __version__}
    return python | {package: version(package) for package in PACKAGES}


def device_name(device: str) -> str:
    """Name the hardware as far as it decides on the bits: the GPU, or the CPU's capability."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"
