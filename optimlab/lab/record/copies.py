"""Copies of optimizers, so that an instrument can step them and leave the originals alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.lockstep.side import copied

# What belongs to the original alone: a scheduler's wrapper around its `step` would step the
# original, and what optimlab keeps from step to step holds addresses.
_NOT_COPIED = {"step", "_cached_step"}


def copy_optimizer(optimizer: Optimizer) -> Optimizer:
    """Copy an optimizer with its parameters, gradients and state; tensors share no memory.

    Tensors that were shared inside the optimizer, such as one ``lr`` of several groups, are shared
    inside the copy. Hooks stay behind, as they do when an optimizer is pickled.

    Args:
        optimizer: any optimizer.

    Raises:
        TypeError: if it holds something that cannot be copied.
    """
    copies: dict[int, Any] = {}
    for param in parameters(optimizer):
        copies[id(param)] = _copied_parameter(param)
    _copy_tensors([optimizer.state, optimizer.param_groups, optimizer.defaults], copies)
    made: Optimizer = object.__new__(type(optimizer))
    copies[id(optimizer)] = made  # which its attributes may refer to
    for name, value in vars(optimizer).items():
        if name.endswith("_hooks"):
            vars(made)[name] = type(value)()
        elif name not in _NOT_COPIED:
            vars(made)[name] = copy.deepcopy(value, copies)
    return made


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters, in the order that numbers them."""
    return [param for group in optimizer.param_groups for param in group["params"]]


def give_gradients(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Give every parameter a copy of its gradient."""
    for param, grad in zip(params, gradients, strict=True):
        param.grad = None if grad is None else copied(grad, {})


def _copied_parameter(param: Tensor) -> Tensor:
    clone: Tensor = copied(param, {})
    if isinstance(param, torch.nn.Parameter):
        clone = torch.nn.Parameter(clone.detach(), requires_grad=param.requires_grad)
    if param.grad is not None:
        clone.grad = copied(param.grad, {})
    return clone


def _copy_tensors(value: Any, copies: dict[int, Any]) -> None:
    """Copy tensors ahead of ``deepcopy``, which refuses those that a computation made."""
    if isinstance(value, Tensor):
        copied(value, copies)
    elif isinstance(value, dict):
        for item in value.values():
            _copy_tensors(item, copies)
    elif isinstance(value, list | tuple):
        for item in value:
            _copy_tensors(item, copies)
