"""Two optimizers that are given the same gradients, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.bits import Mismatch, compare_tensors
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.lockstep.replica import Make, Replica
from optimlab.lab.lockstep.scenario import Scenario, TensorSpec
from optimlab.lab.record.registers import named_tensors

Gradients: TypeAlias = Sequence[Tensor | None]
GivenGradients: TypeAlias = Sequence[Gradients] | Callable[[int], Gradients]
Outputs: TypeAlias = dict[str, Any]


class Pair:
    """Two optimizers that are given the same gradients."""

    optimizers: tuple[Optimizer, Optimizer]

    def begin(self, step: int) -> None:
        """Do what happens before a step."""

    def gradients(self, step: int) -> Gradients:
        """Return the gradients of a step, in the order of the parameters."""
        raise NotImplementedError


class Made(Pair):
    """Two optimizers that are made for a scenario."""

    def __init__(self, a: Make, b: Make, scenario: Scenario) -> None:
        if scenario.differentiable or scenario.unscale:
            raise ValueError("a step of this scenario cannot be repeated on copies")
        self.scenario = scenario
        self.sides = (Replica(a, scenario), Replica(b, scenario))
        for side in self.sides:
            side.construct()
        self.optimizers = (self.sides[0].optimizer, self.sides[1].optimizer)

    def begin(self, step: int) -> None:
        scenario = self.scenario
        for side in self.sides:
            if step == scenario.group_added_at and any(t.group == 2 for t in scenario.tensors):
                side.add_group()
            if step == scenario.lr_changed_at:
                side.halve_lr()

    def gradients(self, step: int) -> Gradients:
        drawn = dict(zip(map(id, self.sides[0].params), self.scenario.gradients(step), strict=True))
        return [drawn[id(param)] for param in parameters(self.optimizers[0])]


class Live(Pair):
    """Copies of two optimizers that there were already."""

    def __init__(
        self,
        a: Optimizer,
        b: Optimizer,
        gradients: GivenGradients | None,
    ) -> None:
        self.optimizers = (a, b)
        shapes = [[tuple(param.shape) for param in parameters(each)] for each in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the parameters have other shapes: {shapes[0]} and {shapes[1]}")
        self._given = gradients
        self._held = [param.grad for param in parameters(a)]
        specs = [TensorSpec(tuple(p.shape), p.dtype) for p in parameters(a)]
        self._drawn = Scenario(tensors=tuple(specs))

    def gradients(self, step: int) -> Gradients:
        if callable(self._given):
            return self._given(step)
        if self._given is not None:
            return self._given[step - 1] if step <= len(self._given) else []
        if step == 1 and any(grad is not None for grad in self._held):
            return self._held
        params = parameters(self.optimizers[0])
        drawn = self._drawn.gradients(step)
        return [
            None if grad is None else grad.to(param.device)
            for grad, param in zip(drawn, params, strict=True)
        ]


def outputs(optimizer: Optimizer, param: Tensor) -> Outputs:
    """Return what an optimizer leaves behind of a parameter: tensors and numbers by their names."""
    held = optimizer.state.get(param, {})
    numbers = {name: value for name, value in held.items() if isinstance(value, int | float)}
    found = {"param": param, **dict(named_tensors(held, "")), **numbers}
    return found if param.grad is None else {**found, "grad": param.grad}


def mismatch_of(ours: Any, theirs: Any) -> Mismatch | None:
    """Compare what counts: kind, dtype, shape and bits; not where or how tensors lie in memory."""
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
        if type(ours) is type(theirs) and ours == theirs:
            return None
        return Mismatch("type", _kind(ours), _kind(theirs))
    left, right = (_plain(tensor) for tensor in (ours, theirs))
    return compare_tensors(left, right)


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.contiguous().as_subclass(Tensor)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return f"{type(value).__name__} {value!r}"


def words_of(mismatch: Mismatch) -> str:
    """Put a difference into words."""
    if mismatch.what == "bits":
        return "other bits"
    return f"{mismatch.what} {mismatch.ours} and {mismatch.theirs}"
