"""Where the time of optimlab's step goes: steps once more, with a clock at each part of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from optimlab.bench.implementations import Run
from optimlab.bench.timing import Effort, without_collector
from optimlab.bench.workloads import Values
from optimlab.native import plan
from optimlab.native.carrier import carrier

STEP, REST = "step", "checks"
MOST_STEPS = 300

Clock = Callable[[str, float], None]


def watched() -> Mapping[str, tuple[Any, str]]:
    """Name the functions that a step on CPU calls, one for each of its parts."""
    chosen = type(carrier())
    return {
        "look": (chosen, "look"),
        "rule": (plan, "read"),
        "arithmetic": (chosen, "carry_out"),
        "versions": (plan, "increment_version"),
    }


def phases(run: Run, values: Values, effort: Effort) -> Mapping[str, float]:
    """Divide the time of a step into its parts.

    Args:
        run: optimlab at work; its state is changed.
        values: where gradients come from.
        effort: how long to measure.

    Returns:
        Medians in seconds: of the whole step; of looking at all tensors; of reading the rule for
        this step's numbers; of the arithmetic itself; of moving autograd's version counters; and
        of everything else: hooks, and whether groups, parameters and state are the same objects.
        Empty off the CPU, where the parts are torch's own.
    """
    if values.device != "cpu":
        return {}
    spent: dict[str, float] = {}
    steps: list[dict[str, float]] = []

    def count(name: str, seconds: float) -> None:
        spent[name] = spent.get(name, 0.0) + seconds

    began = time.perf_counter()
    with clocks(count), without_collector():
        while len(steps) < MOST_STEPS and (
            len(steps) < effort.repeats or time.perf_counter() - began < effort.seconds
        ):
            run.take(values.gradients_of(len(steps)))
            timed(run.step, STEP, count)()
            steps.append(dict(spent))
            spent.clear()
    found = {name: median(each.get(name, 0.0) for each in steps) for name in (STEP, *watched())}
    found[REST] = max(2 * found[STEP] - sum(found.values()), 0.0)
    return found


@contextmanager
def clocks(count: Clock) -> Iterator[None]:
    """Put a clock at each function that is watched."""
    with ExitStack() as stack:
        for name, (owner, attribute) in watched().items():
            function = getattr(owner, attribute)
            stack.callback(setattr, owner, attribute, function)
            setattr(owner, attribute, timed(function, name, count))
        yield


def timed(function: Callable[..., Any], name: str, count: Clock) -> Callable[..., Any]:
    """Count the seconds that a function takes under a name."""

    def wrapper(*args: Any, **keywords: Any) -> Any:
        began = time.perf_counter_ns()
        try:
            return function(*args, **keywords)
        finally:
            count(name, (time.perf_counter_ns() - began) / 1e9)

    return wrapper
