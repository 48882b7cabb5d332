"""What an update rule is applied to: one tensor, many tensors, or a symbol.

An update rule (:meth:`optimlab.Optimizer.update`) is ordinary torch arithmetic on values of one
type ``T``, and it never knows which:

===============  =======================================  ==========================================
``T``            what a line of the rule does             what carrying out the rule gives
===============  =======================================  ==========================================
``Tensor``       runs the ATen operation                  the bits of torch's for-loop
``TensorList``   runs the ``torch._foreach_*`` operation  the bits of torch's foreach implementation
``Symbol``       writes the operation down                a ``Program`` (``optimlab/program.py``)
===============  =======================================  ==========================================

``T`` is a constrained type variable, so mypy checks every rule three times: an operation that one
reading lacks, a misspelt one, or a list mixed with a single tensor is a type error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from optimlab.program import Symbol

Scalar: TypeAlias = float | Tensor
"""A hyperparameter, or arithmetic on hyperparameters: a Python number or a 1-element tensor."""


Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]
"""What foreach operations take and return; the messages of their errors name which."""


class TensorList:
    """Many tensors of one device and dtype; every operation is one ``torch._foreach_*`` call.

    The methods are those of :class:`torch.Tensor`, spelled out one by one so that a type checker
    sees which operations exist in all readings.

    Args:
        tensors: the tensors, which in-place operations write to.
        capturable: whether a tensor scalar has to stay on its device. Reading its value would
            stop the capture of a CUDA graph, so it is multiplied in as a tensor first.
        is_temporary: whether nobody else has these tensors, so that a result may take their place.
    """

    __slots__ = ("capturable", "is_temporary", "tensors")

    def __init__(
        self, tensors: Tensors, *, capturable: bool = False, is_temporary: bool = False
    ) -> None:
        self.tensors = tensors
        self.capturable = capturable
        self.is_temporary = is_temporary

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tensors!r})"

    def _new(self, tensors: Tensors, *, is_temporary: bool = True) -> TensorList:
        return TensorList(tensors, capturable=self.capturable, is_temporary=is_temporary)

    def as_real(self) -> TensorList:
        if not (self.tensors and self.tensors[0].is_complex()):  # they are of one dtype
            return self
        views = [torch.view_as_real(tensor) for tensor in self.tensors]
        return self._new(views, is_temporary=self.is_temporary)

    def _stays_on_device(self, scalar: Scalar) -> bool:
        return self.capturable and isinstance(scalar, Tensor)

    # One operand.

    def __neg__(self) -> TensorList:
        return self._new(torch._foreach_neg(self.tensors))

    def neg_(self) -> TensorList:
        torch._foreach_neg_(self.tensors)
        return self

    def sqrt(self) -> TensorList:
        return self._new(torch._foreach_sqrt(self.tensors))

    def sqrt_(self) -> TensorList:
        torch._foreach_sqrt_(self.tensors)
        return self

    def reciprocal_(self) -> TensorList:
        torch._foreach_reciprocal_(self.tensors)
        return self

    def abs(self) -> TensorList:
        return self._new(torch._foreach_abs(self.tensors))

    def sign(self) -> TensorList:
        return self._new(torch._foreach_sign(self.tensors))

    def sign_(self) -> TensorList:
        torch._foreach_sign_(self.tensors)
        return self

    def square(self) -> TensorList:
        return self.mul(self)

    def detach(self) -> TensorList:
        return self._new([tensor.detach() for tensor in self.tensors], is_temporary=False)

    def clone(self) -> TensorList:
        return self._new([tensor.clone() for tensor in self.tensors])

    def copied(self) -> TensorList:
        """Copy each tensor, with its strides; ``clone`` closes gaps."""
        return self._new([_copied(tensor) for tensor in self.tensors])

    # Two operands, the second a list or a scalar.

    def add(self, other: TensorList | Scalar, *, alpha: Scalar = 1) -> TensorList:
        if not isinstance(other, TensorList):
            return self._new(torch._foreach_add(self.tensors, cast(float, other)))
        return self._new(torch._foreach_add(self.tensors, other.tensors, alpha=cast(float, alpha)))

    def add_(self, other: TensorList | Scalar, *, alpha: Scalar = 1) -> TensorList:
        if not isinstance(other, TensorList):
            torch._foreach_add_(self.tensors, cast(float, other))
        elif self._stays_on_device(alpha):
            torch._foreach_add_(self.tensors, other.mul(alpha).tensors)
        else:
            torch._foreach_add_(self.tensors, other.tensors, alpha=cast(float, alpha))
        return self

    def sub_(self, other: Scalar) -> TensorList:
        each = [other] * len(self.tensors) if isinstance(other, Tensor) else other
        torch._foreach_sub_(self.tensors, cast(float, each))
        return self

    def mul(self, other: TensorList | Scalar) -> TensorList:
        return self._new(torch._foreach_mul(self.tensors, _operand(other)))

    def mul_(self, other: TensorList | Scalar) -> TensorList:
        torch._foreach_mul_(self.tensors, _operand(other))
        return self

    def div(self, other: TensorList | Scalar) -> TensorList:
        return self._new(torch._foreach_div(self.tensors, _operand(other)))

    def div_(self, other: TensorList | Scalar | Sequence[float]) -> TensorList:
        torch._foreach_div_(self.tensors, _operand(other))
        return self

    def __rpow__(self, base: Scalar) -> TensorList:
        return self._new(torch._foreach_pow(cast(float, base), self.tensors))

    # Three operands.

    def lerp_(self, end: TensorList, weight: Scalar) -> TensorList:
        torch._foreach_lerp_(self.tensors, end.tensors, cast(float, weight))
        return self

    def addcmul(self, a: TensorList, b: TensorList, *, value: float = 1) -> TensorList:
        return self._new(torch._foreach_addcmul(self.tensors, a.tensors, b.tensors, value))

    def addcmul_(self, a: TensorList, b: TensorList, *, value: Scalar = 1) -> TensorList:
        if isinstance(value, Tensor):  # the foreach operation takes numbers only
            a, value = a.mul(value), 1.0
        torch._foreach_addcmul_(self.tensors, a.tensors, b.tensors, value)
        return self

    def addcdiv_(self, a: TensorList, b: TensorList, *, value: Scalar = 1) -> TensorList:
        if self._stays_on_device(value):  # value * a / b = a / (b / value)
            # In place, because without dimensions a half-precision quotient has lr's dtype.
            b, value = b.clone().div_(value), 1.0
        # By keyword, a tensor is read as a number; by position, it is one divisor per tensor.
        torch._foreach_addcdiv_(self.tensors, a.tensors, b.tensors, value=cast(float, value))
        return self


class OneByOne(TensorList):
    """A list whose scaling and addition go tensor by tensor, as torch.optim does in two places.

    Those are the momentum buffers of a batch in which some tensors have no buffer yet, and the
    parameters of a batch with sparse gradients, which foreach operations do not take. It matters:
    on CPU ``_foreach_mul_(x, 0.9)`` rounds 0.9 to a half-precision tensor's dtype first,
    ``Tensor.mul_`` does not.
    """

    __slots__ = ()

    def mul_(self, other: TensorList | Scalar) -> TensorList:
        if isinstance(other, TensorList):
            return super().mul_(other)
        for tensor in self.tensors:
            tensor.mul_(other)
        return self

    def add_(self, other: TensorList | Scalar, *, alpha: Scalar = 1) -> TensorList:
        if not isinstance(other, TensorList):
            return super().add_(other)
        for tensor, summand in zip(self.tensors, other.tensors, strict=True):
            tensor.add_(summand, alpha=cast(float, alpha))
        return self


T = TypeVar("T", Tensor, TensorList, "Symbol")
"""The reading of a rule: one tensor, many tensors, or a symbol."""


def _copied(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor.clone()
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _operand(other: TensorList | Scalar | Sequence[float]) -> Any:
    return other.tensors if isinstance(other, TensorList) else other


def is_many(value: Tensor | TensorList | Symbol) -> bool:
    """Tell whether a rule is read on many tensors.

    Only for the places where torch.optim itself spells two different arithmetics.
    """
    return isinstance(value, TensorList) or (
        not isinstance(value, Tensor) and value.recorder.listed
    )


def as_real(value: T) -> T:
    """View complex numbers as pairs of real ones; anything else is returned as it is.

    A rule does so after weight decay, where torch's for-loops do. torch's foreach implementations
    do so before the first operation, so a rule that is given lists is given real ones.
    """
    if isinstance(value, Tensor):
        return torch.view_as_real(value) if value.is_complex() else value
    return value.as_real()


def as_scalar(value: Any) -> Any:
    """Give a 1-element tensor hyperparameter zero dimensions; numbers stay as they are."""
    if isinstance(value, Tensor) and value.dim() != 0:
        return value.squeeze()
    return value


def beside(scalar: Any, value: T) -> Any:
    """Move a tensor hyperparameter to where ``value`` is; numbers stay as they are.

    A single tensor takes it in its own dtype too, because ``lerp`` requires one dtype.
    """
    if not isinstance(scalar, Tensor):
        return scalar
    if isinstance(value, Tensor):
        return scalar.to(device=value.device, dtype=value.dtype, non_blocking=True)
    if isinstance(value, TensorList) and scalar.device.type != "cpu":
        return scalar.to(device=value.tensors[0].device, non_blocking=True)
    return scalar


def wants_gradient(scalar: Any) -> bool:
    """Tell whether autograd is to differentiate with respect to a hyperparameter."""
    return isinstance(scalar, Tensor) and scalar.requires_grad


def add_scaled(value: T, other: T, scale: Any) -> T:
    """Return ``value + scale * other``, also for a ``scale`` that autograd differentiates."""
    if isinstance(value, Tensor) and wants_gradient(scale):
        # A copy, because other changes in place before the backward pass reads it.
        return value.addcmul(other.clone(), scale)
    return value.add(other, alpha=scale)


def add_like(value: T, other: T, scale: Any) -> T:
    """Return ``value + scale * other``; for lists in the dtype and strides of ``value``.

    torch's foreach Nesterov momentum adds to the gradients in place. That shows where the buffers
    have a wider dtype than the gradients, and where half-precision gradients have gaps in memory.
    """
    if isinstance(value, TensorList):
        if value.is_temporary:  # not the gradients themselves, which are only ever read
            return value.add_(other, alpha=scale)
        if not _alike(value, other):
            return value.copied().add_(other, alpha=scale)
    return value.add(other, alpha=scale)


def _alike(value: TensorList, other: TensorList) -> bool:
    pairs = zip(value.tensors, other.tensors, strict=True)
    return all(a.dtype == b.dtype and a.is_contiguous() for a, b in pairs)


def subtract_scaled_(value: T, other: T, scale: Any) -> T:
    """Do ``value -= scale * other``, also for a ``scale`` that autograd differentiates."""
    if isinstance(value, Tensor) and wants_gradient(scale):
        return value.addcmul_(other, scale, value=-1)
    return value.add_(other, alpha=-scale)


def maximum_(value: T, other: T) -> T:
    """Do ``value = max(value, other)`` elementwise; NaN wins."""
    if isinstance(value, TensorList):
        torch._foreach_maximum_(value.tensors, other.tensors)
        return value
    if not isinstance(value, Tensor):
        return value.maximum_(other)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        # out= has no derivative, and breaks a compiled graph; autograd keeps the old value.
        return value.copy_(torch.maximum(value.clone(), other))
    return torch.maximum(value, other, out=value)


def divide_(value: T, divisor: Any) -> T:
    """Divide a temporary by a scalar, in its own memory where that keeps torch's bits."""
    if isinstance(value, TensorList):
        # One number per tensor: with a single number, foreach on CUDA multiplies by 1 / divisor.
        return value.div_([divisor] * len(value.tensors))
    if not isinstance(value, Tensor):
        return value.divide_(divisor)
    # A zero-dimensional half-precision value is promoted by a float32 divisor, but not in place.
    return value / divisor if isinstance(divisor, Tensor) else value.div_(divisor)


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
