"""The benchmark from beginning to end: time, measure memory, draw, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from optimlab.bench import memory
from optimlab.bench.document import write_markdown
from optimlab.bench.figure import draw, draw_scaling
from optimlab.bench.implementations import IMPLEMENTATIONS, Values
from optimlab.bench.measure import measure
from optimlab.bench.report import Report
from optimlab.bench.results import Memory, Results, write_json
from optimlab.bench.rules import RULES
from optimlab.bench.surroundings import LoadMeter, environment
from optimlab.bench.timing import Effort
from optimlab.bench.workloads import WORKLOADS, Workload, scaling

SCALED_RULE = "adam"


@dataclass(frozen=True)
class Settings:
    """What to measure and how.

    Attributes:
        rules: keys of ``RULES``.
        workloads: keys of ``WORKLOADS``.
        implementations: keys of ``IMPLEMENTATIONS``.
        effort: how long.
        threads: number of threads; ``None`` for as many as torch would take.
        scaling: whether to measure how the cost grows, too.
        quick: whether the series end at a tenth, and memory is measured once only.
        device: ``"cpu"`` or ``"cuda"``.
    """

    rules: tuple[str, ...]
    workloads: tuple[str, ...]
    implementations: tuple[str, ...]
    effort: Effort
    threads: int | None
    scaling: bool
    quick: bool
    device: str

    @property
    def series(self) -> Mapping[str, Sequence[Workload]]:
        """The series of workloads to measure."""
        return scaling(quick=self.quick) if self.scaling else {}

    @property
    def scaled_rule(self) -> str:
        """The rule that is measured on the series."""
        return SCALED_RULE if SCALED_RULE in self.rules else self.rules[0]

    @property
    def memory(self) -> list[tuple[Workload, str]]:
        """The workloads and rules whose peak memory is measured."""
        chosen = [WORKLOADS[name] for name in self.workloads]
        large = [each for each in chosen if each.elements >= memory.LEAST_ELEMENTS]
        if self.quick:
            return [(workload, self.scaled_rule) for workload in large[-1:]]
        return [(workload, rule) for workload in large for rule in self.rules]

    @property
    def parts(self) -> int:
        """Into how many parts the work divides."""
        timed = len(self.workloads) * len(self.rules) + sum(map(len, self.series.values()))
        return timed + len(self.memory)

    def as_json(self) -> dict[str, object]:
        """Lay out what does not show in the results themselves."""
        effort = {"least_steps": self.effort.repeats, "least_seconds": self.effort.seconds}
        return {"quick": self.quick, "device": self.device, **effort}


def run(settings: Settings, folder: Path, *, quiet: bool = False) -> Results:
    """Measure, print how it goes and write what was found.

    Args:
        settings: what to measure.
        folder: an existing directory for tables, numbers and figures.
        quiet: whether to print nothing.
    """
    with threads(settings.threads):
        meter = LoadMeter()
        results = Results(settings.as_json(), environment(settings.device))
        report = Report(results, settings.parts, quiet=quiet)
        with report.progress:
            report.introduce()
            time_workloads(settings, results, report)
            time_series(settings, results, report)
            measure_memory(settings, results, report)
        results.load = meter.read()
    report.conclude(write_files(results, folder))
    return results


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads; ``None`` leaves it to torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_workloads(settings: Settings, results: Results, report: Report) -> None:
    """Time all rules on all workloads."""
    for name in settings.workloads:
        values, outcomes = Values(WORKLOADS[name], settings.device), []
        for rule in settings.rules:
            report.doing(f"{values.workload.title}: {RULES[rule].title}")
            outcomes.append(measure(rule, values, settings.implementations, settings.effort))
            report.advance()
        results.outcomes += outcomes
        report.workload(outcomes)


def time_series(settings: Settings, results: Results, report: Report) -> None:
    """Time one rule on ever more tensors and ever more elements."""
    rule = settings.scaled_rule
    for name, workloads in settings.series.items():
        results.scaling[name] = outcomes = []
        for workload in workloads:
            report.doing(f"{workload}: {RULES[rule].title}")
            values = Values(workload, settings.device)
            outcomes.append(measure(rule, values, settings.implementations, settings.effort))
            report.advance()
        report.series(name, outcomes)


def measure_memory(settings: Settings, results: Results, report: Report) -> None:
    """Measure the peak memory of steps, each rule on each workload in a new process."""
    unavailable = memory.available(settings.device)
    if unavailable:
        results.remarks.append(unavailable)
        return
    for workload, rule in settings.memory:
        report.doing(f"Peak memory: {workload.title}: {RULES[rule].title}")
        names = with_memory_of_their_own(settings.implementations, workload, rule)
        threads = torch.get_num_threads()
        request = memory.Request(workload, rule, names, threads, settings.device)
        try:
            results.memory.append(Memory(workload, rule, memory.measure(request)))
        except RuntimeError as error:  # the times are not lost for it
            results.remarks.append(str(error))
        report.advance()
    report.memory()


def with_memory_of_their_own(names: Sequence[str], workload: Workload, rule: str) -> list[str]:
    """Return the implementations whose memory is measured: all but the compiler, who needs more."""
    chosen = {name: IMPLEMENTATIONS[name] for name in names}
    return [
        name
        for name, implementation in chosen.items()
        if not (implementation.compiled or implementation.missing(RULES[rule], workload))
    ]


def write_files(results: Results, folder: Path) -> list[Path]:
    """Write tables, numbers and figures, and return their paths."""
    figures = {folder / "bench.png": partial(draw, results.outcomes)}
    if results.scaling:
        figures[folder / "scaling.png"] = partial(draw_scaling, results.scaling)
    for path, drawing in figures.items():
        drawing().savefig(path)
    write_json(folder / "bench.json", results)
    write_markdown(folder / "bench.md", results, [path.name for path in figures])
    return [folder / "bench.md", *figures, folder / "bench.json"]
