"""What is refused before a step changes anything, and what a constructor refuses of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimlab.core import devices
from optimlab.core.batch import Batch, Execution, Member
from optimlab.core.groups import ParamGroup

NOT_ON_LISTS = "{} as a Tensor is not supported for capturable=False and foreach=True"


def check_tensor(name: str, value: Any, *, listed_by_number: object = False) -> None:
    """Refuse a tensor of more than one element, or one that lists would take as a number only."""
    if isinstance(value, Tensor):
        if listed_by_number:
            raise ValueError(NOT_ON_LISTS.format(name))
        if value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")


def check_lr_on_lists(group: ParamGroup) -> None:
    """Refuse a tensor lr whose value lists would have to read."""
    if isinstance(group["lr"], Tensor) and not group["capturable"]:
        raise RuntimeError(NOT_ON_LISTS.format("lr"))


def check_tensors_on_lists(group: ParamGroup) -> None:
    """Refuse tensor hyperparameters whose values lists would have to read."""
    beta1, beta2 = group["betas"]
    check_lr_on_lists(group)
    for name, value in {"lr": group["lr"], "beta1": beta1, "beta2": beta2}.items():
        check_tensor(name, value, listed_by_number=not group["capturable"])


def check_scaling(optimizer: object, batch: Batch) -> None:
    """Refuse what ``torch.amp.GradScaler`` leaves for fused kernels only."""
    left = vars(optimizer).get("grad_scale"), vars(optimizer).get("found_inf")
    if batch.execution is not Execution.FUSED and any(item is not None for item in left):
        raise AssertionError("Expected grad_scale and found_inf to be None")


def check_capturable(batch: Batch, *, lists_on_xla: bool = True) -> None:
    """Refuse ``capturable`` where no graph can be captured; XLA may be a place for lists."""
    if batch.capturable and batch.execution is not Execution.FUSED:
        devices.check_capturable(
            ((m.param, m.param if m.step is None else m.step) for m in batch.members),
            supports_xla=lists_on_xla or batch.execution is not Execution.FOREACH,
        )


def check_autograd(batch: Batch) -> None:
    """Refuse to differentiate through operations on lists."""
    if batch.execution is Execution.FOREACH and batch.members and batch.differentiable:
        raise AssertionError("_foreach ops don't support autograd")


def check_counts(batch: Batch) -> None:
    """Refuse a step count that is no tensor."""
    if not all(member.is_new or isinstance(member.step, Tensor) for member in batch.members):
        raise RuntimeError(
            "API has changed, `state_steps` argument must contain a list of singleton tensors"
        )


def check_no_gradient(member: Member, group: ParamGroup) -> None:
    """Refuse a step count that autograd would differentiate."""
    step: Any = member.step
    if group["differentiable"] and not member.is_new and step.requires_grad:
        raise RuntimeError("`requires_grad` is not supported for `step` in differentiable mode")


def check_dtypes(batch: Batch, *, negated: object, complex_as_real: bool) -> None:
    """Let ATen refuse now what it would refuse only once the step is counted."""
    for member in batch.members:
        if negated and member.grad.dtype is torch.bool:
            _ = -member.grad
        if complex_as_real and member.param.is_complex():
            for tensor in member.state.values():
                _ = torch.view_as_real(tensor)
