"""Carrying out a rule: for-loop, foreach, fused and native, side by side.

``Rule.step`` hands over one :class:`Batch` per parameter group, already checked. Each function here
reads the same rule on another kind of value, and none of them knows an optimizer:

=================  ========================================  ===================================
:func:`for_loop`   one tensor after the other                the bits of torch's for-loop
:func:`foreach`    lists of tensors (``torch._foreach_*``)   the bits of torch's foreach
:func:`fused`      lists, handed to torch's fused kernel     the bits of that kernel
``native.launch``  symbols, once; then one pass over memory  the bits of the for-loop
=================  ========================================  ===================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from optimlab import native
from optimlab.core.batch import Batch, Execution, FusedStep, Member, Stepped
from optimlab.core.decorators import is_declared
from optimlab.core.tensor_list import OneByOne, PartialState, TensorList
from optimlab.core.values import Moving, StepCount, as_scalars
from optimlab.native.launch import Launch, launch, no_modes_active
from optimlab.native.step_cache import CachedStep, cache_step


def execute(rule: Stepped, batches: Sequence[Batch]) -> CachedStep | None:
    """Carry out a step, group by group: an error leaves the groups behind it untouched.

    Returns:
        What the next step can repeat, if the kernel served every tensor.
    """
    # Not while something intercepts operations: the kernel's first use compares many with ATen.
    is_quiet = not torch.compiler.is_compiling() and no_modes_active()
    capable = native.usable() if is_quiet else None
    served: dict[int, list[Launch]] = {}
    for place, batch in enumerate(batches):
        if not batch.members:
            continue
        _make_state(rule, batch)
        if batch.execution is Execution.FOREACH:
            foreach(rule, batch)
        elif batch.execution is Execution.FUSED:
            fused(rule, batch)
        elif capable is not None and (launches := launch(capable, rule, batch)):
            served[place] = launches
        else:
            for_loop(rule, batch)
        _store_made_state(rule, batch)
    if capable is None or not served or "state" not in vars(rule):
        return None
    return cache_step(capable, rule, batches, served)


# For-loop.


def for_loop(rule: Stepped, batch: Batch) -> None:
    """Read the rule on one tensor after the other."""
    group = _group_of(rule, batch)
    is_lazy = _takes_unequal_steps(rule)
    for member in batch.members:
        state, step = member.state, member.step
        number = 1.0 if step is None else _next(step, batch, is_lazy=is_lazy)
        if rule.complex_as_real and member.param.is_complex():
            state = {name: torch.view_as_real(tensor) for name, tensor in state.items()}
        rule.update(member.param, member.grad, state, number, group)


def _next(step: Tensor, batch: Batch, *, is_lazy: bool) -> Any:
    """Count a step; return the count as the rule takes it."""
    step += 1
    if batch.differentiable:
        return step.clone()  # autograd may keep it, and the next step changes the original
    if batch.steps_stay_tensors:
        return step
    return StepCount(step) if is_lazy else float(step.item())


# Foreach.


def foreach(rule: Stepped, batch: Batch) -> None:
    """Read the rule on lists of tensors, each of one device and one dtype.

    A rule that is not declared to take unequal steps gets lists of one step count, as a plain
    number, and of the same state.
    """
    undivided = _takes_unequal_steps(rule)
    for members in batch.lists:
        if undivided:
            _update_list(rule, batch, members)
        else:
            _count_together(_steps(members))
            for number, same in _divided(members, batch):
                _update_list(rule, batch, same, number)


def _count_together(steps: list[Tensor]) -> None:
    if steps and steps[0].is_cpu and not torch.compiler.is_compiling():
        # A number would be wrapped into a tensor again for each of them.
        torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    elif steps:
        torch._foreach_add_(steps, 1)


def _update_list(
    rule: Stepped, batch: Batch, members: Sequence[Member], number: float | None = None
) -> None:
    """Read the rule on one list; without a number the step is counted here, and left to read."""

    def listed(tensors: Sequence[Tensor], kind: type[TensorList] = TensorList) -> TensorList:
        if rule.complex_as_real:
            pairs = zip(members, tensors, strict=True)
            tensors = [torch.view_as_real(t) if m.param.is_complex() else t for m, t in pairs]
        return kind(list(tensors), capturable=bool(batch.capturable))

    sparse = any([member.grad.is_sparse for member in members])  # noqa: C419 - twice as fast
    param = listed([member.param for member in members], OneByOne if sparse else TensorList)
    grad = listed([member.grad for member in members])
    state: dict[str, TensorList] = {}
    if len({len(member.state) for member in members}) > 1:
        state = PartialState([member.state for member in members])
    else:
        for name in members[0].state:
            state[name] = listed([member.state[name] for member in members])

    steps, step = _steps(members), cast(Any, number)
    if number is None:  # only now: torch counts once the tensors are viewed as real
        _count_together(steps)
        step = StepCount(steps) if steps else 1.0
    if batch.steps_stay_tensors and steps:
        step = TensorList(steps, capturable=bool(batch.capturable))
    rule.update(param, grad, state, step, _group_of(rule, batch))
    if rule.state_spec.made_by_rule:
        for name, made in state.items():
            for member, tensor in zip(members, made.tensors, strict=True):
                member.state[name] = tensor


def _divided(members: list[Member], batch: Batch) -> list[tuple[float, list[Member]]]:
    """Divide members by the step count and by the state that they have."""
    divided: defaultdict[tuple[float, tuple[str, ...]], list[Member]] = defaultdict(list)
    for member in members:
        number = 1.0
        if member.step is not None and not batch.steps_stay_tensors:
            number = float(member.step.item())
        divided[number, tuple(member.state)].append(member)
    return [(number, same) for (number, _), same in divided.items()]


# Fused.


def fused(rule: Stepped, batch: Batch) -> None:
    """Hand lists of tensors to torch's fused kernel, one call for each device and dtype."""
    members = batch.members
    is_first_step = (
        rule.state_spec.made_by_rule and bool(batch.names) and not any(m.state for m in members)
    )
    if is_first_step:
        for member in members:
            # Zeros, because a kernel that skips the step (found_inf) leaves them as they are.
            member.state = {name: torch.zeros_like(member.grad) for name in batch.names}
    scaling = FusedStep(
        is_first_step,
        vars(rule).get("grad_scale"),
        vars(rule).get("found_inf"),
    )
    for same in batch.lists:
        _update_fused(rule, batch, same, scaling.to(same[0].param.device))


def _update_fused(
    rule: Stepped, batch: Batch, members: Sequence[Member], scaling: FusedStep
) -> None:
    # A tensor that is missing stays missing: the kernel's own error is torch's error.
    state: dict[str, Any] = {
        name: TensorList([m.state.get(name) for m in members])  # type: ignore[misc]
        for name in batch.names
    }
    steps = TensorList(_steps(members))
    param = TensorList([member.param for member in members])
    grad = TensorList([member.grad for member in members])
    rule.fused_update(param, grad, state, steps, batch.group, scaling)


# What they share.


def _make_state(rule: Stepped, batch: Batch) -> None:
    """Make the state of parameters that take their first step."""
    spec = rule.state_spec
    if spec.made_by_rule:
        for member in batch.members if batch.names else ():
            _ = rule.state[member.param]  # which keeps the order of the parameters
        return
    kind = {"capturable": batch.capturable, "fused": batch.execution is Execution.FUSED}
    for member in batch.members:
        if member.is_new:
            held = rule.state[member.param]
            if len(held) == 0:
                for name, tensor in spec.start(member.param, batch.group, **kind):
                    held[name] = tensor
            member.state = {name: held[name] for name in batch.names}
            member.step = None if spec.count is None else held["step"]


def _store_made_state(rule: Stepped, batch: Batch) -> None:
    """Store the state that the rule made, once all of the group has been carried out."""
    if rule.state_spec.made_by_rule and batch.names:
        for member in batch.members:
            held = rule.state[member.param]
            for name in batch.names:
                held[name] = member.state[name]


def _takes_unequal_steps(rule: Stepped) -> bool:
    return is_declared(getattr(rule.update, "__func__", None), "unequal")


def _group_of(rule: Stepped, batch: Batch) -> dict[str, Any]:
    """Return the hyperparameters for the rule."""
    group = as_scalars(batch.group, rule.scalars)
    return Moving(group) if torch.is_grad_enabled() else group


def _steps(members: Sequence[Member]) -> list[Tensor]:
    return [member.step for member in members if member.step is not None]


def of_one_kind(batch: Batch) -> Collection[list[Member]]:
    """Divide members by device and dtype.

    Raises:
        RuntimeError: if a gradient or state tensor has another dtype or device than its parameter.
    """
    if not batch.members:
        return []
    lists: list[list[Tensor | None]] = [[m.param for m in batch.members]]
    lists.append([m.grad for m in batch.members])
    lists += [[m.state.get(name) for m in batch.members] for name in batch.names]
    lists.append([m.step for m in batch.members])
    divided = torch.optim.Optimizer._group_tensors_by_device_and_dtype(lists, with_indices=True)
    if len(divided) == 1:
        return [batch.members]
    return [[batch.members[i] for i in indices] for _, indices in divided.values()]
