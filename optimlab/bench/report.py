"""What the benchmark prints: tables above a progress bar, and a verdict at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from optimlab.bench import tables
from optimlab.bench.implementations import OURS
from optimlab.bench.results import Outcome, Results, reasons
from optimlab.lab.report import Progress, console, progress, rich_table

LEGEND = """\
Medians in milliseconds of one interleaved run. limit: the bytes that a step must move, at the
bandwidth measured in the same run. x default, x fused: how many times as long as optimlab torch's
default and torch's fused implementation take. of limit: the limit's time as a share of optimlab's.
bits: optimlab's parameters and state after the last step, compared with torch's default."""
STYLES = {tables.SAME: "green", tables.DIFFERENT: "bold red"}


class Report:
    """Prints how the benchmark goes, in so many parts, and what results it has found."""

    def __init__(self, results: Results, parts: int, *, quiet: bool = False) -> None:
        self.results, self.device = results, str(results.settings["device"])
        self.console = console(quiet=quiet)
        self.done, self.parts = 0, parts
        self.show: Progress = lambda done, total, doing: None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say where it is measured, and what the columns are, and show how far it has come."""
        self.console.print(tables.described(self.results.environment))
        self.console.print(LEGEND, style="dim")
        # Redrawing ten times in a second would be work for one of the processors being timed.
        with progress(self.console, auto_refresh=False) as self.show:
            yield

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Say what is going to be measured next, and count it as done."""
        self.show(self.done, self.parts, what)
        yield
        self.done += 1

    def workload(self, outcomes: Sequence[Outcome]) -> None:
        """Print the times of all rules on a workload."""
        self.table(outcomes[0].described, tables.times(outcomes, self.device))
        for reason in reasons(outcomes):
            self.console.print(f"  {reason}", style="dim")

    def series(self, name: str, outcomes: Sequence[Outcome]) -> None:
        """Print how the cost of a step grows."""
        title = f"{outcomes[0].title}, {outcomes[0].workload.lower()}"
        self.table(title, tables.series(name, outcomes, self.device))

    def memory(self) -> None:
        """Print what steps need besides their tensors."""
        if self.results.memory:
            title = "Peak memory of a step beyond parameters, gradients and state"
            self.table(title, tables.memory(self.results.memory))

    def table(self, title: str, laid_out: tables.Table) -> None:
        """Print a table, the words of a heading below one another."""

        def style(heading: str, cell: str) -> str:
            return STYLES.get(cell, "bold" if heading == OURS else "")

        headings = [heading.replace(" ", "\n") for heading in laid_out[0]]
        shown = rich_table(headings, laid_out[1], style, padding=(0, 1, 0, 0), show_edge=False)
        self.console.print()
        self.console.print(title, style="bold")
        self.console.print(shown)

    def conclude(self, files: Sequence[Path]) -> None:
        """Print what else there is to know, where the files are, and the verdict."""
        results = self.results
        self.console.print()
        for remark in results.remarks:
            self.console.print(remark)
        self.console.print(
            f"Load: {results.load}", style="yellow" if results.load.disturbing else ""
        )
        for file in files:
            self.console.print(f"wrote {file}", soft_wrap=True)
        self.console.print(tables.behind(results))
        for line in tables.bits(results):
            self.console.print(line, style="" if line.startswith(OURS) else "dim")
        verdict, style = ("The same bits", "bold green")
        if not results.same_bits:
            verdict, style = ("Different bits", "bold red")
            where = results.bits[OURS].where
            verdict += f", first in {', '.join(where)}" if where else ""
        self.console.print(verdict, style=style)
