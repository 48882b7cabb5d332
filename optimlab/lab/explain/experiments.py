"""Experiments on two steps that compute the same mathematics and round it differently."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.explain.cases import Case, Cause, is_result
from optimlab.lab.explain.expressions import Variant, Expression, evaluate, evaluate_widely, expression_of
from optimlab.lab.explain.variants import (
    changes,
    computes_numbers,
    variants,
    order_in_words,
    structure,
)
from optimlab.lab.explain.divergence import Steps, digest
from optimlab.lab.record.writing import Operation, Value

_MOST_ELEMENTS = 512
_VARIANTS = 120  # of each formula that are tried together with each other change
_VECTOR = 32  # elements of a vector at most, those that kernels unroll included
_ROUNDINGS = 64  # within how many units in the last place of float64 two formulas are the same


def state_precision(case: Case) -> Iterator[Cause]:
    """Try whether one side keeps a tensor in a narrower dtype, and else does the same."""
    for label in _labels(case):
        ends = [_end(steps, label) for steps in (case.ours, case.theirs)]
        left, right = ends
        if left is None or right is None or not _are_floats_of_two_sizes(left, right):
            continue
        narrow_is_ours = torch.finfo(left.dtype).bits < torch.finfo(right.dtype).bits
        narrow, wide = (left, right) if narrow_is_ours else (right, left)
        name, steps = (case.names[0], case.theirs) if narrow_is_ours else (case.names[1], case.ours)
        operation = steps.all[wide.source] if wide.source is not None else None
        dtype = str(narrow.dtype).removeprefix("torch.")
        for words, computed in _narrowed(operation, wide, narrow.dtype):
            if is_result(computed, narrow):
                yield Cause("reduced precision", f"{name} keeps {label} in {dtype}", words)
                return


def _are_floats_of_two_sizes(left: Value, right: Value) -> bool:
    dtypes = (left.dtype, right.dtype)
    return all(dtype.is_floating_point for dtype in dtypes) and left.dtype != right.dtype


def _narrowed(
    operation: Operation | None, wide: Value, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    short = str(dtype).removeprefix("torch.")
    yield f"the other's {wide.name}, rounded to {short}, has its bits", wide.kept.to(dtype)
    if operation is None:
        return
    rounded = {
        name: value.kept.to(dtype)
        for name, value in operation.arguments.items()
        if isinstance(value, Value) and value.dtype.is_floating_point
    }
    try:
        result = operation.repeat(rounded)
    except RuntimeError:
        return
    yield f"the other's {operation.name}, on operands rounded to {short}, gives its bits", result


@dataclass(frozen=True)
class _Formula:
    """One side's formula of a tensor that ends different, and the bits of both sides."""

    expression: Expression
    own: Tensor
    other: Tensor
    other_expression: Expression | None
    names: tuple[str, str]


def other_rounding(case: Case) -> Iterator[Cause]:
    """Try whether both compute one formula, and which variant of one side gives the other's bits."""
    # A result that both have need not be used by both: then the longer formulas tell.
    for opaque in (False, True):
        yield from _other_rounding(_formulas(case, opaque=opaque))


def _other_rounding(formulas: Iterable[_Formula]) -> Iterator[Cause]:
    alike = []
    for formula in formulas:
        small = _sampled(formula)
        variant = next((m for m in variants(small.expression) if _is_own(formula, small, m)), None)
        if variant is not None and _same_mathematics(small):
            alike.append(formula)
            yield from _by_variant(formula, small, variant)
            yield from _at_the_end(formula, variant)
    for formula in alike:
        yield from _by_order(formula)


def _by_variant(formula: _Formula, small: _Formula, variant: Variant) -> Iterator[Cause]:
    a, b = formula.names

    def is_theirs(changed: Variant) -> bool:
        # A few elements tell most variants apart, in less time than all.
        return _gives(small.expression, changed, small.other) and _gives(
            formula.expression, changed, formula.other
        )

    def tried(bases: list[Variant], changed: list[Any]) -> Iterator[Cause]:
        for kind, words, change in changed:
            if any(is_theirs(replace(base, **change)) for base in bases):
                yield Cause(kind, f"{b} {words}; {a} does not", evidence)

    evidence = f"{a}'s formula evaluated so gives {b}'s bits in every element"
    others = list(itertools.islice(variants(small.expression), _VARIANTS))
    changed = list(changes(formula.expression)) if formula.own.dim() else []
    wide = [each for each in changed if "wide" in each[2]]
    yield from tried([variant], changed)
    yield from tried(others, wide)  # of half precision, before contractions that do the same
    candidates = [each for each in others if is_theirs(each)]
    candidates.sort(key=lambda m: (m.orders != variant.orders, len(m.contracted)))
    for each in candidates[:1]:
        yield Cause(*_rounding_words(formula, variant, each), evidence)
    yield from tried(others, changed)


def _rounding_words(formula: _Formula, own: Variant, other: Variant) -> tuple[str, str]:
    a, b = formula.names
    order = order_in_words(formula.expression, own, other)
    if order and own.contracted == other.contracted:
        return "order of operations", f"{a} and {b} compute {order}"
    order = f"; they compute {order}" if order else ""
    if own.contracted and other.contracted:
        return "FMA", f"{a} and {b} contract different products with an addition{order}"
    contracts, rounds = (b, a) if other.contracted else (a, b)
    return "FMA", (
        f"{contracts} contracts a product with the addition behind it, rounding once, where "
        f"{rounds} rounds twice{order}"
    )


def _at_the_end(formula: _Formula, variant: Variant) -> Iterator[Cause]:
    """Try whether only elements behind the last full vector, at the end, are rounded differently.

    A vectorised kernel computes these in a loop of its own, which compilers may contract otherwise.
    """
    differing = (formula.own != formula.other).flatten().nonzero()
    count = formula.own.numel()
    if not len(differing) or differing[0] < count - _VECTOR:
        return
    end = slice(int(differing[0]), count)
    small = _chosen(formula, torch.arange(count, device=formula.own.device)[end])
    for changed in variants(small.expression):
        if _gives(small.expression, changed, small.other):
            a, b = formula.names
            kind, words = _rounding_words(formula, variant, changed)
            text = f"in the last elements, behind the last full vector, {words}"
            shown = f"{a}'s formula evaluated so gives {b}'s bits"
            yield Cause(kind, text, f"{shown} from element {end.start} of {count} on")
            return


def _by_order(formula: _Formula) -> Iterator[Cause]:
    expression, other = formula.expression, formula.other_expression
    if other is None or structure(expression) == structure(other):
        return
    a, b = formula.names
    text = f"{a} and {b} spell the same mathematics differently, and so round differently"
    for name, one in ((a, expression), (b, other)):
        if computes_numbers(one):
            text += f"; {name} computes with tensors without dimensions, in their dtype"
    yield Cause(
        "order of operations",
        text,
        "in double precision both formulas give the same numbers, up to its own rounding",
    )


def _formulas(case: Case, *, opaque: bool) -> Iterator[_Formula]:
    """Write out, from either side, tensors that end different, the earliest written first.

    Args:
        case: where they part.
        opaque: write formulas out down to what both end with, not only to what both have.
    """
    a, b = case.names
    for label in _labels(case):
        values = [_end(steps, label) for steps in (case.ours, case.theirs)]
        left, right = values
        if left is None or right is None or not isinstance(left.kept, Tensor):
            continue
        if left.shape != right.shape or left.dtype != right.dtype:
            continue
        expressions = [_expression(v, s, o, opaque=opaque) for v, s, o in _with_sides(case, left, right)]
        mine, other = expressions
        if other is None and mine is not None:  # a fused kernel: what it has on the way is not seen
            mine = _expression(left, case.ours, case.theirs, opaque=True)
        elif mine is None and other is not None:
            other = _expression(right, case.theirs, case.ours, opaque=True)
        if mine is not None:
            yield _Formula(mine, left.kept, right.kept, other, (a, b))
        if other is not None:
            yield _Formula(other, right.kept, left.kept, mine, (b, a))


def _with_sides(case: Case, left: Value, right: Value) -> list[tuple[Value, Steps, Steps]]:
    return [(left, case.ours, case.theirs), (right, case.theirs, case.ours)]


def _labels(case: Case) -> list[str]:
    """Order what ends different by when it is written, in the side that writes one by one."""
    steps = max(case.ours, case.theirs, key=lambda steps: len(steps.computing()))
    order = [v.label for o in steps.computing() for v in o.results if v.label in steps.outputs]
    return sorted(set(order), key=order.index)


def _end(steps: Steps, label: str) -> Value | None:
    ends = [v for o in steps.operations for v in o.results if v.label == label]
    return ends[-1] if ends else None


def _expression(value: Value, own: Steps, other: Steps, *, opaque: bool = False) -> Expression | None:
    """Write a formula out down to what the other side has, too; the value itself excepted.

    Of an opaque side only that counts which it ends with, under the same name.
    """

    def operation_of(inner: Value) -> Operation | None:
        is_common = _is_end(inner, own, other) if opaque else other.has(inner)
        if inner.source is None or (inner is not value and is_common):
            return None
        return own.all[inner.source]

    reads = [each for each in own.operations if isinstance(each.returned, float)]
    read = {o.returned: o.operands[0] for o in reads if o.returned not in (0.0, 1.0)}
    written = expression_of(value, operation_of, read)
    return written if isinstance(written, Expression) else None


def _is_end(value: Value, own: Steps, other: Steps) -> bool:
    ends = [_end(steps, value.label) for steps in (own, other)] if value.label else [None, None]
    return all(end is not None and digest(end.kept) == digest(value.kept) for end in ends)


def _same_mathematics(formula: _Formula) -> bool:
    """Tell whether both sides compute one mathematical formula, up to rounding."""
    mine, scale = evaluate_widely(formula.expression)
    if formula.other_expression is not None:
        other, other_scale = evaluate_widely(formula.other_expression)
        allowed = _ROUNDINGS * torch.finfo(torch.float64).eps
        scale = torch.maximum(scale, other_scale)
    else:  # a kernel that shows its result alone: as far off as its own precision allows
        other, allowed = formula.other.double(), 4 * torch.finfo(formula.expression.dtype).eps
    if mine.shape != other.shape or mine.isfinite().ne(other.isfinite()).any():
        return False
    finite = mine.isfinite()
    apart = (mine - other).abs()
    return bool((apart <= allowed * scale)[finite].all())


def _gives(expression: Expression, variant: Variant, bits: Tensor) -> bool:
    result = evaluate(expression, variant)
    return result.shape == bits.shape and same_bits(result, bits)


def _is_own(formula: _Formula, small: _Formula, variant: Variant) -> bool:
    return _gives(small.expression, variant, small.own) and _gives(formula.expression, variant, formula.own)


def _sampled(formula: _Formula) -> _Formula:
    """Restrict a formula to some elements, those that differ first."""
    if formula.own.numel() <= _MOST_ELEMENTS:
        return formula
    differing = (formula.own != formula.other).flatten()
    order = torch.argsort((~differing).int(), stable=True)
    return _chosen(
        formula, torch.cat([order[: _MOST_ELEMENTS // 2], order[-_MOST_ELEMENTS // 2 :]])
    )


def _chosen(formula: _Formula, chosen: Tensor) -> _Formula:
    shape = formula.own.shape

    def part(value: Any) -> Any:
        if isinstance(value, Expression):
            return Expression(value.name, tuple(map(part, value.arguments)), value.dtype)
        if isinstance(value, Tensor) and value.shape == shape:
            return value.flatten()[chosen]
        return value

    other_expression = part(formula.other_expression)
    return _Formula(
        part(formula.expression), part(formula.own), part(formula.other), other_expression, formula.names
    )
