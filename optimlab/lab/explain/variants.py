"""The variants in which an expression may be evaluated, to be tried one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from optimlab.lab.explain.expressions import Expression
from optimlab.lab.record.registers import short

HALF = (torch.float16, torch.bfloat16)
_SUMS = {"lerp", "addcmul", "addcdiv", "add", "sub", "rsub"}


@dataclass(frozen=True)
class Variant:
    """How an expression is evaluated; places are counted from the outermost operation inwards."""

    # Which of its formulas an operation takes, by its place, where it is not the first.
    orders: Mapping[int, int] = field(default_factory=dict)
    # Which summand of an addition is a product that it takes in unrounded: the second (1), or 0.
    contracted: Mapping[int, int] = field(default_factory=dict)
    by_reciprocal: bool = False  # a / b is a * (1 / b)
    by_reciprocal_of_number: bool = False  # and so it is where b is a plain number
    complements: bool = False  # a number is 1 - x of an x that was rounded to float32 first
    numbers: torch.dtype | None = None  # what plain numbers are rounded to first,
    numbers_of: str = ""  # those of this operation only
    # Tensors without dimensions are Python's numbers: computed with in double precision, and of a
    # float32 hyperparameter the decimal number that it was rounded from.
    as_numbers: bool = False
    results: torch.dtype | None = None  # what each result is rounded to, besides its own dtype
    wide: bool = False  # intermediate results of half precision stay unrounded
    uncast: bool = False  # everything is computed in the expression's dtype


def variants(expression: Expression, limit: int = 800) -> Iterator[Variant]:
    """Go through the variants that round as kernels may: orders and contractions."""
    operations = list(expression.walk())
    sums = sum(each.name in _SUMS for each in operations)
    contractions = itertools.product((None, 1, 0), repeat=min(sums, 4))
    orders = [range(len(each.formulas)) for each in operations]
    # Contractions vary slowest, so that plain variants come first.
    both = itertools.product(contractions, itertools.product(*orders))
    for contracted, chosen in itertools.islice(both, limit):
        yield Variant(
            orders={place: order for place, order in enumerate(chosen) if order},
            contracted={i: product for i, product in enumerate(contracted) if product is not None},
        )


def changes(expression: Expression) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """List what else may be changed about a variant: the class of cause, words, and the change."""
    dtype, names = expression.dtype, {each.name for each in expression.walk()}
    if names & {"div", "addcdiv"}:
        words = "multiplies by a reciprocal and does not divide"
        yield "reciprocal", words, {"by_reciprocal": True}
    if "div" in names:
        words = "multiplies by the reciprocal of a number and does not divide by it"
        yield "reciprocal", words, {"by_reciprocal_of_number": True}
    narrow = [d for d in (torch.bfloat16, torch.float16, torch.float32) if d is not dtype]
    for each in [dtype, *narrow]:
        whose = ", the tensor's dtype," if each is dtype else ""
        words = f"rounds numbers to {short(each)}{whose} first"
        yield "a rounded scalar", words, {"numbers": each}
        for name in sorted(names & {"mul", "add", "addcmul", "lerp", "div"}):
            words = f"rounds the number of {name} to {short(each)} first"
            yield "a rounded scalar", words, {"numbers": each, "numbers_of": name}
    words = "computes with Python's numbers, not with tensors without dimensions"
    yield "Tensor scalar", words, {"as_numbers": True}
    yield "a rounded scalar", "takes 1 - x of an x in float32", {"complements": True}
    yield from _precisions(expression, narrow)


def _precisions(
    expression: Expression, narrow: list[torch.dtype]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    dtype = expression.dtype
    dtypes = dict.fromkeys(each.dtype for each in expression.walk())
    others = [each for each in dtypes if each is not dtype and each.is_floating_point]
    if others:
        bits = max(torch.finfo(each).bits for each in others)
        lower = dtype in HALF or bits <= torch.finfo(dtype).bits
        words = f"computes all in {short(dtype)}, not in {' and '.join(map(short, others))}"
        yield f"{'reduced' if lower else 'higher'} precision", words, {"uncast": True}
    for each in narrow:
        yield "reduced precision", f"rounds results to {short(each)}", {"results": each}
    if dtype in HALF:
        yield "reduced precision", "rounds to the dtype at the end only", {"wide": True}


def order_in_words(expression: Expression, variant: Variant, other: Variant) -> str:
    """Say in which order each of two variants evaluates the first operation that differs."""
    for place, each in enumerate(expression.walk()):
        one, another = variant.orders.get(place, 0), other.orders.get(place, 0)
        if one != another:
            return f"{each.name} as {each.formulas[one]} and as {each.formulas[another]}"
    return ""
