"""Carrying out a rule: tensor by tensor, many tensors together, or by a fused kernel.

``Optimizer.step`` hands over one :class:`Batch` per parameter group, already checked. Each function
here reads the same rule on another kind of value, and none of them knows an optimizer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from optimlab import native
from optimlab.core.batch import Batch, Execution, FusedStep, Member, Stepped
from optimlab.core.values import Moving, OneByOne, PartialState, TensorList, Unread, as_scalars
from optimlab.native.launch import Launch, launch, no_modes_active
from optimlab.native.step_cache import CachedStep, cache_step


def carry_out(optimizer: Stepped, batches: Sequence[Batch]) -> CachedStep | None:
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
        optimizer._complete_state(batch)
        if batch.execution is not Execution.ONE_BY_ONE:
            _EXECUTIONS[batch.execution](optimizer, batch)
        elif capable is not None and (launches := launch(capable, optimizer, batch)):
            served[place] = launches
        else:
            one_by_one(optimizer, batch)
        _keep_made_state(optimizer, batch)
    if capable is None or not served or "state" not in vars(optimizer):
        return None
    return cache_step(capable, optimizer, batches, served)


def _keep_made_state(optimizer: Stepped, batch: Batch) -> None:
    """Store the state that the rule made, once all of the group has been carried out."""
    if optimizer.rule_makes_state and batch.names:
        for member in batch.members:
            held = optimizer.state[member.param]
            for name in batch.names:
                held[name] = member.state[name]


def takes_unequal_steps(optimizer: Stepped) -> bool:
    """Tell whether a rule itself is declared so, and not one that it wraps."""
    rule = getattr(optimizer.update, "__func__", None)
    return rule is not None and getattr(rule, "declared_unequal", None) is rule


def _group_of(optimizer: Stepped, batch: Batch) -> dict[str, Any]:
    """Return the hyperparameters for the rule."""
    group = as_scalars(batch.group, optimizer.scalars)
    return Moving(group) if torch.is_grad_enabled() else group


def one_by_one(optimizer: Stepped, batch: Batch) -> None:
    """Read the rule on one tensor after the other: torch's for-loop."""
    group = _group_of(optimizer, batch)
    is_lazy = takes_unequal_steps(optimizer)
    for member in batch.members:
        state, step = member.state, member.step
        number = 1.0 if step is None else _next(step, batch, is_lazy=is_lazy)
        if optimizer.complex_as_real and member.param.is_complex():
            state = {name: torch.view_as_real(tensor) for name, tensor in state.items()}
        optimizer.update(member.param, member.grad, state, number, group)


def _next(step: Tensor, batch: Batch, *, is_lazy: bool) -> Any:
    """Count a step; return the count as the rule takes it."""
    step += 1
    if batch.differentiable:
        return step.clone()  # autograd may keep it, and the next step changes the original
    if batch.steps_stay_tensors:
        return step
    return Unread(step) if is_lazy else float(step.item())


def together(optimizer: Stepped, batch: Batch) -> None:
    """Read the rule on lists of tensors: torch's foreach implementation.

    Each list has one device and one dtype. A rule that is not declared to take unequal steps gets
    lists of one step count, as a plain number, and of the same state.
    """
    undivided = takes_unequal_steps(optimizer)
    for members in batch.lists:
        if undivided:
            _update_list(optimizer, batch, members)
        else:
            _count_together(_steps(members))
            for number, same in _divided(members, batch):
                _update_list(optimizer, batch, same, number)


def _steps(members: Sequence[Member]) -> list[Tensor]:
    return [member.step for member in members if member.step is not None]


def _count_together(steps: list[Tensor]) -> None:
    if steps and steps[0].is_cpu and not torch.compiler.is_compiling():
        # A number would be wrapped into a tensor again for each of them.
        torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    elif steps:
        torch._foreach_add_(steps, 1)


def _update_list(
    optimizer: Stepped, batch: Batch, members: Sequence[Member], number: float | None = None
) -> None:
    """Read the rule on one list; without a number the step is counted here, and left to read."""

    def listed(tensors: Sequence[Tensor], kind: type[TensorList] = TensorList) -> TensorList:
        if optimizer.complex_as_real:
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
        step = Unread(steps) if steps else 1.0
    if batch.steps_stay_tensors and steps:
        step = TensorList(steps, capturable=bool(batch.capturable))
    optimizer.update(param, grad, state, step, _group_of(optimizer, batch))
    if optimizer.rule_makes_state:
        for name, made in state.items():
            for member, tensor in zip(members, made.tensors, strict=True):
                member.state[name] = tensor


def fused(optimizer: Stepped, batch: Batch) -> None:
    """Hand lists of tensors to torch's fused kernel, one call for each device and dtype."""
    members = batch.members
    is_first_step = (
        optimizer.rule_makes_state and bool(batch.names) and not any(m.state for m in members)
    )
    if is_first_step:
        for member in members:
            # Zeros, because a kernel that skips the step (found_inf) leaves them as they are.
            member.state = {name: torch.zeros_like(member.grad) for name in batch.names}
    scaling = FusedStep(
        is_first_step,
        getattr(optimizer, "grad_scale", None),
        getattr(optimizer, "found_inf", None),
    )
    for same in batch.lists:
        _update_fused(optimizer, batch, same, scaling.to(same[0].param.device))


def _update_fused(
    optimizer: Stepped, batch: Batch, members: Sequence[Member], scaling: FusedStep
) -> None:
    # A tensor that is missing stays missing: the kernel's own error is torch's error.
    state: dict[str, Any] = {
        name: TensorList([m.state.get(name) for m in members])  # type: ignore[misc]
        for name in batch.names
    }
    steps = TensorList(_steps(members))
    param = TensorList([member.param for member in members])
    grad = TensorList([member.grad for member in members])
    optimizer.fused_update(param, grad, state, steps, batch.group, scaling)


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


def _divided(members: list[Member], batch: Batch) -> list[tuple[float, list[Member]]]:
    """Divide members by the step count and by the state that they have."""
    divided: defaultdict[tuple[float, tuple[str, ...]], list[Member]] = defaultdict(list)
    for member in members:
        number = 1.0
        if member.step is not None and not batch.steps_stay_tensors:
            number = float(member.step.item())
        divided[number, tuple(member.state)].append(member)
    return [(number, same) for (number, _), same in divided.items()]


_EXECUTIONS: dict[Execution, Callable[[Stepped, Batch], None]] = {
    Execution.TOGETHER: together,
    Execution.FUSED: fused,
}
