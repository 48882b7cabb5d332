"""The benchmark from beginning to end: time, measure memory, draw, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from optimlab.bench import memory
from optimlab.bench.document import document
from optimlab.bench.figure import draw, draw_scaling
from optimlab.bench.implementations import IMPLEMENTATIONS, Values
from optimlab.bench.measure import measure
from optimlab.bench.report import Report
from optimlab.bench.results import Memory, Outcome, Results, about
from optimlab.bench.rules import RULES
from optimlab.bench.surroundings import LoadMeter, environment
from optimlab.bench.timing import Effort
from optimlab.bench.workloads import WORKLOADS, Workload, scaling

SCALED_RULE = "adam"


@dataclass(frozen=True)
class Settings:
    """What to measure, by the keys of the tables, and how.

    Attributes:
        effort: how long.
        threads: number of threads; ``None`` for as many as torch would take.
        scaling: whether to measure how the cost grows, too.
        quick: whether the series end at a tenth, and memory is measured once only.
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


def run(settings: Settings, folder: Path, *, quiet: bool = False) -> Results:
    """Measure, print how it goes, unless quiet, and write what was found into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"quick": settings.quick, "device": settings.device, **asdict(settings.effort)}
    with threads(settings.threads):
        meter = LoadMeter()
        results = Results(asked, environment(settings.device))
        report = Report(results, settings.parts, quiet=quiet)
        with report.running():
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
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def time_workloads(settings: Settings, results: Results, report: Report) -> None:
    """Time all rules on all workloads."""
    for name in settings.workloads:
        values = Values(WORKLOADS[name], settings.device)
        outcomes = [timed(rule, values, settings, report) for rule in settings.rules]
        results.outcomes += outcomes
        report.workload(outcomes)


def time_series(settings: Settings, results: Results, report: Report) -> None:
    """Time one rule on ever more tensors and ever more elements."""
    for name, workloads in settings.series.items():
        values = (Values(workload, settings.device) for workload in workloads)
        outcomes = [timed(settings.scaled_rule, each, settings, report) for each in values]
        results.scaling[name] = outcomes
        report.series(name, outcomes)


def timed(rule: str, values: Values, settings: Settings, report: Report) -> Outcome:
    """Time a rule on a workload."""
    with report.part(f"{values.workload}: {RULES[rule].title}"):
        return measure(rule, values, settings.implementations, settings.effort)


def measure_memory(settings: Settings, results: Results, report: Report) -> None:
    """Measure the peak memory of steps, each rule on each workload in a new process."""
    unavailable = memory.available(settings.device)
    if unavailable:
        results.remarks.append(unavailable)
        return
    count = torch.get_num_threads()
    for workload, rule in settings.memory:
        names = [
            name
            for name, each in IMPLEMENTATIONS.items()
            if name in settings.implementations  # but not the compiler, who needs more than a step
            if not (each.compiled or each.missing(RULES[rule], workload))
        ]
        request = memory.Request(workload, rule, names, count, settings.device)
        with report.part(f"Peak memory: {workload.title}: {RULES[rule].title}"):
            try:
                found = memory.measure(request)
                results.memory.append(Memory(**about(workload, rule), extra_bytes=found))
            except RuntimeError as error:  # the times are not lost for it
                results.remarks.append(str(error))
    report.memory()


def write_files(results: Results, folder: Path) -> list[Path]:
    """Write tables, numbers and figures, and return their paths."""
    figures = {folder / "bench.png": draw(results.outcomes)}
    if results.scaling:
        figures[folder / "scaling.png"] = draw_scaling(results.scaling)
    for path, figure in figures.items():
        figure.savefig(path)
    text, numbers = folder / "bench.md", folder / "bench.json"
    text.write_text(document(results, [path.name for path in figures]), encoding="utf-8")
    results.write(numbers)
    return [text, *figures, numbers]
