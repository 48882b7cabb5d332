"""Measuring one rule on one workload: who takes part, the warm-up, the turns, the bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from optimlab.bench import limit
from optimlab.bench.implementations import (
    IMPLEMENTATIONS,
    OURS,
    UNTIMED_STEPS,
    UNTIMED_STEPS_COMPILED,
    Run,
    Values,
    default_of_torch,
)
from optimlab.bench.phases import phases
from optimlab.bench.results import Bits, Outcome, about
from optimlab.bench.rules import RULES
from optimlab.bench.timing import Effort, Entrant, Timing, Turn, time_in_turns


def measure(rule: str, values: Values, implementations: Sequence[str], effort: Effort) -> Outcome:
    """Time all implementations of a rule on a workload, and compare the bits they end with."""
    traffic, elements = limit.traffic_of(RULES[rule]), values.workload.elements
    runs, missing = build_runs(rule, values, implementations)
    first_step = warm_up(runs, missing, values)
    loops = limit.prepare(traffic, elements, values.device)
    seconds, steps = time_in_turns(
        {name: Entrant(run.step, partial(take, run, values)) for name, run in runs.items()}
        | {f"limit {name}": Entrant(loop.run) for name, loop in loops.items()},
        effort=effort,
        turn=Turn.for_elements(elements),
        first_step=first_step,
        device=values.device,
    )
    timings = {name: Timing.of(each) for name, each in seconds.items()}
    found = limit.fastest(
        loops, {n: timings[f"limit {n}"].median for n in loops}, traffic, elements
    )
    reference, ours = runs[default_of_torch(values.device)].tensors(), timings[OURS].median
    return Outcome(
        **about(values.workload, rule),
        steps=steps,
        seconds={name: timings[name] for name in runs},
        missing=missing,
        limit=found,
        bits={name: Bits.compare(run.tensors(), reference) for name, run in runs.items()},
        times_optimlab={name: timings[name].median / ours for name in runs},
        share_of_limit=found.seconds / ours,
        phases=phases(runs[OURS], values, effort),
    )


def build_runs(
    rule: str, values: Values, implementations: Sequence[str]
) -> tuple[dict[str, Run], dict[str, str]]:
    """Build what can carry the rule out, and say why the others cannot."""
    if any(IMPLEMENTATIONS[name].compiled for name in implementations):
        # torch.compile gives up on a function that it has compiled for too many other tensors.
        torch.compiler.reset()
    chosen = {name: IMPLEMENTATIONS[name] for name in implementations}
    reasons = {name: each.missing(RULES[rule], values.workload) for name, each in chosen.items()}
    runs = {
        name: Run(each, RULES[rule], values.start)
        for name, each in chosen.items()
        if not reasons[name]
    }
    return runs, {name: reason for name, reason in reasons.items() if reason}


def warm_up(runs: dict[str, Run], missing: dict[str, str], values: Values) -> int:
    """Step all runs until state and compiled code are there; drop what cannot be compiled.

    Returns:
        The number of steps that each of them has made.
    """
    compiled = any(IMPLEMENTATIONS[name].compiled for name in runs)
    steps = UNTIMED_STEPS_COMPILED if compiled else UNTIMED_STEPS
    for name, run in list(runs.items()):
        try:
            for step in range(steps):
                take(run, values, step)
                run.step()
        except RuntimeError as error:
            if not IMPLEMENTATIONS[name].compiled:
                raise
            del runs[name]
            missing[name] = f"does not compile here: {str(error).strip().splitlines()[0]}"
    return steps


def take(run: Run, values: Values, step: int) -> None:
    """Give a run the gradients of a step."""
    run.take(values.gradients_of(step))
