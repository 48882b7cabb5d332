"""What a run over the table answers: the matrix, and all that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeAlias

from optimlab.lab.compare.bits import Distance, percent
from optimlab.lab.lockstep.outcome import Difference, Equal, EqualError
from optimlab.lab.parity.case_result import CaseResult, Progress, environment, grouped, total
from optimlab.lab.parity.cases import Case
from optimlab.lab.parity.report import amount
from optimlab.lab.parity.table import DTYPES, EXCLUSIONS, TABLE, Exclusion, excluded

CellKey: TypeAlias = tuple[str, str, str]


def check_table(
    cases: Sequence[Case], device: str = "cpu", progress: Progress | None = None
) -> TableResult:
    """Compare in some cases of the table; progress is told, too, how many differ so far."""
    results: list[CaseResult] = []
    differ = 0
    for done, case in enumerate(cases):
        if progress is not None:
            doing = f"{case.row.name} {case.implementation} {case.dtype}"
            progress(done, len(cases), f"{differ} differ  {doing}")
        results.append(CaseResult(case, case.run()))
        differ += isinstance(results[-1].outcome, Difference)
    return TableResult(device, tuple(results))


@dataclass(frozen=True)
class Cell:
    """What came of the cases of one optimizer, implementation and dtype."""

    same: int
    raised: int  # the same error, on both sides
    different: int
    share: float  # of the elements of their parameters that end different
    max_ulps: int | None

    @classmethod
    def of(cls, results: Sequence[CaseResult]) -> Cell:
        """Count what came of some cases."""
        outcomes = [each.outcome for each in results]
        differ = [each for each in outcomes if isinstance(each, Difference)]
        distance = sum((each.final for each in differ if each.final), Distance(0, 0))
        return cls(
            same=sum(isinstance(each, Equal) for each in outcomes),
            raised=sum(isinstance(each, EqualError) for each in outcomes),
            different=len(differ),
            share=distance.share,
            max_ulps=distance.max_ulps,
        )

    def __str__(self) -> str:
        if not self.different:
            return f"same {self.same}" if self.same else "raises" if self.raised else ""
        lines = [f"{self.different} differ"]
        lines += [f"same {self.same}"] * bool(self.same)
        lines += [percent(self.share)] * bool(self.share)
        lines += [f"{float(self.max_ulps):.2g} ulp"] if self.max_ulps is not None else []
        return "\n".join(lines)


@dataclass(frozen=True)
class TableResult:
    """Everything there is to tell about a run over the table."""

    device: str
    results: tuple[CaseResult, ...]

    @cached_property
    def cells(self) -> Mapping[CellKey, Cell]:
        """The matrix: optimizer, implementation and dtype, with what came of their cases."""
        return {key: Cell.of(found) for key, found in grouped(self.results, _cell_key).items()}

    @property
    def differences(self) -> Sequence[CaseResult]:
        """All cases with a difference."""
        return [each for each in self.results if isinstance(each.outcome, Difference)]

    @property
    def stepped(self) -> int:
        """How many cases made at least one step."""
        return sum(
            each.outcome is not None and each.outcome.compared.steps > 0 for each in self.results
        )

    @property
    def raised(self) -> int:
        """How many cases agree in an error."""
        return sum(cell.raised for cell in self.cells.values())

    @property
    def equal(self) -> bool:
        """Whether anything was compared, and nothing differs."""
        return self.stepped > 0 and not self.differences

    @property
    def rows(self) -> list[tuple[str, str, list[str]]]:
        """The matrix in words: optimizer, implementation, and a text for each dtype."""
        return [
            (row.name, way, [self._text(row.name, way, dtype) for dtype in DTYPES])
            for row in TABLE
            for way in row.implementations
            if any(cell[:2] == (row.name, way) for cell in self.cells)
        ]

    @property
    def exclusions(self) -> list[Exclusion]:
        """What was left out on this device with this torch."""
        return [each for each in EXCLUSIONS if each.applies and each.device == self.device]

    @property
    def alike(self) -> list[list[CaseResult]]:
        """The differences, those together that are the same word for word."""
        return [*grouped(self.differences, lambda each: str(each.outcome)).values()]

    def totals(self) -> str:
        """Say in a few lines how much was compared and what came of it."""
        return (
            f"{len(self.results):,} cases: {self.stepped:,} stepped, "
            f"{len(self.differences):,} differ, "
            f"in {self.raised:,} both sides raised the same error.\n{amount(self.results)}"
        )

    def as_json(self, **about: Any) -> dict[str, Any]:
        """Return everything, and what there is to add, as the json module can write it."""
        names = ("optimizer", "implementation", "dtype")
        return {
            **environment(self.device),
            **about,
            "equal": self.equal,
            "cases": len(self.results),
            "stepped": self.stepped,
            "raised": self.raised,
            "compared": asdict(total(self.results)),
            "cells": [
                dict(zip(names, key, strict=True)) | asdict(cell)
                for key, cell in self.cells.items()
            ],
            "differences": [_difference_as_json(each) for each in self.differences],
            "excluded": [str(exclusion) for exclusion in self.exclusions],
        }

    def _text(self, optimizer: str, implementation: str, dtype: str) -> str:
        if excluded(optimizer, implementation, dtype, self.device):
            return "excluded"
        return str(self.cells.get((optimizer, implementation, dtype), ""))


def _cell_key(result: CaseResult) -> CellKey:
    case = result.configuration
    assert isinstance(case, Case)
    return case.row.name, case.implementation, case.dtype


def _difference_as_json(result: CaseResult) -> dict[str, Any]:
    found = result.outcome
    assert isinstance(found, Difference)
    return {
        "case": str(result.configuration),
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
