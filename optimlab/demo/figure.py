"""The figure: both libraries' curves on top of each other, and how many elements differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from optimlab.demo.libraries import LibraryName
from optimlab.demo.results import COMPARISONS, Outcome, device_name, overall, versions
from optimlab.lab.compare.bits import Distance

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


def draw(outcomes: Sequence[Outcome]) -> Figure:
    """Draw loss and accuracy of all optimizers, and a table of what was compared beneath.

    Args:
        outcomes: What was found, one for each optimizer.
    """
    figure = Figure(figsize=(12, 8), dpi=150)
    write_title(figure, outcomes)
    draw_loss(figure.add_axes((LEFT, 0.32, 0.45, 0.5)), outcomes)
    draw_accuracy(figure.add_axes((0.66, 0.32, RIGHT - 0.66, 0.5)), outcomes)
    write_counts(figure, outcomes)
    return figure


def write_title(figure: Figure, outcomes: Sequence[Outcome]) -> None:
    """Write whether bits differ, and what was compared with what."""
    distance, first, names = overall(outcomes), outcomes[0], versions()
    figure.text(
        LEFT,
        0.94,
        f"{distance.differing:,} of {distance.elements:,} compared elements differ in their bits",
        fontsize=20,
        fontweight="bold",
        color=ALARM if distance.differing else INK,
    )
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
    for outcome in outcomes:
        for library in WIDTHS:
            draw_curve(axes, outcome, library, [epoch.loss[library] for epoch in outcome.epochs])
        draw_resumed(axes, outcome)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    finish_axes(axes, "Training loss, mean of each epoch", outcomes[0])
    name_interruption(axes, outcomes[0])
    name_curves(axes, outcomes)
    explain_curves(axes)


def draw_accuracy(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Draw the share of test images that are classified correctly."""
    for outcome in outcomes:
        for library in WIDTHS:
            values = [epoch.accuracy[library] for epoch in outcome.epochs]
            draw_curve(axes, outcome, library, values)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_ylim(top=1)
    finish_axes(axes, "Test accuracy", outcomes[0])


def draw_curve(axes: Axes, outcome: Outcome, library: LibraryName, values: Sequence[float]) -> None:
    """Draw one curve over the epochs: torch wide and light beneath, optimlab thin and dark."""
    width = WIDTHS[library]
    axes.plot(
        [epoch.number for epoch in outcome.epochs],
        values,
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
    per_epoch = outcome.steps // len(outcome.epochs)
    losses = outcome.resumptions[0].losses
    numbers = range(outcome.interrupted_after // per_epoch + 1, len(outcome.epochs) + 1)
    means = [fmean(losses[(number - 1) * per_epoch : number * per_epoch]) for number in numbers]
    colour = COLOURS[outcome.settings.recipe]["optimlab"]
    axes.add_line(Line2D(numbers, means, zorder=4, clip_on=False, **ring(colour)))


def ring(colour: str) -> dict[str, Any]:
    """Return how a resumed run is drawn."""
    return {
        "linestyle": "none",
        "marker": "o",
        "markersize": 4.5,
        "markerfacecolor": "white",
        "markeredgecolor": colour,
        "markeredgewidth": 1.1,
    }


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
    mark_interruption(axes, outcome)


def mark_interruption(axes: Axes, outcome: Outcome) -> None:
    """Draw a line where the checkpoints were written."""
    axes.axvline(interruption(outcome), color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def name_interruption(axes: Axes, outcome: Outcome) -> None:
    """Write beside the line what happened there."""
    axes.annotate(
        f"interrupted after step {outcome.interrupted_after:,},\nresumed in a new process",
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
    return 0.5 + outcome.interrupted_after * len(outcome.epochs) / outcome.steps


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
    points = [(epoch.number, epoch.loss["torch"]) for epoch in outcome.epochs]
    return next((point for point in reversed(points) if math.isfinite(point[1])), (1, 1.0))


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights up until no two are closer than ``gap``, keeping their order."""
    moved = list(heights)
    free_from = float("-inf")
    for index in sorted(range(len(moved)), key=lambda index: moved[index]):
        moved[index] = max(moved[index], free_from)
        free_from = moved[index] + gap
    return moved


def explain_curves(axes: Axes) -> None:
    """Say what the wide lines, the thin lines and the rings are."""
    lines = [
        Line2D([], [], color="#bdbdbd", linewidth=WIDTHS["torch"], label="torch.optim"),
        Line2D([], [], color=INK, linewidth=WIDTHS["optimlab"], label="optimlab"),
        Line2D([], [], label="optimlab, resumed\nin a new process", **ring(INK)),
    ]
    axes.legend(handles=lines, loc="lower left", frameon=False, fontsize=10.5, labelcolor=INK)


def write_counts(figure: Figure, outcomes: Sequence[Outcome]) -> None:
    """Write a table of differing elements: a column per optimizer, a row per comparison."""
    columns = [0.365 + 0.16 * number for number in range(len(outcomes))]
    figure.text(LEFT, 0.2, "Elements that differ", fontsize=11, fontweight="bold", color=INK)
    for left, outcome in zip(columns, outcomes, strict=True):
        colour = COLOURS[outcome.settings.recipe]["optimlab"]
        figure.text(left, 0.2, outcome.recipe.title, fontsize=11, fontweight="bold", color=colour)
    for row, label in enumerate(COMPARISONS):
        height = 0.155 - 0.037 * row
        figure.text(LEFT, height, label, fontsize=10, color=QUIET)
        for left, outcome in zip(columns, outcomes, strict=True):
            write_count(figure, left, height, outcome.distances[row])


def write_count(figure: Figure, left: float, height: float, distance: Distance) -> None:
    """Write one cell of the table."""
    colour = ALARM if distance.differing else INK
    text = f"{distance.differing:,} of {distance.elements:,}"
    figure.text(left, height, text, fontsize=9.5, color=colour)
