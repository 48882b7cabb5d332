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


class Clocks:
    """Clocks at functions that call one another: the time of the inner is not the outer's.

    Attributes:
        spent: the seconds under each name since the last step began.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._within = [0.0]

    def on(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function with a clock at it."""

        def wrapper(*args: Any, **keywords: Any) -> Any:
            self._within.append(0.0)
            began = time.perf_counter_ns()
            try:
                return function(*args, **keywords)
            finally:
                seconds = (time.perf_counter_ns() - began) / 1e9
                own = seconds - self._within.pop()
                self._within[-1] += seconds
                self.spent[name] = self.spent.get(name, 0.0) + own

        return wrapper

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put a clock at each of the four functions."""
        functions = {each: getattr(CachedStep, each) for each in PHASES.values()}
        try:
            for name, attribute in PHASES.items():
                setattr(CachedStep, attribute, self.on(functions[attribute], name))
            yield
        finally:
            for attribute, function in functions.items():
                setattr(CachedStep, attribute, function)


def phases(run: Run, values: Values, effort: Effort) -> Mapping[str, float]:
    """Divide the time of a step into its parts.

    Args:
        run: optimlab at work; its state is changed.
        values: where gradients come from.
        effort: how long to measure.

    Returns:
        Medians in seconds: of the whole step; of asking whether groups and parameters are the same
        objects; of computing this step's numbers; of looking at all tensors and of the arithmetic,
        which are one call; of moving autograd's version counters; and of everything else. Empty off
        the CPU, where the parts are torch's own.
    """
    if values.device != "cpu":
        return {}
    clocks, steps = Clocks(), list[dict[str, float]]()
    step, began = clocks.on(run.step, REST), time.perf_counter()
    with clocks.installed(), without_collector():
        while len(steps) < MOST_STEPS and not effort.spent(len(steps), began):
            run.take(values.gradients_of(len(steps)))
            clocks.spent = {}
            step()
            steps.append({STEP: sum(clocks.spent.values()), **clocks.spent})
    return {n: median(each.get(n, 0.0) for each in steps) for n in (STEP, *PHASES, REST)}
