"""What an experiment is made on, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from optimlab.lab.explain.divergence import Divergence, Steps, digest
from optimlab.lab.record.writing import Value


@dataclass(frozen=True)
class Cause:
    """What makes the difference.

    Attributes:
        kind: the class of cause, such as ``"FMA"``; ``"unknown"`` where no experiment told it.
        text: what differs, in a sentence.
        evidence: which experiment shows it.
    """

    kind: str
    text: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}\n  shown by: {self.evidence}"


@dataclass(frozen=True)
class Case:
    """What the experiments are made on.

    Attributes:
        divergence: the operations at which the steps part.
        ours: our step.
        theirs: the other.
        names: what the two sides are called.
    """

    divergence: Divergence
    ours: Steps
    theirs: Steps
    names: tuple[str, str]


def is_result(tensor: Tensor, value: Value | None) -> bool:
    """Tell whether a tensor has the bits of a recorded value."""
    return value is not None and digest(tensor) == digest(value.kept)
