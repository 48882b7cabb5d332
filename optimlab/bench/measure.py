"""Measuring one rule on one workload: who takes part, the warm-up, the turns, the bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optimlab.bench import limit
from optimlab.bench.bits import compare
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
from optimlab.bench.results import Outcome
from optimlab.bench.rules import RULES
from optimlab.bench.timing import Effort, Entrant, Timing, Turn, time_in_turns


def measure(
    rule_name: str, values: Values, implementations: Sequence[str], effort: Effort
) -> Outcome:
    """Time all implementations of a rule on a workload, and compare the bits they end with.

    Args:
        rule_name: key of ``RULES``.
        values: the workload with its numbers.
        implementations: keys of ``IMPLEMENTATIONS``.
        effort: how long to measure.
    """
    rule, workload = RULES[rule_name], values.workload
    runs, missing = build_runs(rule_name, values, implementations)
    first_step = warm_up(runs, missing, values)
    traffic = limit.traffic_of(rule)
    loops = limit.prepare(traffic, workload.elements, values.device)
    seconds, steps = time_in_turns(
        {name: entrant(run, values) for name, run in runs.items()}
        | {f"limit {name}": Entrant(loop.run) for name, loop in loops.items()},
        effort=effort,
        turn=Turn.for_elements(workload.elements),
        first_step=first_step,
        device=values.device,
    )
    timings = {name: Timing.of(each) for name, each in seconds.items()}
    medians = {name: timings[f"limit {name}"].median for name in loops}
    reference = runs[default_of_torch(values.device)].tensors()
    comparisons = {name: compare(run.tensors(), reference) for name, run in runs.items()}
    return Outcome(
        workload=workload,
        rule_name=rule_name,
        device=values.device,
        steps=steps,
        timings={name: timings[name] for name in runs},
        missing=missing,
        limit=limit.fastest(loops, medians, traffic.bytes(workload.elements)),
        comparisons=comparisons,
        phases=phases(runs[OURS], values, effort),
    )


def build_runs(
    rule_name: str, values: Values, implementations: Sequence[str]
) -> tuple[dict[str, Run], dict[str, str]]:
    """Build what can carry the rule out, and say why the others cannot."""
    if any(IMPLEMENTATIONS[name].compiled for name in implementations):
        # torch.compile gives up on a function that it has compiled for too many other tensors.
        torch.compiler.reset()
    runs, missing = {}, {}
    for name in implementations:
        implementation = IMPLEMENTATIONS[name]
        reason = implementation.missing(RULES[rule_name], values.workload)
        if reason:
            missing[name] = reason
        else:
            runs[name] = Run(implementation, RULES[rule_name], values.start)
    return runs, missing


def warm_up(runs: dict[str, Run], missing: dict[str, str], values: Values) -> int:
    """Step all runs until state and compiled code are there; drop what cannot be compiled.

    Returns:
        The number of steps that each of them has made.
    """
    compiled = any(IMPLEMENTATIONS[name].compiled for name in runs)
    steps = UNTIMED_STEPS_COMPILED if compiled else UNTIMED_STEPS
    for name, run in list(runs.items()):
        try:
            make_steps(run, steps, values)
        except RuntimeError as error:
            if not IMPLEMENTATIONS[name].compiled:
                raise
            del runs[name]
            missing[name] = f"does not compile here: {str(error).strip().splitlines()[0]}"
    return steps


def make_steps(run: Run, count: int, values: Values) -> None:
    """Make the first steps."""
    for step in range(count):
        run.take(values.gradients_of(step))
        run.step()


def entrant(run: Run, values: Values) -> Entrant:
    """Let a run take part: its gradients are set before the clock starts."""
    return Entrant(run.step, lambda step: run.take(values.gradients_of(step)))
