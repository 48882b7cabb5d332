"""Copies that share no memory with what they are of: values, optimizers, checkpoints."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import parameters

# What belongs to the original alone: a scheduler's wrapper around its `step` would step the
# original, and what optimlab keeps from step to step holds addresses.
_NOT_CLONED = {"step", "_cached_step"}


def clone(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy a nested value; tensors lose their history, but stay shared where they were shared."""
    memo = {} if memo is None else memo
    if isinstance(value, Tensor):
        if id(value) not in memo:
            memo[id(value)] = _clone_tensor(value)
        return memo[id(value)]
    if isinstance(value, dict):
        return {key: clone(item, memo) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [clone(item, memo) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def clone_optimizer(optimizer: Optimizer) -> Optimizer:
    """Copy an optimizer with its parameters, gradients and state; tensors share no memory.

    Tensors that were shared inside the optimizer, such as one ``lr`` of several groups, are shared
    inside the copy. Hooks stay behind, as they do when an optimizer is pickled.

    Args:
        optimizer: any optimizer.

    Raises:
        TypeError: if it holds something that cannot be copied.
    """
    memo: dict[int, Any] = {id(param): _clone_param(param) for param in parameters(optimizer)}
    # Ahead of deepcopy, which refuses tensors that a computation made.
    clone([optimizer.state, optimizer.param_groups, optimizer.defaults], memo)
    made: Optimizer = object.__new__(type(optimizer))
    memo[id(optimizer)] = made  # which its attributes may refer to
    for name, value in vars(optimizer).items():
        if name.endswith("_hooks"):
            vars(made)[name] = type(value)()
        elif name not in _NOT_CLONED:
            vars(made)[name] = copy.deepcopy(value, memo)
    return made


def give_gradients(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Give every parameter a copy of its gradient."""
    for param, grad in zip(params, gradients, strict=True):
        param.grad = clone(grad)


def save_and_load(value: Any) -> Any:
    """Save a state dict as a checkpoint's bytes, and load it again."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    # Our own bytes, and the unrestricted reader is several times faster.
    return torch.load(file, weights_only=False)


def _clone_param(param: Tensor) -> Tensor:
    cloned: Tensor = _clone_tensor(param)
    if isinstance(param, torch.nn.Parameter):
        cloned = torch.nn.Parameter(cloned.detach(), requires_grad=param.requires_grad)
    if param.grad is not None:
        if param.grad.dtype is not param.dtype:
            cloned.grad_dtype = param.grad.dtype
        cloned.grad = _clone_tensor(param.grad)
    return cloned


def _clone_tensor(tensor: Tensor) -> Tensor:
    cloned = tensor.detach().clone()
    if tensor.layout is torch.strided and cloned.stride() != tensor.stride():
        # clone() closes the gaps of a slice, and takes apart what is expanded.
        size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        memory = tensor.detach().as_strided((size if tensor.numel() else 0,), (1,)).clone()
        cloned = memory.as_strided(tensor.shape, tensor.stride(), 0)
    return cloned.requires_grad_(tensor.requires_grad)
