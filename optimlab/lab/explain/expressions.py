"""The expression that an operation evaluates, written out down to tensors that both steps have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.lab.record.formulas import FORMULAS, formulas_of
from optimlab.lab.record.registers import Value
from optimlab.lab.record.writing import Operation

Leaf: TypeAlias = Tensor | float

_COPIES = {"detach", "clone", "copy_", "_to_copy", "lift_fresh"}


@dataclass(frozen=True, eq=False)
class Expression:
    """An operation on expressions, tensors and numbers, rounded to the dtype of its result."""

    name: str
    arguments: tuple[Expression | Leaf, ...]
    dtype: torch.dtype

    @property
    def formulas(self) -> tuple[str, ...]:
        """The spellings of its formula that a kernel may choose from."""
        return ("a",) if self.name == "copy" else formulas_of(self.name, self.arguments)

    @property
    def inner(self) -> Iterator[Expression]:
        """The expressions among its arguments."""
        return (each for each in self.arguments if isinstance(each, Expression))

    def walk(self) -> Iterator[Expression]:
        """Go through the expression and all inside it, the outermost first."""
        yield self
        for each in self.inner:
            yield from each.walk()

    def with_leaves(self, change: Callable[[Leaf], Leaf]) -> Expression:
        """Return the same expression of other tensors and numbers."""
        changed = (
            each.with_leaves(change) if isinstance(each, Expression) else change(each)
            for each in self.arguments
        )
        return Expression(self.name, tuple(changed), self.dtype)

    @property
    def structure(self) -> tuple[Any, ...]:
        """The names of the operations, nested as they are."""
        nested = (each.structure if isinstance(each, Expression) else "" for each in self.arguments)
        return (self.name, *nested)

    @property
    def is_number(self) -> bool:
        """Whether it is computed from tensors without dimensions, and numbers, alone."""
        return all(
            each.is_number
            if isinstance(each, Expression)
            else not isinstance(each, Tensor) or not each.dim()
            for each in self.arguments
        )


def expression_of(
    value: Value,
    operation_of: Callable[[Value], Operation | None],
    read: Mapping[float, Value],
    depth: int = 16,
) -> Expression | Leaf | None:
    """Write out the expression of a value, ``None`` if an operation in it has no formula.

    ``operation_of`` says which operation a value came from, ``None`` for one to start from;
    ``read`` which tensor a number was read from.
    """
    operation = operation_of(value)
    if operation is None:
        kept: Tensor = value.kept
        return kept
    if depth == 0:
        return None
    if operation.name in _COPIES:
        inner = expression_of(operation.operands[-1], operation_of, read, depth - 1)
        return None if inner is None else Expression("copy", (inner,), value.dtype)
    operator = operation.name.strip("_")
    if operator not in FORMULAS or len(operation.results) != 1:
        return None
    arguments: list[Expression | Leaf] = []
    for name, given in operation.arguments.items():
        source, inner = read.get(given) if isinstance(given, float) else given, given
        if isinstance(source, Value):
            inner = expression_of(source, operation_of, read, depth - 1)
        if isinstance(given, bool) or not isinstance(inner, Expression | Tensor | float | int):
            return None
        if name != "out":
            arguments.append(inner)
    return Expression(operator, tuple(arguments), value.dtype)
