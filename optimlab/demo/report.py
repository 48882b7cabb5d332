"""What the demo prints: a line per epoch above a progress bar, and a table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table
from rich.text import Text

from optimlab.demo.recipes import RECIPES, Settings
from optimlab.demo.results import (
    COMPARISONS,
    Count,
    Epoch,
    Outcome,
    Results,
    device_name,
    versions,
)
from optimlab.lab import report

HEADER = """\
           mean training loss      test accuracy         elements     elements
  epoch     torch  optimlab       torch  optimlab        compared    differing"""
SAME, DIFFERENT = "bold green", "bold red"


class Report:
    """Prints how training with each of the settings goes, and what it has found."""

    def __init__(self, settings: Sequence[Settings], *, quiet: bool = False) -> None:
        self.console, self.settings = report.console(quiet=quiet), settings
        # Resuming counts as much as training: three halves, and the new process imports everything.
        self.done, self.parts = 0, 2 * sum(each.epochs for each in settings)
        self.doing = ""
        self.show: report.Progress = lambda done, total, doing: None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say what is compared with what, and where, and show how far it has come."""
        names, first = versions(), self.settings[0]
        self.console.print(
            f"optimlab {names['optimlab']} and torch.optim {names['torch']} in lock step on "
            f"handwritten digits ({device_name(first.device)}, seed {first.seed})"
        )
        with report.progress(self.console) as self.show:
            yield

    def start(self, settings: Settings) -> None:
        """Open the section of an optimizer."""
        recipe = RECIPES[settings.recipe]
        self.doing = f"{recipe.title}: training"
        self.show(self.done, self.parts, self.doing)
        self.console.print()
        self.console.print(f"{recipe.title}: {recipe}", style="bold")
        self.console.print(HEADER, style="dim")

    def epoch(self, epoch: Epoch) -> None:
        """Print the numbers of an epoch."""
        loss, accuracy = epoch.training_loss, epoch.test_accuracy
        self.done += 1
        self.show(self.done, self.parts, self.doing)
        row = Text(
            f"  {epoch.epoch:5}  {loss['torch']:8.6f}  {loss['optimlab']:8.6f}  "
            f"{percent(accuracy['torch']):>10}{percent(accuracy['optimlab']):>10}  "
            f"{epoch.elements_compared:14,}  "
        )
        self.console.print(row.append_text(differing(epoch, width=11)))

    def resume(self, settings: Settings, taken: int, steps: int) -> None:
        """Say where the runs were interrupted and that they now go on elsewhere."""
        title = RECIPES[settings.recipe].title
        self.show(self.done, self.parts, f"{title}: resuming in a new process")
        self.console.print(
            f"  interrupted after step {taken} of {steps}, resumed in a new process:"
        )

    def outcome(self, outcome: Outcome) -> None:
        """Print how the resumed runs ended, and where bits first differed if they did."""
        self.done += outcome.settings.epochs
        for label, count in zip(COMPARISONS[1:], outcome.resumed, strict=True):
            self.console.print(Text(f"    {label:<46}").append_text(counted(count)))
        if outcome.first_differing_step is not None:
            step = f"  the first difference came with step {outcome.first_differing_step}"
            self.console.print(step, style=DIFFERENT)

    def conclude(self, results: Results, files: Sequence[Path]) -> None:
        """Print the table of all recipes, where the files are, and the verdict."""
        self.console.print(summary(results.outcomes))
        for file in files:
            self.console.print(f"wrote {file}", soft_wrap=True)
        verdict = "The same bits: " if results.same_bits else "Different bits: "
        total = results.total
        self.console.print(Text(verdict, style(total)).append_text(counted(total)))


def summary(outcomes: Sequence[Outcome]) -> Table:
    """Build the final table: a column per optimizer, a row per number."""
    ends = [outcome.epochs[-1] for outcome in outcomes]
    compared = [Count.total(outcome.counts).elements_compared for outcome in outcomes]
    rows: list[list[str | Text]] = [
        ["training loss", *(f"{end.training_loss['optimlab']:.4f}" for end in ends)],
        ["test accuracy", *(percent(end.test_accuracy["optimlab"]) for end in ends)],
        ["elements compared", *(f"{elements:,}" for elements in compared)],
        [Text("elements whose bits differ", "bold"), *("" for _ in outcomes)],
    ]
    for row, label in enumerate(COMPARISONS):
        rows.append([f"  {label}", *(differing(each.counts[row]) for each in outcomes)])
    return report.rich_table(["after the last epoch", *(o.recipe.title for o in outcomes)], rows)


def percent(share: float) -> str:
    """Print a share of 0 to 1 in percent."""
    return f"{100 * share:.1f} %"


def differing(count: Count, width: int = 0) -> Text:
    """Print how many elements differ, in the colour of the verdict."""
    return Text(f"{count.elements_differing:{width},}", style(count))


def counted(count: Count) -> Text:
    """Put a count into words, in the colour of the verdict."""
    return Text(f"{count} compared elements differ", style(count))


def style(count: Count) -> str:
    """Return the style in which a number of differing elements is printed."""
    return DIFFERENT if count.elements_differing else SAME
