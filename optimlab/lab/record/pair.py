"""Two optimizers that are given the same gradients, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.bits import Mismatch, compare_tensors
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.lockstep.replica import Make, Replica
from optimlab.lab.lockstep.scenario import Scenario, TensorSpec
from optimlab.lab.record.registers import named_tensors, short

Gradients: TypeAlias = Sequence[Tensor | None]
GivenGradients: TypeAlias = Sequence[Gradients] | Callable[[int], Gradients]


@dataclass(frozen=True)
class Pair:
    """Two optimizers; ``begin`` does what happens before a step, and returns its gradients."""

    optimizers: tuple[Optimizer, Optimizer]
    begin: Callable[[int], Gradients]


def made(a: Make, b: Make, scenario: Scenario) -> Pair:
    """Make two optimizers for a scenario."""
    if scenario.differentiable or scenario.unscale:
        raise ValueError("a step of this scenario cannot be repeated on copies")
    replicas = (Replica(a, scenario), Replica(b, scenario))
    for replica in replicas:
        replica.construct()

    def begin(step: int) -> Gradients:
        for replica in replicas:
            if step == scenario.group_added_at and any(t.group == 2 for t in scenario.tensors):
                replica.add_group()
            if step == scenario.lr_changed_at:
                replica.halve_lr()
        drawn = zip(map(id, replicas[0].params), scenario.gradients(step), strict=True)
        by_id = dict(drawn)
        return [by_id[id(param)] for param in parameters(replicas[0].optimizer)]

    return Pair((replicas[0].optimizer, replicas[1].optimizer), begin)


def live(a: Optimizer, b: Optimizer, given: GivenGradients | None) -> Pair:
    """Give two optimizers that there are already their gradients, or draw some."""
    params = parameters(a)
    shapes = [[tuple(param.shape) for param in parameters(each)] for each in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the parameters have other shapes: {shapes[0]} and {shapes[1]}")
    held = [param.grad for param in params]
    drawn = Scenario(tensors=tuple(TensorSpec(tuple(p.shape), p.dtype) for p in params))

    def begin(step: int) -> Gradients:
        if callable(given):
            return given(step)
        if given is not None:
            return given[step - 1] if step <= len(given) else []
        if step == 1 and any(grad is not None for grad in held):
            return held
        pairs = zip(drawn.gradients(step), params, strict=True)
        return [None if grad is None else grad.to(param.device) for grad, param in pairs]

    return Pair((a, b), begin)


def outputs(optimizer: Optimizer, param: Tensor) -> dict[str, Any]:
    """Return what an optimizer leaves behind of a parameter: tensors and numbers by their names."""
    held = optimizer.state.get(param, {})
    numbers = {name: value for name, value in held.items() if isinstance(value, int | float)}
    found = {"param": param, **dict(named_tensors(held)), **numbers}
    return found if param.grad is None else {**found, "grad": param.grad}


def mismatch_of(ours: Any, theirs: Any) -> Mismatch | None:
    """Compare what counts: kind, dtype, shape and bits; not where or how tensors lie in memory.

    A number, such as a step count, may be kept as Python's or as a tensor.
    """
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return compare_tensors(_plain(ours), _plain(theirs))
    if number_of(ours) == number_of(theirs) is not None:
        return None
    return Mismatch("type", _kind(ours), _kind(theirs))


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.contiguous().as_subclass(Tensor)


def number_of(value: Any) -> float | None:
    """Return a number that is kept as Python's or as a tensor, ``None`` of anything else."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 and not value.is_complex() else None
    return value if isinstance(value, int | float) else None


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {short(value.dtype)}"
    return f"{type(value).__name__} {value!r}"
