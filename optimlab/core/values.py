"""What an update rule is applied to: one tensor, many tensors, or a symbol.

An update rule (:meth:`optimlab.Rule.update`) is ordinary torch arithmetic on values of one
type ``T``, and it never knows which:

===============  =======================================  ==========================================
``T``            what a line of the rule does             what carrying out the rule gives
===============  =======================================  ==========================================
``Tensor``       runs the ATen operation                  the bits of torch's for-loop
``TensorList``   runs the ``torch._foreach_*`` operation  the bits of torch's foreach implementation
``Symbol``       writes the operation down                a ``Program`` (``core/program.py``)
===============  =======================================  ==========================================

``T`` is a constrained type variable, so mypy checks every rule three times: an operation that one
reading lacks, a misspelt one, or a list mixed with a single tensor is a type error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from optimlab.core.tensor_list import Numbers, TensorList

if TYPE_CHECKING:
    from optimlab.core.program import Symbol

T = TypeVar("T", Tensor, TensorList, "Symbol")
"""The reading of a rule: one tensor, many tensors, or a symbol."""


class StepCount:
    """A step count whose value nobody has read yet, or one for each tensor of a list.

    A rule that does without the value never asks a device for it, and takes step counts that have
    none. ``base**step`` reads it, and so does :func:`read_step`.

    Args:
        steps: the step count of a tensor, or one for each tensor of a list.
    """

    __slots__ = ("_steps", "_value")
    __array_ufunc__ = None  # a NumPy base leaves the power to the method below

    def __init__(self, steps: Tensor | Sequence[Tensor]) -> None:
        self._steps = steps
        self._value: Any = None

    def read(self) -> Any:
        """Return a number, or :class:`Numbers` for the tensors of a list."""
        if self._value is None and isinstance(self._steps, Tensor):
            self._value = self._steps.item()
        elif self._value is None:
            self._value = Numbers([step.item() for step in self._steps])
        return self._value

    def __rpow__(self, base: Any) -> Any:
        return base ** self.read()


def is_number(step: object) -> bool:
    """Tell whether a step count is a number, read or not, rather than a tensor to compute with."""
    return isinstance(step, float | StepCount)


def read_step(step: Any) -> Any:
    """Return the value of a step count, or :class:`Numbers` for the tensors of a list."""
    return step.read() if isinstance(step, StepCount) else step


def is_many(value: Tensor | TensorList | Symbol) -> bool:
    """Tell whether a rule is read on many tensors.

    Only for the places where torch.optim itself spells two different arithmetics.
    """
    return isinstance(value, TensorList) or (
        not isinstance(value, Tensor) and value.recorder.listed
    )


def as_real(value: T) -> T:
    """View complex numbers as pairs of real ones; anything else is returned as it is."""
    if isinstance(value, Tensor):
        return torch.view_as_real(value) if value.is_complex() else value
    return value.as_real()


def both_as_real(param: T, grad: T) -> tuple[T, T]:
    """View a complex parameter and its gradient as pairs of real numbers.

    The parameter decides, and a gradient that is not complex beside one that is is an error. A rule
    does so after weight decay, where torch's for-loops do. torch's foreach implementations do so
    before the first operation, so a rule that is given lists is given real ones.
    """
    if isinstance(param, Tensor) and isinstance(grad, Tensor):
        if not param.is_complex():
            return param, grad
        grad = torch.view_as_real(grad)
    return as_real(param), as_real(grad)


def as_scalar(value: Any) -> Any:
    """Give a 1-element tensor hyperparameter zero dimensions; numbers stay as they are."""
    if isinstance(value, Tensor) and value.dim() != 0:
        return value.squeeze()
    return value


def as_scalars(group: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Give tensors among some hyperparameters zero dimensions; the group itself is not changed."""
    changed: dict[str, Any] = {}
    for name in names:
        value = group[name]
        if isinstance(value, Tensor) and value.dim() != 0:
            changed[name] = as_scalar(value)
        elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            changed[name] = tuple(map(as_scalar, value))
    return {**group, **changed} if changed else group


class Moving(dict[str, Any]):
    """A parameter group while a step goes through its tensors, some of it moved to where those are.

    What is moved is moved once for each device and dtype. So autograd adds the derivatives with
    respect to it up there, in that dtype, as it does for torch.

    Attributes:
        moved: what :func:`beside` has moved.
    """

    def __init__(self, group: Mapping[str, Any]) -> None:
        super().__init__(group)
        self.moved: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}


def beside(scalar: Any, value: T, group: Mapping[str, Any]) -> Any:
    """Move a tensor hyperparameter of a group to where ``value`` is; numbers stay as they are.

    A single tensor takes it in its own dtype too, because ``lerp`` requires one dtype.
    """
    if not isinstance(scalar, Tensor):
        return scalar
    if isinstance(value, Tensor):
        moved = group.moved if isinstance(group, Moving) else {}
        place = id(scalar), value.device, value.dtype
        if place not in moved:
            moved[place] = scalar.to(value.device, value.dtype, non_blocking=True)
        return moved[place]
    if isinstance(value, TensorList) and scalar.device.type != "cpu":
        return scalar.to(device=value.tensors[0].device, non_blocking=True)
    return scalar


def wants_gradient(scalar: Any) -> bool:
    """Tell whether autograd is to differentiate with respect to a hyperparameter."""
    return isinstance(scalar, Tensor) and scalar.requires_grad


def add_scaled(value: T, other: T, scale: Any, *, derive: bool = True) -> T:
    """Return ``value + scale * other``; lists that are temporary are overwritten.

    Args:
        value: the first summand.
        other: the second, before it is scaled.
        scale: by what.
        derive: whether autograd may ask for the derivative with respect to ``scale``.
    """
    if isinstance(value, TensorList) and value.is_temporary:
        return value.add_(other, alpha=scale)
    if derive and isinstance(value, Tensor) and wants_gradient(scale):
        # A copy, because other changes in place before the backward pass reads it; and in place, or
        # without dimensions the sum would have the dtype of the scale.
        return value.clone().addcmul_(other.clone(), scale)
    return value.add(other, alpha=scale)


def add_like(value: T, other: T, scale: Any) -> T:
    """Return ``value + scale * other``; for lists in the dtype and strides of ``value``.

    torch's foreach Nesterov momentum adds to the gradients in place. That shows where the buffers
    have a wider dtype than the gradients, where half-precision gradients have gaps in memory, and
    in the name of the operation that refuses what is no number.
    """
    if isinstance(value, TensorList):
        if value.is_temporary:  # not the gradients themselves, which are only ever read
            return value.add_(other, alpha=scale)
        if not (isinstance(scale, float | int) and _alike(value, other)):
            return value.copied().add_(other, alpha=scale)
        added = value.add(other, alpha=scale)
        added.tensors = list(added.tensors)  # as the gradients come in
        return added
    return value.add(other, alpha=scale)


def _alike(value: TensorList, other: TensorList) -> bool:
    pairs = zip(value.tensors, other.tensors, strict=True)
    return all(a.dtype == b.dtype and a.is_contiguous() for a, b in pairs)


def subtract_scaled_(value: T, other: T, scale: Any) -> T:
    """Do ``value -= scale * other``, also for a ``scale`` that autograd differentiates."""
    if isinstance(value, Tensor) and wants_gradient(scale):
        return value.addcmul_(other, scale, value=-1)
    return value.add_(other, alpha=-scale)


def maximum_(value: T, other: T, *, derive: bool | None = None) -> T:
    """Do ``value = max(value, other)`` elementwise; NaN wins.

    Args:
        value: is overwritten.
        other: the other operand.
        derive: whether autograd may ask for derivatives; by default, while it records.
    """
    if not isinstance(other, Tensor):
        return value.maximum_(other)
    derive = torch.is_grad_enabled() if derive is None else derive
    if derive or torch.compiler.is_compiling():
        # out= has no derivative, and breaks a compiled graph; autograd keeps the old value.
        return value.copy_(torch.maximum(value.clone(), other))
    return torch.maximum(value, other, out=value)


def divide_(value: T, divisor: Any) -> T:
    """Divide a temporary by a scalar, in its own memory where that keeps torch's bits."""
    if not isinstance(value, Tensor):
        return value.divide_(divisor)
    # A zero-dimensional half-precision value is promoted by a float32 divisor, and any real one by
    # a complex number (the root of a negative one), but not in place.
    return value.div_(divisor) if isinstance(divisor, float) else value / divisor


L = TypeVar("L", TensorList, "Symbol")
"""The reading of a fused update, which exists for lists only."""


def fused_kernel(name: str, first: L, *others: L | None, **arguments: Any) -> L:
    """Hand lists to one of torch's fused kernels, ``torch._fused_adam_`` and its like.

    Args:
        name: the kernel.
        first: the parameters, updated in place.
        others: the kernel's further lists; ``None`` where it has nothing to take.
        arguments: its hyperparameters.
    """
    if not isinstance(first, TensorList):
        return first.recorder.write(name, first, *others, **arguments)
    lists = [[] if other is None else other.tensors for other in others]
    getattr(torch, name)(first.tensors, *lists, **arguments)
    return first
