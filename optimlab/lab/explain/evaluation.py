"""Evaluating an expression in one of its variants, rounded as the kernels of ATen round.

The variant that gives the bits which were recorded is how that side computed: an experiment's
answer, not a guess.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.explain.expressions import Expression, Leaf
from optimlab.lab.explain.fma import fma
from optimlab.lab.explain.variants import HALF, Variant
from optimlab.lab.record.formulas import named, parsed


def evaluate(expression: Expression, variant: Variant) -> Tensor:
    """Evaluate an expression in a variant, rounded to its dtype."""
    evaluation = _Evaluation(variant, exactly=False, dtype=expression.dtype)
    result = evaluation.of(expression)
    evaluation.dtype = _opmath(expression.dtype)
    return evaluation.tensor(result).to(expression.dtype)


def evaluate_in_double(expression: Expression) -> tuple[Tensor, Tensor]:
    """Evaluate in double precision; return the result, and the largest number on the way."""
    evaluation = _Evaluation(Variant(), exactly=True, dtype=expression.dtype)
    result = evaluation.settled(evaluation.of(expression))
    return result, evaluation.largest


@dataclass(frozen=True)
class _Product:
    """A product that is not rounded yet, and the dtype it is rounded to if nothing takes it in."""

    a: Any
    b: Any
    dtype: torch.dtype | None = None


class _Evaluation:
    """Evaluates one expression, in one dtype for the operations between two roundings."""

    def __init__(self, variant: Variant, exactly: bool, dtype: torch.dtype) -> None:
        self.variant = variant
        self.exactly = exactly
        self.outermost = dtype
        self.places = itertools.count()
        self.sums = itertools.count()
        self.dtype = torch.float64
        self.largest = torch.zeros((), dtype=torch.float64)

    def of(self, expression: Expression | Leaf) -> Any:
        as_numbers = self.exactly or self.variant.as_numbers
        if isinstance(expression, Tensor):
            return _decimal(expression) if as_numbers and not expression.dim() else expression
        if not isinstance(expression, Expression):
            return float(expression)
        order = self.variant.orders.get(next(self.places), 0)
        arguments = [self._argument(each, expression.name) for each in expression.arguments]
        on_numbers = as_numbers and all(isinstance(each, float) for each in arguments)
        dtype = self.outermost if self.variant.uncast else expression.dtype
        dtype = torch.float64 if on_numbers else dtype
        outer, self.dtype = self.dtype, torch.float64 if self.exactly else _opmath(dtype)
        given = [self._in_dtype(argument) for argument in arguments]
        if expression.name == "div" and self.variant.by_reciprocal_of_number:
            given[1] = arguments[1]  # Python inverts a number before it is rounded
        names = {"value": 1.0, **named(expression.name, given)}
        result = self._computed(parsed(expression.formulas[order]), names)
        if expression.name == "mul":  # an addition may take it in before it is rounded
            result = _Product(result.a, result.b, dtype)
        else:
            result = self._rounded(self.settled(result), dtype)
        if on_numbers:
            result = self.tensor(result).item()
        self.dtype = outer
        return result

    def _argument(self, argument: Expression | Leaf, name: str) -> Any:
        value, variant = self.of(argument), self.variant
        if self.exactly or isinstance(argument, Expression | Tensor):
            return value
        if variant.complements and 0 < value < 1:
            value = 1 - _rounded_number(1 - value, torch.float32)
        rounds = variant.numbers is not None and variant.numbers_of in ("", name)
        return _rounded_number(value, variant.numbers) if rounds else value

    def _in_dtype(self, value: Any) -> Any:
        if isinstance(value, _Product):
            return value
        if not isinstance(value, Tensor):  # as kernels take a number: in the dtype they compute in
            return _rounded_number(value, self.dtype)
        return value.to(self.dtype)

    def _rounded(self, result: Tensor, dtype: torch.dtype | None) -> Tensor:
        if self.exactly or dtype is None:
            return result
        if self.variant.results is not None:
            result = result.to(self.variant.results)
        return result if self.variant.wide else result.to(dtype)

    def settled(self, value: Any) -> Tensor:
        result = self.tensor(value)
        if self.exactly:
            self.largest = torch.maximum(self.largest, result.abs().nan_to_num())
        return result

    def tensor(self, value: Any) -> Tensor:
        if isinstance(value, _Product):
            product = self.tensor(value.a) * self.tensor(value.b)
            return self._rounded(product, value.dtype).to(self.dtype)
        if isinstance(value, Tensor):
            return value.to(self.dtype)
        return torch.tensor(value, dtype=self.dtype)

    # A formula, node by node.

    def _computed(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        match node:
            case ast.Name(id=name):
                return names[name]
            case ast.Constant(value=int(number)):
                return float(number)
            case ast.UnaryOp(operand=operand):
                return self._negative(self._computed(operand, names))
            case ast.Call(func=ast.Name(id=name), args=args):
                return _FUNCTIONS[name](*(self.tensor(self._computed(a, names)) for a in args))
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return _Product(self._computed(left, names), self._computed(right, names))
            case ast.BinOp(left=left, op=op, right=right):
                operation = _OPERATIONS[type(op)]
                return operation(self, self._computed(left, names), self._computed(right, names))
        raise NotImplementedError(ast.dump(node))

    def _negative(self, a: Any) -> Any:
        if isinstance(a, _Product):
            return _Product(self._negative(a.a), a.b, a.dtype)
        return -a if isinstance(a, float) else self.tensor(a).neg()

    def _sum(self, a: Any, b: Any) -> Tensor:
        chosen = self.variant.contracted.get(next(self.sums))
        product, other = (b, a) if chosen == 1 else (a, b)
        if chosen is None or self.exactly or not isinstance(product, _Product):
            return self.settled(self.settled(a) + self.settled(b))
        return fma(self.tensor(product.a), self.tensor(product.b), self.tensor(other))

    def _difference(self, a: Any, b: Any) -> Tensor:
        if isinstance(a, _Product) or isinstance(b, _Product):
            return self._sum(a, self._negative(b))
        return self.settled(self.tensor(a) - self.tensor(b))

    def _quotient(self, a: Any, b: Any) -> Tensor:
        of_number = self.variant.by_reciprocal_of_number and isinstance(b, float)
        if (self.variant.by_reciprocal or of_number) and not self.exactly:
            # Of a number, a kernel takes the reciprocal in double precision.
            inverse = self._in_dtype(1 / b) if isinstance(b, float) and b else 1 / self.tensor(b)
            return self.tensor(a) * self.tensor(inverse)
        return self.settled(self.tensor(a) / self.tensor(b))

    def _power(self, a: Any, b: Any) -> Tensor:
        return self.tensor(a) ** self.tensor(b)


_OPERATIONS: dict[type[ast.operator], Callable[[_Evaluation, Any, Any], Tensor]] = {
    ast.Add: _Evaluation._sum,
    ast.Sub: _Evaluation._difference,
    ast.Div: _Evaluation._quotient,
    ast.Pow: _Evaluation._power,
}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "max": torch.maximum,
    "min": torch.minimum,
    "sign": torch.sign,
    "sqrt": torch.sqrt,
}


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
