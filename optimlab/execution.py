"""Carrying out a rule: tensor by tensor, many tensors together, or by a fused kernel.

``Optimizer.step`` hands over one :class:`Batch` per parameter group, already checked. Each function
here reads the same rule on another kind of value, and none of them knows an optimizer.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optimlab import native
from optimlab.native.launch import Launch
from optimlab.native.step_cache import CachedStep, cache_step, launch, no_modes_active
from optimlab.values import OneByOne, TensorList

if TYPE_CHECKING:
    from optimlab.optimizer import Optimizer


class Execution(enum.Enum):
    """The ways to carry out a rule."""

    ONE_BY_ONE = "one by one"
    TOGETHER = "together"
    FUSED = "fused"


@dataclass(slots=True)
class Member:
    """A parameter that takes part in a step, with what the rule needs of it.

    Attributes:
        param: the parameter.
        grad: its gradient, which is only ever read.
        state: the state tensors that the rule names, without those it has yet to make.
        step: the step count, if the optimizer counts steps.
        is_new: whether its state has still to be made.
        number: the value of the step count, where it may be read.
    """

    param: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    step: Tensor | None = None
    is_new: bool = False
    number: float = 1.0


@dataclass(slots=True)
class Batch:
    """The members of one parameter group, and how their step is carried out."""

    group: dict[str, Any]
    names: tuple[str, ...]
    members: list[Member]
    execution: Execution


@dataclass(frozen=True, slots=True)
class FusedStep:
    """What a fused kernel takes besides hyperparameters.

    Attributes:
        is_first_step: whether no parameter of the group has state yet.
        grad_scale: what ``torch.amp.GradScaler`` multiplied the loss with, or ``None``.
        found_inf: 1 if a scaled gradient overflowed and the step must change nothing, or ``None``.
    """

    is_first_step: bool = False
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def to(self, device: torch.device) -> FusedStep:
        """Return the same with its tensors on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return FusedStep(self.is_first_step, moved(self.grad_scale), moved(self.found_inf))


def carry_out(optimizer: Optimizer, batches: Sequence[Batch]) -> CachedStep | None:
    """Carry out a step.

    Returns:
        What the next step can repeat, if the kernel served every tensor.
    """
    # Not while something intercepts operations: the kernel's first use compares many with ATen.
    is_quiet = not torch.compiler.is_compiling() and no_modes_active()
    runner = native.runner() if is_quiet else None
    served: dict[int, list[Launch]] = {}
    for place, batch in enumerate(batches):
        if not batch.members:
            continue
        if batch.execution is not Execution.ONE_BY_ONE:
            _EXECUTIONS[batch.execution](optimizer, batch)
        elif runner is not None and (launches := launch(runner, optimizer, batch)):
            served[place] = launches
        else:
            one_by_one(optimizer, batch, batch.members)
    return None if runner is None else cache_step(runner, optimizer, batches, served)


def one_by_one(optimizer: Optimizer, batch: Batch, members: Sequence[Member]) -> None:
    """Read the rule on one tensor after the other: torch's for-loop."""
    group = batch.group
    for member in members:
        state, step = member.state, 1.0 if member.step is None else _next(member.step, group)
        if optimizer.complex_as_real and member.param.is_complex():
            state = {name: torch.view_as_real(tensor) for name, tensor in state.items()}
        complete = len(state) == len(batch.names)
        optimizer.update(member.param, member.grad, state, step, group)
        if not complete:
            _keep(optimizer, batch.names, member.param, state)


def _next(step: Tensor, group: dict[str, Any]) -> float | Tensor:
    """Count a step; return the count, as a tensor where its value must not be read."""
    step += 1
    if group["differentiable"]:
        return step.clone()  # autograd may keep it, and the next step changes the original
    return step if _steps_stay_tensors(group) else float(step.item())


def _steps_stay_tensors(group: dict[str, Any]) -> bool:
    return bool(group.get("capturable")) or torch.compiler.is_compiling()


def _keep(
    optimizer: Optimizer, names: Iterable[str], param: Tensor, state: dict[str, Tensor]
) -> None:
    """Store the state that a rule made at a parameter's first step."""
    held = optimizer.state[param]
    for name in names:
        held[name] = state[name]


def together(optimizer: Optimizer, batch: Batch) -> None:
    """Read the rule on lists of tensors: torch's foreach implementation.

    The members are divided so that each list has one device, one dtype, one step count (the rule
    computes with plain numbers) and the same state.
    """
    as_numbers = not _steps_stay_tensors(batch.group)
    _count_together([member.step for member in batch.members if member.step is not None])
    for same_kind in _of_one_kind(batch):
        if as_numbers:
            for member in same_kind:
                if member.step is not None:
                    member.number = float(member.step.item())
        divided = _divided(same_kind)
        incomplete = len({tuple(same[0].state) for same in divided}) > 1
        for same in divided:
            _update_list(optimizer, batch, same, OneByOne if incomplete else TensorList)


def _count_together(steps: list[Tensor]) -> None:
    if steps and steps[0].is_cpu and not torch.compiler.is_compiling():
        # A number would be wrapped into a tensor again for each of them.
        torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    elif steps:
        torch._foreach_add_(steps, 1)


def _update_list(
    optimizer: Optimizer,
    batch: Batch,
    members: Sequence[Member],
    state_type: type[TensorList],
) -> None:
    capturable = bool(batch.group.get("capturable"))
    as_real = optimizer.complex_as_real and members[0].param.is_complex()

    def listed(tensors: list[Tensor], kind: type[TensorList] = TensorList) -> TensorList:
        values = kind(tensors, capturable=capturable)
        return values.as_real() if as_real else values

    sparse = any([member.grad.is_sparse for member in members])  # noqa: C419 - twice as fast
    param = listed([member.param for member in members], OneByOne if sparse else TensorList)
    state = {
        name: listed([member.state[name] for member in members], state_type)
        for name in members[0].state
    }
    grad = listed([member.grad for member in members])
    step: float | TensorList = members[0].number
    if _steps_stay_tensors(batch.group):
        step = TensorList([m.step for m in members if m.step is not None], capturable=capturable)
    complete = len(state) == len(batch.names)
    optimizer.update(param, grad, state, step, batch.group)
    if not complete:
        for i, member in enumerate(members):
            held = {name: value.tensors[i] for name, value in state.items()}
            _keep(optimizer, batch.names, member.param, held)


def fused(optimizer: Optimizer, batch: Batch) -> None:
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
    for same in _of_one_kind(batch):
        _update_fused(optimizer, batch, same, scaling.to(same[0].param.device))
    if is_first_step:
        for member in members:
            _keep(optimizer, batch.names, member.param, member.state)


def _update_fused(
    optimizer: Optimizer, batch: Batch, members: Sequence[Member], scaling: FusedStep
) -> None:
    # A tensor that is missing stays missing: the kernel's own error is torch's error.
    state: dict[str, Any] = {
        name: TensorList([m.state.get(name) for m in members])  # type: ignore[misc]
        for name in batch.names
    }
    steps = TensorList([member.step for member in members if member.step is not None])
    param = TensorList([member.param for member in members])
    grad = TensorList([member.grad for member in members])
    optimizer.fused_update(param, grad, state, steps, batch.group, scaling)


def _of_one_kind(batch: Batch) -> Collection[list[Member]]:
    """Divide members by device and dtype; torch refuses float16 state of other parameters."""
    lists: list[list[Tensor | None]] = [[m.param for m in batch.members]]
    lists.append([m.grad for m in batch.members])
    lists += [[m.state.get(name) for m in batch.members] for name in batch.names]
    if batch.members[0].step is not None:
        lists.append([m.step for m in batch.members])
    divided = torch.optim.Optimizer._group_tensors_by_device_and_dtype(lists, with_indices=True)
    if len(divided) == 1:
        return [batch.members]
    return [[batch.members[i] for i in indices] for _, indices in divided.values()]


def _divided(members: list[Member]) -> Collection[list[Member]]:
    """Divide members by the step and by the state that they have."""
    first = members[0]
    number, names = first.number, first.state.keys()
    if all(member.number == number and member.state.keys() == names for member in members):
        return [members]
    divided: defaultdict[Hashable, list[Member]] = defaultdict(list)
    for member in members:
        divided[member.number, tuple(member.state)].append(member)
    return divided.values()


_EXECUTIONS: dict[Execution, Callable[[Optimizer, Batch], None]] = {
    Execution.TOGETHER: together,
    Execution.FUSED: fused,
}
