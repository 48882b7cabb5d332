"""What the demo prints: a line per epoch above a progress bar, and a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from optimlab.demo.recipes import RECIPES, Settings
from optimlab.demo.results import COMPARISONS, Outcome, device_name, overall, versions
from optimlab.demo.training import Epoch, LockStep
from optimlab.lab import report as terminal
from optimlab.lab.compare.bits import Distance

HEADER = """\
           mean training loss      test accuracy         elements     elements
  epoch     torch  optimlab       torch  optimlab        compared    differing"""
SAME, DIFFERENT = "bold green", "bold red"


def make_console(*, quiet: bool = False) -> Console:
    """Make a console of at most 100 columns; away from a terminal it has exactly 100."""
    console = terminal.console(quiet=quiet)
    console.width = min(console.width, terminal.WIDTH) if console.is_terminal else terminal.WIDTH
    return console


class Report:
    """Prints how the demo goes and what it has found.

    Args:
        console: Where to print.
        settings: What is going to be trained, one for each optimizer.
    """

    def __init__(self, console: Console, settings: Sequence[Settings]) -> None:
        self.console, self.settings = console, settings
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        # Resuming counts as much as training: three halves, and the new process imports everything.
        self.task = self.progress.add_task("", total=2 * sum(each.epochs for each in settings))

    def introduce(self) -> None:
        """Say what is compared with what, and where."""
        names, first = versions(), self.settings[0]
        self.console.print(
            f"optimlab {names['optimlab']} and torch.optim {names['torch']} in lock step on "
            f"handwritten digits ({device_name(first.device)}, seed {first.seed})"
        )

    def start(self, settings: Settings) -> None:
        """Open the section of an optimizer."""
        recipe = RECIPES[settings.recipe]
        self.progress.update(self.task, description=f"{recipe.title}: training")
        self.console.print()
        self.console.print(f"{recipe.title}: {recipe}", style="bold")
        self.console.print(HEADER, style="dim")

    def epoch(self, epoch: Epoch) -> None:
        """Print the numbers of an epoch."""
        loss, accuracy, distance = epoch.loss, epoch.accuracy, epoch.distance
        self.progress.advance(self.task)
        row = Text(
            f"  {epoch.number:5}  {loss['torch']:8.6f}  {loss['optimlab']:8.6f}  "
            f"{percent(accuracy['torch']):>10}{percent(accuracy['optimlab']):>10}  "
            f"{distance.elements:14,}  "
        )
        self.console.print(row.append_text(differing(distance, width=11)))

    def resume(self, lock_step: LockStep) -> None:
        """Say where the runs were interrupted and that they now go on elsewhere."""
        title = RECIPES[lock_step.settings.recipe].title
        self.progress.update(self.task, description=f"{title}: resuming in a new process")
        self.console.print(
            f"  interrupted after step {lock_step.half} of {lock_step.steps}, "
            "resumed in a new process:"
        )

    def outcome(self, outcome: Outcome) -> None:
        """Print how the resumed runs ended, and where bits first differed if they did."""
        self.progress.advance(self.task, outcome.settings.epochs)
        for label, distance in list(zip(COMPARISONS, outcome.distances, strict=True))[1:]:
            self.console.print(Text(f"    {label:<46}").append_text(counted(distance)))
        if outcome.first_difference is not None:
            step = f"  the first difference came with step {outcome.first_difference}"
            self.console.print(step, style=DIFFERENT)

    def conclude(self, outcomes: Sequence[Outcome], files: Sequence[Path]) -> None:
        """Print the table of all recipes, where the files are, and the verdict."""
        self.console.print(summary(outcomes))
        for file in files:
            self.console.print(f"wrote {file}", soft_wrap=True)
        distance = overall(outcomes)
        verdict = "Different bits: " if distance.differing else "The same bits: "
        self.console.print(Text(verdict, style(distance)).append_text(counted(distance)))


def summary(outcomes: Sequence[Outcome]) -> Table:
    """Build the final table: a column per optimizer, a row per number."""
    ends = [outcome.epochs[-1] for outcome in outcomes]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("after the last epoch")
    for outcome in outcomes:
        table.add_column(outcome.recipe.title, justify="right", no_wrap=True)
    table.add_row("training loss", *(f"{end.loss['optimlab']:.4f}" for end in ends))
    table.add_row("test accuracy", *(percent(end.accuracy["optimlab"]) for end in ends))
    table.add_row("elements compared", *(f"{each.distance.elements:,}" for each in outcomes))
    table.add_row(Text("elements whose bits differ", "bold"))
    for row, label in enumerate(COMPARISONS):
        table.add_row(f"  {label}", *(differing(each.distances[row]) for each in outcomes))
    return table


def percent(share: float) -> str:
    """Print a share of 0 to 1 in percent."""
    return f"{100 * share:.1f} %"


def differing(distance: Distance, width: int = 0) -> Text:
    """Print how many elements differ, in the colour of the verdict."""
    return Text(f"{distance.differing:{width},}", style(distance))


def counted(distance: Distance) -> Text:
    """Put a distance into words, in the colour of the verdict."""
    text = f"{distance.differing:,} of {distance.elements:,} compared elements differ"
    return Text(text, style(distance))


def style(distance: Distance) -> str:
    """Return the style in which a number of differing elements is printed."""
    return DIFFERENT if distance.differing else SAME
