"""Many tensors in the place of one: what a rule is applied to where it is carried out on lists."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

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


def _copied(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor.clone()
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _operand(other: TensorList | Scalar | Numbers) -> Any:
    if isinstance(other, TensorList):
        return other.tensors
    return other.each if isinstance(other, Numbers) else other
