"""What the benchmark prints: tables above a progress bar, and a verdict at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from optimlab.bench import tables
from optimlab.bench.implementations import OURS
from optimlab.bench.results import Outcome, Results, measured, reasons
from optimlab.lab import report as terminal

LEGEND = """\
Medians in milliseconds of one interleaved run. limit: the bytes that a step must move, at the
bandwidth measured in the same run. x default, x fused: how many times as long as optimlab torch's
default and torch's fused implementation take. of limit: the limit's time as a share of optimlab's.
bits: optimlab's parameters and state after the last step, compared with torch's default."""


class Report:
    """Prints how the benchmark goes and what it has found.

    Args:
        results: what is being filled in.
        parts: how many parts the work has.
        quiet: whether to print nothing.
    """

    def __init__(self, results: Results, parts: int, *, quiet: bool = False) -> None:
        self.results = results
        self.console = terminal.console(quiet=quiet)
        # Redrawing ten times in a second would be work for one of the processors being timed.
        self.progress = terminal.progress(self.console, auto_refresh=False)
        self.task = self.progress.add_task("", total=parts)

    def introduce(self) -> None:
        """Say where it is measured, and what the columns are."""
        self.console.print(tables.description(self.results.environment))
        self.console.print(LEGEND, style="dim")

    def doing(self, what: str) -> None:
        """Say what is going to be measured next."""
        self.progress.update(self.task, description=what, refresh=True)

    def advance(self) -> None:
        """Count a part that is done."""
        self.progress.advance(self.task)

    def workload(self, outcomes: Sequence[Outcome]) -> None:
        """Print the times of all rules on a workload."""
        self.table(str(outcomes[0].workload), tables.times(outcomes, measured(outcomes)))
        for reason in reasons(outcomes):
            self.console.print(f"  {reason}", style="dim")

    def series(self, name: str, outcomes: Sequence[Outcome]) -> None:
        """Print how the cost of a step grows."""
        first = outcomes[0]
        grown = tables.series(name, outcomes, measured(outcomes))
        self.table(f"{first.rule.title}, {first.workload.title.lower()}", grown)

    def memory(self) -> None:
        """Print what steps need besides their tensors."""
        if self.results.memory:
            title = "Peak memory of a step beyond parameters, gradients and state"
            self.table(title, tables.memory(self.results.memory, self.results.names))

    def table(self, title: str, table: tables.Table) -> None:
        """Print a table."""
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        shown.add_column(table.heading[0], no_wrap=True)
        for heading in table.heading[1:]:
            style = "bold" if heading == OURS else ""
            two_lines = heading.replace(" ", "\n")
            shown.add_column(two_lines, justify="right", no_wrap=True, style=style)
        for row in table.rows:
            shown.add_row(*map(coloured, row))
        self.console.print()
        self.console.print(title, style="bold")
        self.console.print(shown)

    def conclude(self, files: Sequence[Path]) -> None:
        """Print what else there is to know, where the files are, and the verdict."""
        load = self.results.load
        self.console.print()
        for remark in self.results.remarks:
            self.console.print(remark)
        self.console.print(f"Load: {load}", style="yellow" if load.disturbing else "")
        for file in files:
            self.console.print(f"wrote {file}", soft_wrap=True)
        self.console.print(tables.behind(self.results))
        for line in tables.bits(self.results):
            self.console.print(line, style="" if line.startswith(OURS) else "dim")
        verdict, style = ("The same bits", "bold green")
        if not self.results.same_bits:
            verdict, style = ("Different bits", "bold red")
            where = self.results.comparisons[OURS].where
            verdict += f", first in {', '.join(where)}" if where else ""
        self.console.print(verdict, style=style)


def coloured(text: str) -> Text:
    """Colour a cell by what it says."""
    styles = {tables.SAME: "green", tables.DIFFERENT: "bold red"}
    return Text(text, styles.get(text, ""))
