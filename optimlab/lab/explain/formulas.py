"""An operation as the formula it evaluates, and the formula evaluated in other ways.

What ATen promises of an operation is its formula; how it rounds is its kernel's affair. A
:class:`Term` is the formula of one result, written out down to tensors that both steps have. A
:class:`Manner` says how it is evaluated: the products in another order, a product contracted with
the addition behind it (FMA: rounded once, not twice), a reciprocal in place of a division, numbers
rounded to a narrow dtype first. The manner that gives the bits which were recorded is how that side
computed: an experiment's answer, not a guess.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.lab.explain.fma import fma
from optimlab.lab.record.writing import Operation, Value

Leaf: TypeAlias = Tensor | float
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Term:
    """A formula: a name with its arguments, which are terms, tensors and numbers.

    Attributes:
        name: of the operation: ``"lerp"``, ``"add"``, ...
        arguments: in the order of ATen's schema; an ``alpha`` or ``value`` comes last.
        dtype: of its result, to which it is rounded.
    """

    name: str
    arguments: tuple[Term | Leaf, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Manner:
    """How a formula is evaluated.

    Attributes:
        orders: which of its spellings each operation takes, by their places in the formula; the
            first where none is named.
        contracted: the additions that take a product in unrounded, by their places, each with the
            product's: the second summand (1) or the first (0).
        by_reciprocal: whether ``a / b`` is ``a * (1 / b)``.
        by_reciprocal_of_number: whether it is where ``b`` is a plain number.
        complements: whether a number is ``1 - x`` of an ``x`` that was rounded to float32 first.
        numbers: the dtype that plain numbers are rounded to first, ``None`` for none.
        numbers_of: the only operation whose numbers are, ``""`` for all.
        as_numbers: whether tensors without dimensions are Python's numbers: computed with in double
            precision, and of a float32 hyperparameter the decimal number that it was rounded from.
        results: the dtype that every operation's result is rounded to, besides its own.
        wide: whether intermediate results of half precision stay unrounded.
        uncast: whether everything is computed in the dtype of the formula, and nothing is cast.
    """

    orders: Mapping[int, int] = field(default_factory=dict)
    contracted: Mapping[int, int] = field(default_factory=dict)
    by_reciprocal: bool = False
    by_reciprocal_of_number: bool = False
    complements: bool = False
    numbers: torch.dtype | None = None
    numbers_of: str = ""
    as_numbers: bool = False
    results: torch.dtype | None = None
    wide: bool = False
    uncast: bool = False


def term_of(
    value: Value,
    operation_of: Callable[[Value], Operation | None],
    read: Mapping[float, Value] = MappingProxyType({}),
    depth: int = 16,
) -> Term | Leaf | None:
    """Write out the formula of a value.

    Args:
        value: the value.
        operation_of: says which operation a value came from, ``None`` for one to start from.
        read: the numbers that were read from tensors, and these.
        depth: how many operations deep the formula may be.

    Returns:
        The formula; ``None`` if an operation in it has none here, such as a fused kernel.
    """
    operation = operation_of(value)
    if operation is None:
        kept: Tensor = value.kept
        return kept
    if depth == 0:
        return None
    if operation.name in ("detach", "clone", "copy_", "_to_copy", "lift_fresh"):
        source = operation.operands[-1]
        inner = term_of(source, operation_of, read, depth - 1)
        return None if inner is None else Term("copy", (inner,), value.dtype)
    name = operation.name.strip("_")
    if name not in _SPELLINGS or len(operation.results) != 1:
        return None
    arguments = []
    for given in operation.arguments.values():
        source_of = read.get(given) if isinstance(given, float) else given
        inner = given
        if isinstance(source_of, Value):
            inner = term_of(source_of, operation_of, read, depth - 1)
        if isinstance(given, bool) or not isinstance(inner, Term | Tensor | float | int):
            return None
        arguments.append(inner)
    if operation.arguments.get("out") is not None:
        arguments.pop()
    return Term(name, tuple(arguments), value.dtype)


def _lerp(e: _Evaluation, s: Any, end: Any, w: Any) -> Iterator[Any]:
    yield lambda: e.add(s, e.product(w, e.sub(end, s)))
    yield lambda: e.sub(end, e.product(e.sub(1.0, w), e.sub(end, s)))
    yield lambda: e.add(e.product(e.sub(1.0, w), s), e.product(w, end))
    yield lambda: e.add(e.product(w, end), e.product(e.sub(1.0, w), s))


def _addcmul(e: _Evaluation, s: Any, a: Any, b: Any, value: Any = 1.0) -> Iterator[Any]:
    yield lambda: e.add(s, e.product(e.mul(value, a), b))
    yield lambda: e.add(s, e.product(value, e.mul(a, b)))


def _addcdiv(e: _Evaluation, s: Any, a: Any, b: Any, value: Any = 1.0) -> Iterator[Any]:
    yield lambda: e.add(s, e.div(e.mul(value, a), b))
    yield lambda: e.add(s, e.product(value, e.div(a, b)))
    yield lambda: e.add(s, e.product(a, e.div(value, b)))
    yield lambda: e.add(s, e.div(a, e.div(b, value)))


def _add(e: _Evaluation, s: Any, other: Any, alpha: Any = 1) -> Iterator[Any]:
    yield lambda: e.add(s, e.product(alpha, other) if alpha != 1 else other)


def _sub(e: _Evaluation, s: Any, other: Any, alpha: Any = 1) -> Iterator[Any]:
    yield lambda: e.add(s, e.product(-alpha, other)) if alpha != 1 else e.sub(s, other)


def _simple(method: str) -> Callable[..., Iterator[Any]]:
    def spellings(e: _Evaluation, *arguments: Any) -> Iterator[Any]:
        yield lambda: getattr(e, method)(*arguments)

    return spellings


_SPELLINGS: dict[str, Callable[..., Iterator[Any]]] = {
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "add": _add,
    "sub": _sub,
    "rsub": lambda e, s, other, alpha=1: _sub(e, other, s, alpha),
    "mul": _simple("mul"),
    "copy": _simple("copy"),
    **{
        name: _simple(name)
        for name in ("pow", "div", "sqrt", "neg", "abs", "sign", "maximum", "reciprocal", "square")
    },
}


class _Product:
    """A product that is not rounded yet, and the dtype it is rounded to if nothing takes it in."""

    def __init__(self, a: Any, b: Any, dtype: torch.dtype | None = None) -> None:
        self.a, self.b, self.dtype = a, b, dtype


class _Evaluation:
    """Evaluates a term in a manner, in one dtype for the operations between two roundings."""

    def __init__(self, manner: Manner, exactly: bool, dtype: torch.dtype) -> None:
        self.manner = manner
        self.exactly = exactly
        self.outermost = dtype
        self.terms = itertools.count()
        self.sums = itertools.count()
        self.dtype = torch.float64
        self.largest = torch.zeros((), dtype=torch.float64)

    def of(self, term: Term | Leaf) -> Any:
        as_numbers = self.exactly or self.manner.as_numbers
        if isinstance(term, Tensor):
            return _decimal(term) if as_numbers and not term.dim() else term
        if not isinstance(term, Term):
            return float(term)
        place = next(self.terms)
        arguments = [self._argument(argument, term.name) for argument in term.arguments]
        dtype = self.outermost if self.manner.uncast else term.dtype
        if as_numbers and all(isinstance(argument, float) for argument in arguments):
            dtype = torch.float64
        outer, self.dtype = self.dtype, torch.float64 if self.exactly else _opmath(dtype)
        given = [self._in_dtype(argument) for argument in arguments]
        if term.name == "div" and self.manner.by_reciprocal_of_number:
            given[1] = arguments[1]  # Python inverts a number before it is rounded
        if term.name == "mul":  # an addition may take it in before it is rounded
            result: Any = _Product(given[0], given[1], dtype)
        else:
            spellings = list(_SPELLINGS[term.name](self, *given))
            order = self.manner.orders.get(place, 0)
            result = self._rounded(self._settled(spellings[order]()), dtype)
        if as_numbers and all(isinstance(argument, float) for argument in arguments):
            result = self._tensor(result).item()
        self.dtype = outer
        return result

    def _argument(self, argument: Term | Leaf, name: str) -> Any:
        value, manner = self.of(argument), self.manner
        if self.exactly or isinstance(argument, Term | Tensor):
            return value
        if manner.complements and 0 < value < 1:
            value = 1 - _rounded_number(1 - value, torch.float32)
        rounds = manner.numbers is not None and manner.numbers_of in ("", name)
        return _rounded_number(value, manner.numbers) if rounds else value

    def _in_dtype(self, value: Any) -> Any:
        if isinstance(value, _Product):
            return value
        if not isinstance(value, Tensor):  # as kernels take a number: in the dtype they compute in
            return _rounded_number(value, self.dtype)
        return value.to(self.dtype)

    def _rounded(self, result: Tensor, dtype: torch.dtype | None) -> Tensor:
        if self.exactly or dtype is None:
            return result
        if self.manner.results is not None:
            result = result.to(self.manner.results)
        return result if self.manner.wide else result.to(dtype)

    def _settled(self, value: Any) -> Tensor:
        result = self._tensor(value)
        if self.exactly:
            self.largest = torch.maximum(self.largest, result.abs().nan_to_num())
        return result

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, _Product):
            product = self._tensor(value.a) * self._tensor(value.b)
            return self._rounded(product, value.dtype).to(self.dtype)
        if isinstance(value, Tensor):
            return value.to(self.dtype)
        return torch.tensor(value, dtype=self.dtype)

    # What the spellings are made of.

    def product(self, a: Any, b: Any) -> _Product:
        return _Product(a, b)

    def mul(self, a: Any, b: Any) -> Tensor:
        return self._tensor(a) * self._tensor(b)

    def add(self, a: Any, b: Any) -> Tensor:
        chosen = self.manner.contracted.get(next(self.sums))
        product, other = (b, a) if chosen == 1 else (a, b)
        if chosen is None or self.exactly or not isinstance(product, _Product):
            return self._settled(self._settled(a) + self._settled(b))
        return fma(self._tensor(product.a), self._tensor(product.b), self._tensor(other))

    def sub(self, a: Any, b: Any) -> Tensor:
        if isinstance(b, _Product):
            negative = -b.a if isinstance(b.a, float) else self._tensor(b.a).neg()
            return self.add(a, _Product(negative, b.b, b.dtype))
        if isinstance(a, _Product):
            return self.add(a, -b if isinstance(b, float) else self._tensor(b).neg())
        return self._settled(self._tensor(a) - self._tensor(b))

    def div(self, a: Any, b: Any) -> Tensor:
        of_number = self.manner.by_reciprocal_of_number and isinstance(b, float)
        if (self.manner.by_reciprocal or of_number) and not self.exactly:
            # Of a number, a kernel takes the reciprocal in double precision.
            inverse = self._in_dtype(1 / b) if isinstance(b, float) and b else 1 / self._tensor(b)
            return self.mul(a, inverse)
        return self._settled(self._tensor(a) / self._tensor(b))

    def sqrt(self, a: Any) -> Tensor:
        return self._tensor(a).sqrt()

    def neg(self, a: Any) -> Tensor:
        return -self._tensor(a)

    def abs(self, a: Any) -> Tensor:
        return self._tensor(a).abs()

    def sign(self, a: Any) -> Tensor:
        return self._tensor(a).sign()

    def square(self, a: Any) -> Tensor:
        return self.mul(a, a)

    def reciprocal(self, a: Any) -> Tensor:
        return 1 / self._tensor(a)

    def maximum(self, a: Any, b: Any) -> Tensor:
        return torch.maximum(self._tensor(a), self._tensor(b))

    def pow(self, a: Any, b: Any) -> Tensor:
        return self._tensor(a) ** self._tensor(b)

    def copy(self, a: Any) -> Tensor:
        return self._tensor(a)


def evaluate(term: Term, manner: Manner) -> Tensor:
    """Evaluate a term in a manner, rounded to its dtype."""
    evaluation = _Evaluation(manner, exactly=False, dtype=term.dtype)
    result = evaluation.of(term)
    evaluation.dtype = _opmath(term.dtype)
    return evaluation._tensor(result).to(term.dtype)


def evaluate_widely(term: Term) -> tuple[Tensor, Tensor]:
    """Evaluate a term in double precision; return it, and the largest number on the way."""
    evaluation = _Evaluation(Manner(), exactly=True, dtype=term.dtype)
    result = evaluation._settled(evaluation.of(term))
    return result, evaluation.largest


def _decimal(tensor: Tensor) -> float:
    """Return the shortest decimal number that rounds to a tensor's only element."""
    number: float = tensor.item()
    if not math.isfinite(number):
        return number
    spelt = (float(f"{number:.{digits}g}") for digits in range(1, 18))
    return next(each for each in spelt if _rounded_number(each, tensor.dtype) == number)


def _rounded_number(number: float, dtype: torch.dtype | None) -> float:
    return float(torch.tensor(number, dtype=torch.float64).to(dtype).item())


def _opmath(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype
