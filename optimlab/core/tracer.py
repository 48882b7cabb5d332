"""Reading a rule on symbols, as it would be carried out in a certain step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optimlab.core.batch import Execution, FusedStep, Stepped
from optimlab.core.groups import ParamGroup
from optimlab.core.program import Program, Recorder, Symbol
from optimlab.core.values import as_scalars


def trace_rule(
    rule: Stepped,
    group: ParamGroup,
    step: int,
    execution: Execution,
    *,
    is_complex: bool,
    step_is_tensor: bool,
) -> Program:
    """Write a rule down.

    Args:
        rule: what has it.
        group: the hyperparameters.
        step: which step it is, counted from 1.
        execution: by what it would be carried out.
        is_complex: whether parameters are complex.
        step_is_tensor: whether the rule must not read the value of the step count.
    """
    spec, is_fused = rule.state_spec, execution is Execution.FUSED
    recorder = Recorder(listed=execution is not Execution.FOR_LOOP)
    made_by_rule = spec.made_by_rule and step == 1 and not is_fused
    names = ("param", "grad", *(() if made_by_rule else spec.names(group)))
    counted = recorder.scalars.group(as_scalars(group, rule.scalars))
    number: Any = recorder.scalars.step_count(float(step))
    counts_in_tensor = step_is_tensor and spec.count is not None

    def update(param: Any, grad: Any, state: dict[str, Any]) -> None:
        if is_fused:
            steps = Symbol(recorder) if spec.count is None else recorder.input("step")
            rule.fused_update(param, grad, state, steps, counted, FusedStep(step == 1))
        else:
            steps = recorder.input("step") if counts_in_tensor else number
            rule.update(param, grad, state, steps, counted)

    as_pairs = rule.complex_as_real and is_complex
    outputs = run_on_symbols(recorder, names, update, is_complex=as_pairs)
    del outputs["grad"]
    return recorder.program(f"{type(rule).__name__}, step {step}, {execution.value}", outputs)


def run_on_symbols(
    recorder: Recorder,
    names: Sequence[str],
    update: Callable[[Any, Any, dict[str, Any]], None],
    *,
    is_complex: bool = False,
) -> dict[str, Symbol]:
    """Put symbols through a rule, whose operations the recorder then has.

    Args:
        recorder: it takes the symbols as its inputs.
        names: of the inputs: ``param``, ``grad`` and state names.
        update: the rule, for a certain step and its hyperparameters.
        is_complex: whether complex numbers are viewed as pairs of real ones.

    Returns:
        By name the inputs, and what state the rule has made.
    """
    inputs = {name: recorder.input(name, is_complex=is_complex) for name in names}
    state = dict(inputs)
    if is_complex:
        # Where complex numbers are viewed as pairs: see values.as_real.
        for name in names if recorder.listed else names[2:]:
            state[name] = inputs[name].as_real()
    update(state.pop("param"), state.pop("grad"), state)
    return {**state, **inputs}
