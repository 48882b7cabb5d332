"""Experiments on two steps that compute the same mathematics and round it differently."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.explain.divergence import Divergence, RecordedStep, Side
from optimlab.lab.explain.evaluation import evaluate, evaluate_in_double
from optimlab.lab.explain.explanation import Cause
from optimlab.lab.explain.expressions import Expression, expression_of
from optimlab.lab.explain.variants import Variant, changes, order_in_words, variants
from optimlab.lab.record.registers import Value, digest, short
from optimlab.lab.record.writing import Operation

_MOST_ELEMENTS = 512
_VARIANTS = 120  # of each expression that are tried together with each other change
_VECTOR = 32  # elements of a vector at most, those that kernels unroll included
_ROUNDINGS = 64  # within how many units in the last place of float64 two results are the same


def state_precision(found: Divergence) -> Iterator[Cause]:
    """Try whether one side keeps a tensor in a narrower dtype, and else does the same."""
    for label, *ends in _ends(found):
        if not all(end.dtype.is_floating_point for end in ends) or ends[0].dtype == ends[1].dtype:
            continue
        bits = [torch.finfo(end.dtype).bits for end in ends]
        narrow, wide = ends if bits[0] < bits[1] else reversed(ends)
        side, other = found.both_ways[bits[0] >= bits[1]]
        operation = None if wide.source is None else other.step.all[wide.source]
        for words, computed in _narrowed(operation, wide, narrow.dtype):
            if digest(computed) == narrow.digest:
                text = f"{side.name} keeps {label} in {short(narrow.dtype)}"
                yield Cause("reduced precision", text, words)


def _narrowed(
    operation: Operation | None, wide: Value, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    rounded = f"the other's {wide.name}, rounded to {short(dtype)}, has its bits"
    yield rounded, wide.kept.to(dtype)
    if operation is None:
        return
    given = {
        name: value.kept.to(dtype)
        for name, value in operation.arguments.items()
        if isinstance(value, Value) and value.dtype.is_floating_point
    }
    try:
        result = operation.repeat(given)
    except RuntimeError:
        return
    words = f"on operands rounded to {short(dtype)}, gives its bits"
    yield f"the other's {operation.name}, {words}", result


@dataclass(frozen=True, eq=False)
class _Result:
    """A tensor that ends different, with its bits and expressions on both sides."""

    expression: Expression
    own: Tensor
    other: Tensor
    other_expression: Expression | None  # there is none for a kernel that shows its result alone
    names: tuple[str, str]

    def chosen(self, elements: Tensor) -> _Result:
        """Restrict it to some elements."""
        shape = self.own.shape

        def part(value: Any) -> Any:
            is_whole = isinstance(value, Tensor) and value.shape == shape
            return value.flatten()[elements] if is_whole else value

        theirs = self.other_expression
        return replace(
            self,
            expression=self.expression.with_leaves(part),
            own=part(self.own),
            other=part(self.other),
            other_expression=None if theirs is None else theirs.with_leaves(part),
        )

    @cached_property
    def sample(self) -> _Result:
        """Restricted to some elements, those that differ first."""
        if self.own.numel() <= _MOST_ELEMENTS:
            return self
        differing = (self.own != self.other).flatten()
        order = torch.argsort((~differing).int(), stable=True)
        half = _MOST_ELEMENTS // 2
        return self.chosen(torch.cat([order[:half], order[-half:]]))

    def is_own(self, variant: Variant) -> bool:
        """Tell whether a variant gives the bits of this side."""
        # A few elements tell most variants apart, in less time than all.
        both = dict.fromkeys([self.sample, self])
        return all(_gives(each.expression, variant, each.own) for each in both)

    def is_theirs(self, variant: Variant) -> bool:
        """Tell whether a variant gives the bits of the other side."""
        both = dict.fromkeys([self.sample, self])
        return all(_gives(each.expression, variant, each.other) for each in both)


def other_rounding(found: Divergence) -> Iterator[Cause]:
    """Try whether both compute one expression, of which one variant gives the other's bits."""
    # A result that both have need not be used by both: then expressions down to what both end
    # with tell, and not only those down to what both have.
    for opaque in (False, True):
        yield from _other_rounding(_results(found, opaque=opaque))


def _other_rounding(results: Iterable[_Result]) -> Iterator[Cause]:
    alike = []
    for result in results:
        own = next(filter(result.is_own, variants(result.expression)), None)
        if own is not None and _same_mathematics(result.sample):
            alike.append(result)
            yield from _by_variant(result, own)
            yield from _at_the_end(result, own)
    for result in alike:
        yield from _by_order(result)


def _by_variant(result: _Result, own: Variant) -> Iterator[Cause]:
    a, b = result.names
    evidence = f"{a}'s formula evaluated so gives {b}'s bits in every element"

    def tried(bases: list[Variant], changed: list[Any]) -> Iterator[Cause]:
        for kind, words, change in changed:
            if any(result.is_theirs(replace(base, **change)) for base in bases):
                yield Cause(kind, f"{b} {words}; {a} does not", evidence)

    others = list(itertools.islice(variants(result.expression), _VARIANTS))
    changed = list(changes(result.expression)) if result.own.dim() else []
    yield from tried([own], changed)
    # Of half precision, before contractions that do the same.
    yield from tried(others, [each for each in changed if "wide" in each[2]])
    candidates = [each for each in others if result.is_theirs(each)]
    candidates.sort(key=lambda each: (each.orders != own.orders, len(each.contracted)))
    for each in candidates[:1]:
        yield Cause(*_rounding_words(result, own, each), evidence)
    yield from tried(others, changed)


def _rounding_words(result: _Result, own: Variant, other: Variant) -> tuple[str, str]:
    a, b = result.names
    order = order_in_words(result.expression, own, other)
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


def _at_the_end(result: _Result, own: Variant) -> Iterator[Cause]:
    """Try whether only elements behind the last full vector, at the end, are rounded differently.

    A vectorised kernel computes them in a loop of its own, which compilers may contract otherwise.
    """
    differing = (result.own != result.other).flatten().nonzero()
    count = result.own.numel()
    if not len(differing) or differing[0] < count - _VECTOR:
        return
    start = int(differing[0])
    small = result.chosen(torch.arange(start, count, device=result.own.device))
    for variant in variants(small.expression):
        if small.is_theirs(variant):
            a, b = result.names
            kind, words = _rounding_words(result, own, variant)
            text = f"in the last elements, behind the last full vector, {words}"
            shown = f"{a}'s formula evaluated so gives {b}'s bits"
            yield Cause(kind, text, f"{shown} from element {start} of {count} on")
            return


def _by_order(result: _Result) -> Iterator[Cause]:
    ours, theirs = result.expression, result.other_expression
    if theirs is None or ours.structure == theirs.structure:
        return
    a, b = result.names
    text = f"{a} and {b} spell the same mathematics differently, and so round differently"
    for name, one in ((a, ours), (b, theirs)):
        if any(each.is_number for each in one.walk()):
            text += f"; {name} computes with tensors without dimensions, in their dtype"
    yield Cause(
        "order of operations",
        text,
        "in double precision both formulas give the same numbers, up to its own rounding",
    )


def _results(found: Divergence, *, opaque: bool) -> Iterator[_Result]:
    """Write out, from either side, tensors that end different, the earliest written first."""
    for _, *ends in _ends(found):
        bits = [end.kept for end in ends]
        if not isinstance(bits[0], Tensor) or _form(ends[0]) != _form(ends[1]):
            continue
        written = [
            _expression(end, side, other, opaque=opaque)
            for end, (side, other) in zip(ends, found.both_ways, strict=True)
        ]
        if (written[0] is None) is not (written[1] is None):
            # A fused kernel: what it has on the way is not seen.
            seen = int(written[0] is None)
            written[seen] = _expression(ends[seen], *found.both_ways[seen], opaque=True)
        for own, (side, other) in enumerate(found.both_ways):
            expression = written[own]
            if expression is not None:
                names = (side.name, other.name)
                yield _Result(expression, bits[own], bits[1 - own], written[1 - own], names)


def _form(value: Value) -> tuple[Any, ...]:
    return value.shape, value.dtype


def _ends(found: Divergence) -> Iterator[tuple[str, Value, Value]]:
    """Go through what ends different by when it is written, in the side that writes one by one."""
    step = max(found.a.step, found.b.step, key=lambda step: len(step.computing()))
    order = dict.fromkeys(v.label for o in step.computing() for v in o.results)
    for label in order:
        left, right = (side.step.end_of(label) for side in (found.a, found.b))
        if label in step.outputs and left is not None and right is not None:
            yield label, left[1], right[1]


def _expression(value: Value, side: Side, other: Side, *, opaque: bool) -> Expression | None:
    """Write an expression out down to what the other side has, too; the value itself excepted.

    Of an opaque side only that counts which it ends with, under the same name.
    """
    own, theirs = side.step, other.step

    def operation_of(inner: Value) -> Operation | None:
        is_common = _is_end(inner, own, theirs) if opaque else theirs.has(inner)
        if inner.source is None or (inner is not value and is_common):
            return None
        return own.all[inner.source]

    read = {number: tensor for number, tensor in own.read.items() if number not in (0.0, 1.0)}
    written = expression_of(value, operation_of, read)
    return written if isinstance(written, Expression) else None


def _is_end(value: Value, own: RecordedStep, other: RecordedStep) -> bool:
    ends = [step.end_of(value.label) if value.label else None for step in (own, other)]
    return all(end is not None and end[1].digest == value.digest for end in ends)


def _same_mathematics(result: _Result) -> bool:
    """Tell whether both sides compute one mathematical expression, up to rounding."""
    mine, scale = evaluate_in_double(result.expression)
    if result.other_expression is not None:
        other, other_scale = evaluate_in_double(result.other_expression)
        allowed = _ROUNDINGS * torch.finfo(torch.float64).eps
        scale = torch.maximum(scale, other_scale)
    else:  # a kernel that shows its result alone: as far off as its own precision allows
        other, allowed = result.other.double(), 4 * torch.finfo(result.expression.dtype).eps
    if mine.shape != other.shape or mine.isfinite().ne(other.isfinite()).any():
        return False
    finite = mine.isfinite()
    return bool(((mine - other).abs() <= allowed * scale)[finite].all())


def _gives(expression: Expression, variant: Variant, bits: Tensor) -> bool:
    evaluated = evaluate(expression, variant)
    return evaluated.shape == bits.shape and same_bits(evaluated, bits)
