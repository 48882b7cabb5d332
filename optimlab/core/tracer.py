"""Reading a rule on symbols, as it would be carried out in a certain step."""

from __future__ import annotations

from typing import Any

from optimlab.core.batch import Execution, FusedStep, Stepped
from optimlab.core.groups import ParamGroup
from optimlab.core.program import Program, Recorder, Symbol
from optimlab.core.values import as_scalars


def trace(
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
    as_pairs = rule.complex_as_real and is_complex
    inputs = {name: recorder.input(name, is_complex=as_pairs) for name in names}
    # Where complex numbers are viewed as pairs: see values.as_real.
    views_first = names if recorder.listed else names[2:]
    state = {n: x.as_real() if n in views_first else x for n, x in inputs.items()}
    param, grad = state.pop("param"), state.pop("grad")

    counted = recorder.scalars.group(as_scalars(group, rule.scalars))
    number: Any = recorder.scalars.step_count(float(step))
    if is_fused:
        steps = Symbol(recorder) if spec.count is None else recorder.input("step")
        rule.fused_update(param, grad, state, steps, counted, FusedStep(step == 1))
    else:
        if spec.count is not None and step_is_tensor:
            number = recorder.input("step")
        rule.update(param, grad, state, number, counted)
    outputs = {**state, **inputs}
    del outputs["grad"]
    return recorder.program(f"{type(rule).__name__}, step {step}, {execution.value}", outputs)
