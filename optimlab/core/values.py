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

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from optimlab.core.program import Symbol

Scalar: TypeAlias = float | Tensor
"""A hyperparameter, or arithmetic on hyperparameters: a Python number or a 1-element tensor."""


Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]
"""What foreach operations take and return; the messages of their errors name which."""


def _elementwise(operation: Callable[[Any, Any], Any]) -> Callable[[Numbers, Any], Numbers]:
    def combined(self: Numbers, other: Any) -> Numbers:
        others = other.each if isinstance(other, Numbers) else [other] * len(self.each)
        return Numbers([operation(a, b) for a, b in zip(self.each, others, strict=True)])

    return combined


def _reflected(operation: Callable[[Any, Any], Any]) -> Callable[[Numbers, Any], Numbers]:
    return _elementwise(lambda a, b: operation(b, a))


class Numbers:
    """One number for each tensor of a list: the step counts, and what a rule computes from them.

    Arithmetic on them is arithmetic on each. An operation on a :class:`TensorList` takes them where
    the foreach operation takes one number per tensor, and there they are handed over as a list also
    where all are equal: that is another kernel than the one for a single number.

    Args:
        each: the numbers, in the order of the tensors.
    """

    __slots__ = ("each",)
    __array_ufunc__ = None  # a NumPy number leaves arithmetic with these to the methods below

    def __init__(self, each: Sequence[Any]) -> None:
        self.each = list(each)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.each!r})"

    def __neg__(self) -> Numbers:
        return self * -1  # as torch spells it for lists: it keeps the sign of a NaN

    __add__, __radd__ = _elementwise(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _elementwise(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _elementwise(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _elementwise(operator.truediv), _reflected(operator.truediv)
    __pow__, __rpow__ = _elementwise(operator.pow), _reflected(operator.pow)


class Unread:
    """Step counts whose values nobody has read yet; :func:`read_step` gives them.

    Reading is left to the rule: one that does without the value never asks a device for it, and
    takes step counts that have none.

    Args:
        steps: the step count of a tensor, or one for each tensor of a list.
    """

    __slots__ = ("steps",)

    def __init__(self, steps: Tensor | Sequence[Tensor]) -> None:
        self.steps = steps


def is_number(step: object) -> bool:
    """Tell whether a step count is a number, read or not, rather than a tensor to compute with."""
    return isinstance(step, float | Unread)


def read_step(step: Any) -> Any:
    """Return the value of a step count, or :class:`Numbers` for the tensors of a list."""
    if not isinstance(step, Unread):
        return step
    if isinstance(step.steps, Tensor):
        return step.steps.item()
    return Numbers([each.item() for each in step.steps])


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

    def add(self, other: TensorList | Scalar | Numbers, *, alpha: Scalar = 1) -> TensorList:
        if not isinstance(other, TensorList):
            return self._new(torch._foreach_add(self.tensors, _operand(other)))
        return self._new(torch._foreach_add(self.tensors, other.tensors, alpha=cast(float, alpha)))

    def add_(self, other: TensorList | Scalar | Numbers, *, alpha: Scalar = 1) -> TensorList:
        if not isinstance(other, TensorList):
            torch._foreach_add_(self.tensors, _operand(other))
        elif self._stays_on_device(alpha):
            torch._foreach_add_(self.tensors, other.mul(alpha).tensors)
        else:
            torch._foreach_add_(self.tensors, other.tensors, alpha=cast(float, alpha))
        return self

    def sub_(self, other: Scalar | Numbers) -> TensorList:
        each = [other] * len(self.tensors) if isinstance(other, Tensor) else _operand(other)
        torch._foreach_sub_(self.tensors, each)
        return self

    def mul(self, other: TensorList | Scalar | Numbers) -> TensorList:
        return self._new(torch._foreach_mul(self.tensors, _operand(other)))

    def mul_(self, other: TensorList | Scalar | Numbers) -> TensorList:
        torch._foreach_mul_(self.tensors, _operand(other))
        return self

    def div(self, other: TensorList | Scalar | Numbers) -> TensorList:
        return self._new(torch._foreach_div(self.tensors, _operand(other)))

    def div_(self, other: TensorList | Scalar | Numbers) -> TensorList:
        torch._foreach_div_(self.tensors, _operand(other))
        return self

    def __rpow__(self, base: Scalar) -> TensorList:
        return self._new(torch._foreach_pow(cast(float, base), self.tensors))

    def divide_(self, divisor: Scalar | Numbers) -> TensorList:
        # One number per tensor: with a single number, foreach on CUDA multiplies by 1 / divisor.
        each = divisor if isinstance(divisor, Numbers) else Numbers([divisor] * len(self.tensors))
        return self.div_(each)

    def maximum_(self, other: TensorList) -> TensorList:
        torch._foreach_maximum_(self.tensors, other.tensors)
        return self

    # Three operands.

    def lerp_(self, end: TensorList, weight: Scalar) -> TensorList:
        torch._foreach_lerp_(self.tensors, end.tensors, cast(float, weight))
        return self

    def addcmul(self, a: TensorList, b: TensorList, *, value: float = 1) -> TensorList:
        return self._new(torch._foreach_addcmul(self.tensors, a.tensors, b.tensors, value))

    def addcmul_(self, a: TensorList, b: TensorList, *, value: Scalar | Numbers = 1) -> TensorList:
        if isinstance(value, Tensor):  # the foreach operation takes numbers only
            a, value = a.mul(value), 1.0
        torch._foreach_addcmul_(self.tensors, a.tensors, b.tensors, _operand(value))
        return self

    def addcdiv_(self, a: TensorList, b: TensorList, *, value: Scalar | Numbers = 1) -> TensorList:
        if isinstance(value, Numbers):
            torch._foreach_addcdiv_(self.tensors, a.tensors, b.tensors, value.each)
            return self
        if self._stays_on_device(value):  # value * a / b = a / (b / value)
            # In place, because without dimensions a half-precision quotient has lr's dtype.
            b, value = b.clone().div_(value), 1.0
        # By keyword, a tensor is read as a number; by position, it is one divisor per tensor.
        torch._foreach_addcdiv_(self.tensors, a.tensors, b.tensors, value=cast(float, value))
        return self


class OneByOne(TensorList):
    """A list to which sparse tensors are added one by one; foreach operations do not take them."""

    __slots__ = ()

    def add_(self, other: TensorList | Scalar | Numbers, *, alpha: Scalar = 1) -> TensorList:
        if not isinstance(other, TensorList):
            return super().add_(other)
        for tensor, summand in zip(self.tensors, other.tensors, strict=True):
            tensor.add_(summand, alpha=cast(float, alpha))
        return self


class PartialState(dict[str, TensorList]):
    """The state of a list of tensors only some of which have any yet.

    Args:
        members: the state of each tensor.
    """

    def __init__(self, members: Sequence[dict[str, Tensor]]) -> None:
        super().__init__()
        self.members = members

    def complete(self, rule: Callable[..., Tensor], grad: TensorList, *numbers: Any) -> TensorList:
        """Read the rule that makes state on one tensor after the other, as torch does here.

        Args:
            rule: takes a gradient, its state and the numbers; returns a tensor.
            grad: the gradients.
            numbers: the further arguments.

        Returns:
            What the rule has returned for each. The state is complete then.
        """
        pairs = zip(grad.tensors, self.members, strict=True)
        made = TensorList([rule(tensor, held, *numbers) for tensor, held in pairs])
        for name in self.members[0]:
            self[name] = TensorList([held[name] for held in self.members])
        return made


T = TypeVar("T", Tensor, TensorList, "Symbol")
"""The reading of a rule: one tensor, many tensors, or a symbol."""


def _copied(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor.clone()
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _operand(other: TensorList | Scalar | Numbers) -> Any:
    if isinstance(other, TensorList):
        return other.tensors
    return other.each if isinstance(other, Numbers) else other


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
