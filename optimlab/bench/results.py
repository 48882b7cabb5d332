"""What was measured, as values whose fields are the keys of the JSON; times are in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from optimlab.bench.implementations import IMPLEMENTATIONS, OURS
from optimlab.bench.limit import Limit
from optimlab.bench.memory import Extra
from optimlab.bench.rules import RULES
from optimlab.bench.surroundings import Load
from optimlab.bench.timing import Timing
from optimlab.bench.workloads import Workload, described
from optimlab.lab.compare.bits import named_distances
from optimlab.lab.report import as_json

_NAMED = 3


@dataclass(frozen=True)
class Bits:
    """How many elements of parameters and state differ, and in which tensors: the first few."""

    elements: int = 0
    differing: int = 0
    where: tuple[str, ...] = ()

    @classmethod
    def compare(cls, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Bits:
        """Compare two sets of named tensors as integers."""
        distances = named_distances(ours, theirs, ulps=False)
        each = (
            cls(found.elements, found.differing, (name,) if found.differing else ())
            for name, found in distances.items()
        )
        return sum(each, cls())

    def __add__(self, other: Bits) -> Bits:
        """Return what is known of both sets of elements taken as one."""
        where = (self.where + other.where)[:_NAMED]
        return Bits(self.elements + other.elements, self.differing + other.differing, where)


@dataclass(frozen=True)
class Subject:
    """What was measured: a rule, by its key and in full, on a workload."""

    workload: str
    tensors: int
    elements: int
    rule: str
    optimizer: str

    @property
    def title(self) -> str:
        """The rule, as tables call it."""
        return RULES[self.rule].title

    @property
    def described(self) -> str:
        """The workload with its size."""
        return described(self.workload, self.tensors, self.elements)


def about(workload: Workload, rule: str) -> dict[str, Any]:
    """Return the fields of a :class:`Subject`."""
    size = {"tensors": len(workload.shapes), "elements": workload.elements}
    return {"workload": workload.title, **size, "rule": rule, "optimizer": str(RULES[rule])}


@dataclass(frozen=True)
class Outcome(Subject):
    """What was measured of one rule on one workload, by implementation.

    Attributes:
        steps: how many steps each implementation made, timed or not.
        missing: why others were not measured.
        phases: where the time of optimlab's step goes, see :func:`optimlab.bench.phases.phases`.
        bits: how far they are from those of torch's default.
        times_optimlab: how many times as long as optimlab each takes, by the medians.
        share_of_limit: the limit's time as a share of optimlab's: 1 is as fast as the memory.
    """

    steps: int
    seconds: Mapping[str, Timing]
    missing: Mapping[str, str]
    limit: Limit
    phases: Mapping[str, float]
    bits: Mapping[str, Bits]
    times_optimlab: Mapping[str, float]
    share_of_limit: float


@dataclass(frozen=True)
class Memory(Subject):
    """The memory of a step beyond its tensors, by implementation."""

    extra_bytes: Mapping[str, Extra]


@dataclass
class Results:
    """Everything that was measured.

    Attributes:
        scaling: for each series, such as ``"tensors"``, outcomes in ascending order.
        remarks: what could not be measured, and why.
        load: what else ran meanwhile; known at the end.
    """

    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    scaling: dict[str, list[Outcome]] = field(default_factory=dict)
    memory: list[Memory] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    load: Load = field(default_factory=lambda: Load(None, None))

    @property
    def all_outcomes(self) -> Iterator[Outcome]:
        """The outcomes on workloads, then those of the series."""
        yield from self.outcomes
        for series in self.scaling.values():
            yield from series

    @property
    def bits(self) -> dict[str, Bits]:
        """How far the bits of each implementation are from torch's default, over all outcomes."""
        every = [outcome.bits for outcome in self.all_outcomes]
        return {
            name: sum((bits[name] for bits in every if name in bits), Bits())
            for name in measured(self.all_outcomes)
        }

    @property
    def same_bits(self) -> bool:
        """Whether optimlab was compared and no element differs from torch's default."""
        total = self.bits.get(OURS, Bits())
        return total.elements > 0 and total.differing == 0

    def as_json(self) -> dict[str, Any]:
        """Return everything as a value that the json module can write."""
        return {"same_bits": self.same_bits, "bits": as_json(self.bits), **as_json(self)}

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        text = json.dumps(self.as_json(), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def measured(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the implementations that at least one of the outcomes has measured, in their order."""
    found = {name for outcome in outcomes for name in outcome.seconds}
    return [name for name in IMPLEMENTATIONS if name in found]


def by_workload(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Gather the outcomes of each workload, under its description."""
    groups = groupby(outcomes, lambda outcome: outcome.described)
    return {described: list(group) for described, group in groups}


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    """Say which implementations were not measured and why, each reason once."""
    missing = (item for outcome in outcomes for item in outcome.missing.items())
    return list(dict.fromkeys(f"{name}: {reason}" for name, reason in missing))
