"""Gathering what came of many cases: a cell for each implementation in each dtype, and totals."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from optimlab.lab.compare.bits import Distance, percent
from optimlab.lab.compare.diff import Compared
from optimlab.lab.lockstep.outcome import Difference, EqualError, Outcome
from optimlab.lab.parity.cases import Case, excluded
from optimlab.lab.parity.table import DTYPES, EXCLUSIONS, TABLE, Exclusion
from optimlab.version import __version__

CellKey: TypeAlias = tuple[str, str, str]


@dataclass
class Cell:
    """The cases of one optimizer, implementation and dtype.

    Attributes:
        same: cases that stepped to the end with the same bits.
        raised: cases in which both sides raised the same error.
        different: cases with a difference.
        distance: how far apart the parameters of the different cases ended, together.
    """

    same: int = 0
    raised: int = 0
    different: int = 0
    distance: Distance = field(default_factory=lambda: Distance(0, 0))

    def add(self, outcome: Outcome) -> None:
        """Count one case."""
        if isinstance(outcome, Difference):
            self.different += 1
            self.distance += outcome.final or Distance(0, 0)
        elif isinstance(outcome, EqualError):
            self.raised += 1
        else:
            self.same += 1

    def __str__(self) -> str:
        if self.different:
            lines = [f"{self.different} differ"]
            if self.same:
                lines.append(f"same {self.same}")
            if self.distance.differing:
                lines.append(percent(self.distance.share))
            if self.distance.max_ulps is not None:
                lines.append(f"{float(self.distance.max_ulps):.2g} ulp")
            return "\n".join(lines)
        return f"same {self.same}" if self.same else "raises" if self.raised else ""


@dataclass
class Report:
    """Everything there is to tell about a run over the table.

    Attributes:
        device: where it ran.
        cells: the matrix.
        differences: all cases with a difference.
        stepped: cases that made at least one step.
        cases: all cases.
        compared: how much was compared.
    """

    device: str
    cells: dict[CellKey, Cell] = field(default_factory=dict)
    differences: list[tuple[Case, Difference]] = field(default_factory=list)
    stepped: int = 0
    cases: int = 0
    compared: Compared = field(default_factory=Compared)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Take in one case."""
        key = (case.row.name, case.implementation, case.dtype)
        self.cells.setdefault(key, Cell()).add(outcome)
        if isinstance(outcome, Difference):
            self.differences.append((case, outcome))
        self.stepped += outcome.compared.steps > 0
        self.cases += 1
        self.compared += outcome.compared

    @property
    def equal(self) -> bool:
        """Whether anything was compared, and nothing differs."""
        return self.stepped > 0 and not self.differences

    @property
    def raised(self) -> int:
        """How many cases agree in an error."""
        return sum(cell.raised for cell in self.cells.values())

    @property
    def rows(self) -> list[tuple[str, str, list[str]]]:
        """The matrix: optimizer, implementation, and a text for each dtype."""
        names = {(optimizer, implementation) for optimizer, implementation, _ in self.cells}
        return [
            (row.name, implementation, [self._text(row.name, implementation, d) for d in DTYPES])
            for row in TABLE
            for implementation in row.implementations
            if (row.name, implementation) in names
        ]

    @property
    def exclusions(self) -> list[Exclusion]:
        """What was left out on this device with this torch."""
        return [each for each in EXCLUSIONS if each.applies and each.device == self.device]

    @property
    def alike(self) -> list[tuple[Difference, list[Case]]]:
        """The differences, each with all cases that it was found in word for word."""
        cases: dict[str, list[Case]] = {}
        for case, difference in self.differences:
            cases.setdefault(str(difference), []).append(case)
        first = {str(difference): difference for _, difference in reversed(self.differences)}
        return [(first[text], found_in) for text, found_in in cases.items()]

    def totals(self) -> str:
        """Say in a few lines how much was compared and what came of it."""
        done = self.compared
        return (
            f"{self.cases:,} cases: {self.stepped:,} stepped, {len(self.differences):,} differ, "
            f"in {self.raised:,} both sides raised the same error.\n"
            f"{done.steps:,} steps, {done.tensors:,} tensors with {done.elements:,} elements and "
            f"{done.values:,} other values compared."
        )

    def as_json(self, **about: Any) -> dict[str, Any]:
        """Return the report as a value that the json module can write.

        Args:
            about: further entries: how the run was asked for, how long it took.
        """
        return {
            **environment(self.device),
            **about,
            "equal": self.equal,
            "cases": self.cases,
            "stepped": self.stepped,
            "raised": self.raised,
            "compared": vars(self.compared),
            "cells": [
                dict(zip(("optimizer", "implementation", "dtype"), key, strict=True))
                | {"same": cell.same, "raised": cell.raised, "different": cell.different}
                | {"share": cell.distance.share, "max_ulps": cell.distance.max_ulps}
                for key, cell in self.cells.items()
            ],
            "differences": [_difference(case, each) for case, each in self.differences],
            "excluded": [str(exclusion) for exclusion in self.exclusions],
        }

    def _text(self, optimizer: str, implementation: str, dtype: str) -> str:
        if excluded(optimizer, implementation, dtype, self.device):
            return "excluded"
        return str(self.cells.get((optimizer, implementation, dtype), ""))


def environment(device: str) -> Mapping[str, Any]:
    """Name all that the bits depend on: releases, device, instruction set, threads."""
    on_cuda = device == "cuda"
    return {
        "optimlab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if on_cuda else f"cpu ({platform.machine()})",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _difference(case: Case, found: Difference) -> dict[str, Any]:
    return {
        "case": str(case),
        "step": found.step,
        "during": found.during,
        "where": found.where,
        "what": found.mismatch.what,
        "element": found.mismatch.element,
        "ours": str(found.mismatch.ours),
        "theirs": str(found.mismatch.theirs),
        "ulps": found.mismatch.ulps,
        "text": str(found),
    }
