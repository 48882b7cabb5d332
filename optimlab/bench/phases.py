"""Where the time of optimlab's step goes: steps once more, with a clock at each part of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from optimlab.bench.implementations import Run, Values
from optimlab.bench.timing import Effort, without_collector
from optimlab.native.step_cache import CachedStep

STEP, REST = "step", "rest"
MOST_STEPS = 300

PHASES: Mapping[str, str] = {
    "guard": "_guard",
    "compute": "_compute",
    "run": "_run",
    "versions": "_move_versions",
}
"""The four functions that a repeated step consists of."""


def phases(run: Run, values: Values, effort: Effort) -> Mapping[str, float]:
    """Divide the time of a step of optimlab into its parts.

    Returns:
        Medians in seconds: of the whole step; of asking whether groups and parameters are the same
        objects; of computing this step's numbers; of looking at all tensors and of the arithmetic,
        which are one call; of moving autograd's version counters; and of everything else. Empty off
        the CPU, where the parts are torch's own.
    """
    if values.device != "cpu":
        return {}
    spent: dict[str, float] = {}
    steps: list[dict[str, float]] = []
    step, began = _clocked(run.step, STEP, spent), time.perf_counter()
    with _clocks(spent), without_collector():
        while len(steps) < MOST_STEPS and not effort.spent(len(steps), began):
            run.take(values.gradients_of(len(steps)))
            spent.clear()
            step()
            steps.append({**spent, REST: 2 * spent[STEP] - sum(spent.values())})
    return {n: median(each.get(n, 0.0) for each in steps) for n in (STEP, *PHASES, REST)}


@contextmanager
def _clocks(spent: dict[str, float]) -> Iterator[None]:
    """Put a clock at each of the four functions."""
    functions = {each: getattr(CachedStep, each) for each in PHASES.values()}
    try:
        for name, attribute in PHASES.items():
            setattr(CachedStep, attribute, _clocked(functions[attribute], name, spent))
        yield
    finally:
        for attribute, function in functions.items():
            setattr(CachedStep, attribute, function)


def _clocked(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Any:
    """Return the function with a clock at it, which writes down the seconds under the name."""

    def wrapper(*args: Any) -> Any:
        began = time.perf_counter_ns()
        try:
            return function(*args)
        finally:
            spent[name] = spent.get(name, 0.0) + (time.perf_counter_ns() - began) / 1e9

    return wrapper
