"""What was measured, as values and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optimlab.bench.bits import Comparison
from optimlab.bench.implementations import IMPLEMENTATIONS, OURS
from optimlab.bench.limit import Limit, traffic_of
from optimlab.bench.memory import Extra
from optimlab.bench.rules import RULES, Rule
from optimlab.bench.surroundings import Load
from optimlab.bench.timing import Timing
from optimlab.bench.workloads import Workload


@dataclass(frozen=True)
class Outcome:
    """What was measured of one rule on one workload.

    Attributes:
        workload: the tensors.
        rule_name: key of ``RULES``.
        device: ``"cpu"`` or ``"cuda"``.
        steps: how many steps each implementation made, timed or not.
        timings: of each implementation.
        missing: why others were not measured.
        limit: the time that the memory needs.
        comparisons: how far each implementation's bits are from those of torch's default.
        phases: where the time of optimlab's step goes, see :func:`optimlab.bench.phases.phases`.
    """

    workload: Workload
    rule_name: str
    device: str
    steps: int
    timings: Mapping[str, Timing]
    missing: Mapping[str, str]
    limit: Limit
    comparisons: Mapping[str, Comparison]
    phases: Mapping[str, float] = field(default_factory=dict)

    @property
    def rule(self) -> Rule:
        """The rule."""
        return RULES[self.rule_name]

    @property
    def times_ours(self) -> dict[str, float]:
        """How many times as long as optimlab each implementation takes, by the medians."""
        ours = self.timings[OURS].median
        return {name: timing.median / ours for name, timing in self.timings.items()}

    @property
    def share_of_limit(self) -> float:
        """The limit's time as a share of optimlab's: 1 is as fast as the memory."""
        return self.limit.seconds / self.timings[OURS].median

    @property
    def differing(self) -> int:
        """How many elements of optimlab differ from torch's default."""
        return self.comparisons[OURS].differing


@dataclass(frozen=True)
class Memory:
    """The memory of a step beyond its tensors, by implementation."""

    workload: Workload
    rule_name: str
    extra: Mapping[str, Extra]


@dataclass
class Results:
    """Everything that was measured.

    Attributes:
        settings: how it was asked for.
        environment: where and when.
        outcomes: rules on workloads.
        scaling: for each series, such as ``"tensors"``, outcomes in ascending order.
        memory: peak memory.
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
    def names(self) -> list[str]:
        """The implementations that were measured at least once."""
        return measured(self.all_outcomes)

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """How far the bits of each implementation are from torch's default, over all outcomes."""
        totals: dict[str, Comparison] = {}
        for outcome in self.all_outcomes:
            for name, comparison in outcome.comparisons.items():
                totals[name] = totals.get(name, Comparison()) + comparison
        return {name: totals[name] for name in IMPLEMENTATIONS if name in totals}

    @property
    def same_bits(self) -> bool:
        """Whether optimlab was compared and no element differs from torch's default."""
        total = self.comparisons.get(OURS, Comparison())
        return total.elements > 0 and total.differing == 0

    def as_json(self) -> dict[str, Any]:
        """Lay everything out; times are in seconds."""
        return {
            "same_bits": self.same_bits,
            "settings": self.settings,
            "environment": self.environment,
            "load": asdict(self.load),
            "bits": {name: asdict(each) for name, each in self.comparisons.items()},
            "outcomes": [as_json(outcome) for outcome in self.outcomes],
            "scaling": {name: [as_json(o) for o in each] for name, each in self.scaling.items()},
            "memory": [memory_as_json(memory) for memory in self.memory],
            "remarks": self.remarks,
        }


def measured(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the implementations that at least one of the outcomes has measured, in their order."""
    found = {name for outcome in outcomes for name in outcome.timings}
    return [name for name in IMPLEMENTATIONS if name in found]


def by_workload(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Gather the outcomes of each workload, under its description."""
    gathered: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        gathered.setdefault(str(outcome.workload), []).append(outcome)
    return gathered


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    """Say which implementations were not measured and why, each reason once."""
    found = {
        f"{name}: {reason}": None for each in outcomes for name, reason in each.missing.items()
    }
    return list(found)


def write_json(path: Path, results: Results) -> None:
    """Write everything that was measured."""
    text = json.dumps(results.as_json(), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Lay out what was measured of one rule on one workload."""
    return {
        **about(outcome.workload, outcome.rule_name),
        "steps": outcome.steps,
        "seconds": {name: asdict(timing) for name, timing in outcome.timings.items()},
        "missing": dict(outcome.missing),
        "limit": {
            **asdict(outcome.limit),
            "bytes_per_element": traffic_of(outcome.rule).bytes(),
            "bytes_per_second": outcome.limit.bandwidth,
        },
        "times_optimlab": outcome.times_ours,
        "share_of_limit": outcome.share_of_limit,
        "phases": dict(outcome.phases),
        "bits": {name: asdict(each) for name, each in outcome.comparisons.items()},
    }


def memory_as_json(memory: Memory) -> dict[str, Any]:
    """Lay out the memory of one rule on one workload, in bytes."""
    extra = {name: asdict(extra) for name, extra in memory.extra.items()}
    return {**about(memory.workload, memory.rule_name), "extra_bytes": extra}


def about(workload: Workload, rule_name: str) -> dict[str, Any]:
    """Lay out what an entry is about."""
    return {
        "workload": workload.title,
        "tensors": len(workload.shapes),
        "elements": workload.elements,
        "rule": rule_name,
        "optimizer": str(RULES[rule_name]),
    }
