"""Timing in one interleaved run.

Whatever slows this machine down meets all that are compared: they take turns, in an order that is
drawn anew for each round. A turn on a workload that fits into a cache is several steps long, of
which the first is not counted, so that each is timed with its own data in the caches, as in a loop
of training whose activations leave room for them; on a large workload a turn is one step.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import torch

# About where parameters, gradients and state outgrow the caches of today's processors.
CACHED_ELEMENTS = 4_000_000
MOST_STEPS = 1_000


@dataclass(frozen=True)
class Entrant:
    """What takes turns: ``run`` is timed, ``prepare`` is told the number of the step before."""

    run: Callable[[], object]
    prepare: Callable[[int], None] = lambda step: None


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        least_steps: the least number of timed steps of each entrant.
        least_seconds: the least time for all of them together, unless 1,000 steps take less.
    """

    least_steps: int
    least_seconds: float

    def spent(self, steps: int, began: float) -> bool:
        """Tell whether so many steps since that time are enough."""
        seconds = time.perf_counter() - began
        return steps >= self.least_steps and (seconds >= self.least_seconds or steps >= MOST_STEPS)


@dataclass(frozen=True)
class Turn:
    """How many steps are made in a row: first the untimed ones, then the timed ones."""

    untimed: int
    timed: int

    @classmethod
    def for_elements(cls, elements: int) -> Turn:
        """Choose by the size of a workload."""
        return cls(1, 4) if elements < CACHED_ELEMENTS else cls(0, 1)

    def take(self, entrant: Entrant, step: int, device: str) -> list[float]:
        """Make the steps, from this number, and return the seconds of those that are timed."""
        seconds, wait = [], torch.cuda.synchronize if device == "cuda" else bool
        for number in range(step, step + self.untimed + self.timed):
            entrant.prepare(number)
            wait()
            began = time.perf_counter_ns()
            entrant.run()
            wait()
            seconds.append((time.perf_counter_ns() - began) / 1e9)
        return seconds[self.untimed :]


@dataclass(frozen=True)
class Timing:
    """The distribution of the times of one entrant, in seconds."""

    repeats: int
    least: float
    first_quartile: float
    median: float
    third_quartile: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Sum up single times."""
        first, _, third = quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
        return cls(len(seconds), min(seconds), first, median(seconds), third)


def time_in_turns(
    entrants: Mapping[str, Entrant], *, effort: Effort, turn: Turn, first_step: int, device: str
) -> tuple[dict[str, list[float]], int]:
    """Time all entrants in turns, from the step of this number.

    Returns:
        The seconds of each timed step by name of the entrant, and the number of the step that
        would be next: all entrants have made the same number of steps.
    """
    order, shuffle = list(entrants), random.Random(0).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in entrants}
    began, step = time.perf_counter(), first_step
    with without_collector():
        while not effort.spent(min(map(len, seconds.values())), began):
            shuffle(order)
            for name in order:
                seconds[name] += turn.take(entrants[name], step, device)
            step += turn.untimed + turn.timed
    return seconds, step


@contextmanager
def without_collector() -> Iterator[None]:
    """Collect garbage now and not again before the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
