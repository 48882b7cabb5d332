"""The figures: each implementation's distance from the physical limit, and how the cost grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from optimlab.bench.implementations import IMPLEMENTATIONS, OURS
from optimlab.bench.results import Outcome, by_workload, measured

INK, QUIET, RULE = "#1f1f1f", "#5f5f5f", "#e4e4e4"

# Okabe and Ito's colours, which any colour vision tells apart, and a shape for each as well.
COLOURS = {
    "for-loop": "#d55e00",
    "foreach": "#e69f00",
    "fused": "#0072b2",
    "compiled": "#cc79a7",
    OURS: "#009e73",
}
MARKERS = {"for-loop": "s", "foreach": "D", "fused": "^", "compiled": "v", OURS: "o"}
LIMIT: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3))}
MOST_COLUMNS = 3


def draw(outcomes: Sequence[Outcome]) -> Figure:
    """Draw for each workload and rule how many times the limit each implementation takes."""
    panels = by_workload(outcomes)
    columns = min(len(panels), MOST_COLUMNS)
    lines = -(-len(panels) // columns)
    height = 1.3 + lines * (1 + 0.32 * max(map(len, panels.values())))
    title = "Time of a step, in multiples of the time that the memory needs to move its bytes"
    figure = new_figure(title, height)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel, (title, group) in zip(axes, panels.items(), strict=False):
        draw_workload(panel, title, group)
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    explain(figure, measured(outcomes))
    return figure


def draw_workload(axes: Axes, title: str, outcomes: Sequence[Outcome]) -> None:
    """Draw the rules of one workload, one below the other, on a logarithmic scale."""
    for position, outcome in enumerate(outcomes):
        for name, timing in outcome.seconds.items():
            first, middle, third = (
                seconds / outcome.limit.seconds
                for seconds in (timing.first_quartile, timing.median, timing.third_quartile)
            )
            axes.plot([first, third], [position] * 2, color=COLOURS[name], linewidth=2, alpha=0.5)
            axes.plot([middle], [position], zorder=4 if name == OURS else 3, **point(name))
    axes.axvline(1, zorder=1, **LIMIT)
    axes.set_yticks(range(len(outcomes)), [outcome.title for outcome in outcomes])
    axes.set_ylim(len(outcomes) - 0.4, -0.6)
    axes.set_xscale("log")
    finish(axes, title.replace(": ", "\n"))
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    # Round numbers at the axis, as many as there is room for.
    least, most = axes.get_xlim()
    decades = math.log10(most / least)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def draw_scaling(scaling: Mapping[str, Sequence[Outcome]]) -> Figure:
    """Draw how the time of a step grows with the number of tensors and of elements."""
    first = next(iter(scaling.values()))[0]
    figure = new_figure(f"Time of a step of {first.title}, in milliseconds", height=5.6)
    panels = figure.subplots(1, len(scaling), squeeze=False).flat
    for axes, (name, outcomes) in zip(panels, scaling.items(), strict=True):
        draw_series(axes, name, outcomes)
    explain(figure, measured(outcome for each in scaling.values() for outcome in each))
    return figure


def draw_series(axes: Axes, name: str, outcomes: Sequence[Outcome]) -> None:
    """Draw a line for each implementation, and the limit, both scales logarithmic."""
    for implementation in measured(outcomes):
        present = [each for each in outcomes if implementation in each.seconds]
        sizes = [getattr(each, name) for each in present]
        medians = [1e3 * each.seconds[implementation].median for each in present]
        axes.plot(sizes, medians, linewidth=1.8, **point(implementation))
    sizes = [getattr(each, name) for each in outcomes]
    axes.plot(sizes, [1e3 * each.limit.seconds for each in outcomes], **LIMIT)
    axes.set_xscale("log")
    axes.set_yscale("log")
    what = outcomes[0].workload
    finish(axes, f"{what}: ever more {name}" if name == "elements" else f"Ever more {what.lower()}")
    axes.set_xlabel(f"number of {name}", fontsize=10.5, color=QUIET)
    axes.grid(color=RULE, linewidth=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def new_figure(title: str, height: float) -> Figure:
    """Start a figure of a height in inches, with its title."""
    figure = Figure(figsize=(13, height), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=16, fontweight="bold", color=INK)
    return figure


def point(name: str) -> dict[str, Any]:
    """Return how the points of an implementation are drawn."""
    size, edge = 7.5 if name == OURS else 6, {"markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"color": COLOURS[name], "marker": MARKERS[name], "markersize": size, **edge}


def finish(axes: Axes, title: str) -> None:
    """Give a panel its title and take away what is not needed."""
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=10, labelcolor=QUIET)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)


def explain(figure: Figure, names: Sequence[str]) -> None:
    """Name the implementations and the dashed line below the panels."""
    titles = {name: IMPLEMENTATIONS[name].title for name in names}
    marks = [
        Line2D([], [], linestyle="none", label=title, **point(name))
        for name, title in titles.items()
    ]
    handles = [*marks, Line2D([], [], label="physical limit", **LIMIT)]
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": len(handles)}
    figure.legend(handles=handles, frameon=False, fontsize=10.5, labelcolor=INK, **place)
