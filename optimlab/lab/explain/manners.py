"""The manners in which a formula may have been evaluated, to be tried one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from optimlab.lab.explain.formulas import HALF, Leaf, Manner, Term


def manners(term: Term, limit: int = 800) -> Iterator[Manner]:
    """Go through the manners of a term that round as kernels may: orders and contractions."""
    terms, sums = _count(term)
    contractions = itertools.product((None, 1, 0), repeat=min(sums, 4))
    orders = [range(_spellings(each)) for each in terms]
    # Contractions vary slowest, so that plain manners come first.
    both = itertools.product(contractions, itertools.product(*orders))
    for contracted, chosen in itertools.islice(both, limit):
        yield Manner(
            orders={place: order for place, order in enumerate(chosen) if order},
            contracted={i: product for i, product in enumerate(contracted) if product is not None},
        )


def changes(term: Term) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """List what else may be changed about a manner: the class of cause, words, and the change."""
    dtype = term.dtype
    words = "multiplies by a reciprocal and does not divide"
    if _names(term) & {"div", "addcdiv"}:
        yield "reciprocal", words, {"by_reciprocal": True}
    if "div" in _names(term):
        words = "multiplies by the reciprocal of a number and does not divide by it"
        yield "reciprocal", words, {"by_reciprocal_of_number": True}
    narrow = [d for d in (torch.bfloat16, torch.float16, torch.float32) if d is not dtype]
    for each in [dtype, *narrow]:
        words = ", the tensor's dtype," if each is dtype else ""
        yield (
            "a rounded scalar",
            f"rounds numbers to {_short(each)}{words} first",
            {"numbers": each},
        )
        for name in sorted(_names(term) & {"mul", "add", "addcmul", "lerp", "div"}):
            words = f"rounds the number of {name} to {_short(each)} first"
            yield "a rounded scalar", words, {"numbers": each, "numbers_of": name}
    words = "computes with Python's numbers, not with tensors without dimensions"
    yield "Tensor scalar", words, {"as_numbers": True}
    yield "a rounded scalar", "takes 1 - x of an x in float32", {"complements": True}
    others = {each for each in _dtypes(term) if each is not dtype and each.is_floating_point}
    if others:
        bits = max(torch.finfo(each).bits for each in others)
        lower = dtype in HALF or bits <= torch.finfo(dtype).bits
        words = f"computes all in {_short(dtype)}, not in {' and '.join(map(_short, others))}"
        yield f"{'reduced' if lower else 'higher'} precision", words, {"uncast": True}
    for each in narrow:
        yield "reduced precision", f"rounds results to {_short(each)}", {"results": each}
    if dtype in HALF:
        yield "reduced precision", "rounds to the dtype at the end only", {"wide": True}


def _dtypes(term: Term | Leaf) -> set[torch.dtype]:
    if not isinstance(term, Term):
        return set()
    return {term.dtype}.union(*map(_dtypes, term.arguments))


def _names(term: Term | Leaf) -> set[str]:
    if not isinstance(term, Term):
        return set()
    return {term.name}.union(*map(_names, term.arguments))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(term: Term | Leaf) -> tuple[list[Term], int]:
    """Return all terms, outermost first, and how many additions may be contracted."""
    if not isinstance(term, Term):
        return [], 0
    terms, sums = [term], int(term.name in {"lerp", "addcmul", "addcdiv", "add", "sub", "rsub"})
    for argument in term.arguments:
        inner, more = _count(argument)
        terms, sums = terms + inner, sums + more
    return terms, sums


# In the order in which ``formulas.py`` goes through them.
_SPELT = {
    "lerp": (
        "a + weight * (b - a)",
        "b - (1 - weight) * (b - a)",
        "(1 - weight) * a + weight * b",
        "weight * b + (1 - weight) * a",
    ),
    "addcmul": ("a + (value * b) * c", "a + value * (b * c)"),
    "addcdiv": (
        "a + (value * b) / c",
        "a + value * (b / c)",
        "a + b * (value / c)",
        "a + b / (c / value)",
    ),
}


def _spellings(term: Term) -> int:
    return len(_SPELT.get(term.name, ("",)))


def order_in_words(term: Term, manner: Manner, other: Manner) -> str:
    """Say in which order each of two manners evaluates the first operation in which they differ."""
    terms, _ = _count(term)
    for place, each in enumerate(terms):
        one, another = manner.orders.get(place, 0), other.orders.get(place, 0)
        if one != another:
            spelt = _SPELT[each.name]
            return f"{each.name} as {spelt[one]} and as {spelt[another]}"
    return ""


def structure(term: Term | Leaf) -> Any:
    """Return the names of a formula's operations, nested as they are."""
    if not isinstance(term, Term):
        return ""
    return (term.name, *map(structure, term.arguments))


def computes_numbers(term: Term | Leaf) -> bool:
    """Tell whether a formula computes with tensors without dimensions alone."""
    if not isinstance(term, Term):
        return False
    return _is_number(term) or any(map(computes_numbers, term.arguments))


def _is_number(term: Term | Leaf) -> bool:
    if isinstance(term, Term):
        return all(map(_is_number, term.arguments))
    return not isinstance(term, torch.Tensor) or not term.dim()
