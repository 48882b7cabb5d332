"""What ATen promises of an operation: its formula. How it is rounded is its kernel's affair."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

T = TypeVar("T")

FORMULAS: Mapping[str, tuple[str, ...]] = {
    "abs": ("abs(a)",),
    "add": ("a + b",),
    "add alpha": ("a + alpha * b",),
    "addcdiv": (
        "a + (value * b) / c",
        "a + value * (b / c)",
        "a + b * (value / c)",
        "a + b / (c / value)",
    ),
    "addcmul": ("a + (value * b) * c", "a + value * (b * c)"),
    "div": ("a / b",),
    "lerp": (
        "a + weight * (b - a)",
        "b - (1 - weight) * (b - a)",
        "(1 - weight) * a + weight * b",
        "weight * b + (1 - weight) * a",
    ),
    "maximum": ("max(a, b)",),
    "minimum": ("min(a, b)",),
    "mul": ("a * b",),
    "neg": ("-a",),
    "pow": ("a ** b",),
    "reciprocal": ("1 / a",),
    "rsub": ("b - a",),
    "rsub alpha": ("b - alpha * a",),
    "sign": ("sign(a)",),
    "sqrt": ("sqrt(a)",),
    "square": ("a * a",),
    "sub": ("a - b",),
    "sub alpha": ("a - alpha * b",),
}
"""By operation, with and without its ``alpha``: the spellings that kernels choose from."""

_PARAMETERS = {
    "addcdiv": ("a", "b", "c", "value"),
    "addcmul": ("a", "b", "c", "value"),
    "lerp": ("a", "b", "weight"),
}
_PRINTED = {"-a": "-({a})", "abs(a)": "|{a}|"}


def formulas_of(name: str, arguments: Sequence[object]) -> tuple[str, ...]:
    """Return the formulas of an operation, none if it has none here."""
    return FORMULAS.get(f"{name} alpha" if "alpha" in named(name, arguments) else name, ())


def named(name: str, arguments: Sequence[T]) -> dict[str, T]:
    """Return the arguments of an operation, in the order of ATen's schema, by a formula's names."""
    return dict(zip(_PARAMETERS.get(name, ("a", "b", "alpha")), arguments, strict=False))


@cache
def parsed(formula: str) -> ast.expr:
    """Return the syntax tree of a formula."""
    return ast.parse(formula, mode="eval").body


def filled_in(formula: str, arguments: Mapping[str, str]) -> str:
    """Print a formula with texts in the places of its names; a factor of 1 is left out."""
    if formula in _PRINTED:
        return _PRINTED[formula].format(**arguments)
    tree = ast.parse(formula, mode="eval").body  # not the parsed one, which is shared
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = arguments.get(node.id, node.id)
    return ast.unparse(tree).replace("+ 1 * ", "+ ")
