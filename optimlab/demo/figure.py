"""The figure: both libraries' curves on top of each other, and how many elements differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from optimlab.demo.libraries import LibraryName
from optimlab.demo.results import COMPARISONS, Epoch, Outcome, Results, device_name, versions

INK, QUIET, RULE, ALARM = "#1f1f1f", "#5f5f5f", "#e4e4e4", "#b00020"
LEFT, RIGHT = 0.06, 0.975

# Okabe and Ito's colours, which any colour vision tells apart: lightened for torch, darkened for
# optimlab.
COLOURS: dict[str, dict[LibraryName, str]] = {
    "sgd": {"torch": "#8cc4e8", "optimlab": "#004f7c"},
    "momentum": {"torch": "#f2b48a", "optimlab": "#a03c00"},
    "nesterov": {"torch": "#86d3bd", "optimlab": "#00553e"},
    "adam": {"torch": "#e6bcd3", "optimlab": "#8a3a67"},
}
WIDTHS: dict[LibraryName, float] = {"torch": 6.5, "optimlab": 1.3}
# How a resumed run is drawn.
RINGS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 4.5,
    "markerfacecolor": "white",
    "markeredgewidth": 1.1,
}


def draw(results: Results) -> Figure:
    """Draw loss and accuracy of all optimizers, and a table of what was compared beneath."""
    figure = Figure(figsize=(12, 8), dpi=150)
    write_title(figure, results)
    draw_loss(figure.add_axes((LEFT, 0.32, 0.45, 0.5)), results.outcomes)
    draw_accuracy(figure.add_axes((0.66, 0.32, RIGHT - 0.66, 0.5)), results.outcomes)
    write_counts(figure, results.outcomes)
    return figure


def write_title(figure: Figure, results: Results) -> None:
    """Write whether bits differ, and what was compared with what."""
    first, names = results.outcomes[0], versions()
    title = f"{results.total} compared elements differ in their bits"
    colour = INK if results.same_bits else ALARM
    figure.text(LEFT, 0.94, title, fontsize=20, fontweight="bold", color=colour)
    details = (
        f"A small CNN learns handwritten digits twice in lock step, with torch.optim "
        f"{names['torch']} and with optimlab {names['optimlab']} "
        f"({device_name(first.settings.device)}).\nAll parameters and all optimizer state are "
        f"compared as integers after each of the {first.steps:,} steps."
    )
    figure.text(LEFT, 0.88, details, fontsize=11, color=QUIET, linespacing=1.5)


def draw_loss(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Draw the training loss on a logarithmic scale, each curve named at its end."""
    axes.set_yscale("log")
    draw_curves(axes, outcomes, lambda epoch: epoch.training_loss)
    for outcome in outcomes:
        draw_resumed(axes, outcome)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    finish_axes(axes, "Training loss, mean of each epoch", outcomes[0])
    name_interruption(axes, outcomes[0])
    name_curves(axes, outcomes)
    lines = [
        Line2D([], [], color="#bdbdbd", linewidth=WIDTHS["torch"], label="torch.optim"),
        Line2D([], [], color=INK, linewidth=WIDTHS["optimlab"], label="optimlab"),
        ring([], [], INK, label="optimlab, resumed\nin a new process"),
    ]
    axes.legend(handles=lines, loc="lower left", frameon=False, fontsize=10.5, labelcolor=INK)


def draw_accuracy(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Draw the share of test images that are classified correctly."""
    draw_curves(axes, outcomes, lambda epoch: epoch.test_accuracy)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_ylim(top=1)
    finish_axes(axes, "Test accuracy", outcomes[0])


def draw_curves(
    axes: Axes,
    outcomes: Sequence[Outcome],
    values: Callable[[Epoch], Mapping[LibraryName, float]],
) -> None:
    """Draw curves over the epochs: torch wide and light beneath, optimlab thin and dark."""
    for outcome in outcomes:
        for library, width in WIDTHS.items():
            axes.plot(
                [epoch.epoch for epoch in outcome.epochs],
                [values(epoch)[library] for epoch in outcome.epochs],
                color=COLOURS[outcome.settings.recipe][library],
                linewidth=width,
                marker="o",  # for a single epoch, which makes no line
                markersize=width,
                markeredgewidth=0,
                solid_joinstyle="round",
                zorder=2 if library == "torch" else 3,
                clip_on=False,
            )


def draw_resumed(axes: Axes, outcome: Outcome) -> None:
    """Draw the loss of optimlab's resumed run as rings, for the epochs that it finished."""
    size, losses = outcome.steps // len(outcome.epochs), outcome.resumed[0].losses
    numbers = range(outcome.interrupted_after_step // size + 1, len(outcome.epochs) + 1)
    means = [fmean(losses[(number - 1) * size : number * size]) for number in numbers]
    colour = COLOURS[outcome.settings.recipe]["optimlab"]
    axes.add_line(ring(numbers, means, colour, zorder=4, clip_on=False))


def ring(x: Sequence[float], y: Sequence[float], colour: str, **options: Any) -> Line2D:
    """Make the marks of a resumed run."""
    return Line2D(x, y, markeredgecolor=colour, **RINGS, **options)


def finish_axes(axes: Axes, title: str, outcome: Outcome) -> None:
    """Give a panel its title, grid and axis of epochs, and mark where the runs were interrupted."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=12)
    axes.set_xlabel("epoch", fontsize=10.5, color=QUIET)
    axes.set_xlim(0.5, len(outcome.epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=QUIET)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.axvline(interruption(outcome), color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def name_interruption(axes: Axes, outcome: Outcome) -> None:
    """Write beside the line what happened there."""
    axes.annotate(
        f"interrupted after step {outcome.interrupted_after_step:,},\nresumed in a new process",
        (interruption(outcome), 1),
        (6, -1),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        va="top",
        fontsize=9.5,
        color=QUIET,
    )


def interruption(outcome: Outcome) -> float:
    """Return where the runs were interrupted on the axis of epochs.

    The numbers of an epoch stand at its number, so its steps reach from half before to half after.
    """
    return 0.5 + outcome.interrupted_after_step * len(outcome.epochs) / outcome.steps


def name_curves(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Write each optimizer's name to the right of where its curve ends."""
    ends = [last_finite(outcome) for outcome in outcomes]
    heights = axes.transAxes.inverted().transform(axes.transData.transform(ends))[:, 1].tolist()
    for outcome, end, height in zip(outcomes, ends, spread(heights, gap=0.07), strict=True):
        colour = COLOURS[outcome.settings.recipe]["optimlab"]
        axes.annotate(
            outcome.recipe.title,
            end,
            (1.05, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            fontsize=11,
            fontweight="bold",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 5},
        )


def last_finite(outcome: Outcome) -> tuple[int, float]:
    """Return the end of torch's loss curve, before it left the finite numbers if it did."""
    points = [(epoch.epoch, epoch.training_loss["torch"]) for epoch in outcome.epochs]
    return next((point for point in reversed(points) if math.isfinite(point[1])), (1, 1.0))


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights up until no two are closer than ``gap``, keeping their order."""
    moved, free_from = list(heights), float("-inf")
    for index in sorted(range(len(moved)), key=moved.__getitem__):
        moved[index] = max(moved[index], free_from)
        free_from = moved[index] + gap
    return moved


def write_counts(figure: Figure, outcomes: Sequence[Outcome]) -> None:
    """Write a table of differing elements: a column per optimizer, a row per comparison."""
    heights = [0.155 - 0.037 * row for row in range(len(COMPARISONS))]
    figure.text(LEFT, 0.2, "Elements that differ", fontsize=11, fontweight="bold", color=INK)
    for height, label in zip(heights, COMPARISONS, strict=True):
        figure.text(LEFT, height, label, fontsize=10, color=QUIET)
    for number, outcome in enumerate(outcomes):
        left, colour = 0.365 + 0.16 * number, COLOURS[outcome.settings.recipe]["optimlab"]
        title = outcome.recipe.title
        figure.text(left, 0.2, title, fontsize=11, fontweight="bold", color=colour)
        for height, count in zip(heights, outcome.counts, strict=True):
            colour = ALARM if count.elements_differing else INK
            figure.text(left, height, str(count), fontsize=9.5, color=colour)
