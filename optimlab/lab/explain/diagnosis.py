"""Why two steps diverge: experiments that turn one side's bits into the other's.

Each experiment changes one thing about one side's computation, carries that out, and compares what
comes out with the bits that the other side has. The one that reproduces them is the cause, and says
what was changed. Where none does, that is said, too: no class of cause is ever guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from optimlab.lab.explain.divergence import Divergence, RecordedStep, Side
from optimlab.lab.explain.experiments import other_rounding, state_precision
from optimlab.lab.explain.explanation import Cause
from optimlab.lab.record.registers import Value, digest, short
from optimlab.lab.record.writing import Operation


def diagnosed(found: Divergence) -> Cause:
    """Find out what makes the difference."""
    if found.gradient_missing:
        for side, other in found.both_ways:
            if side.step.computing() and not other.step.computing():
                return _taken_for_zero(side, other)
    if found.operations == (None, None):
        return Cause(
            "outside the recorded operations",
            "what makes the difference does not go through the operations that were recorded",
            "no operation of one side has a result that the other lacks",
        )
    unknown = Cause(
        "unknown",
        "none of the changes that were tried turns one side's bits into the other's",
        "other numbers and operands, a missing or extra operation, other orders, FMA, reciprocals, "
        "reduced precision",
    )
    return next(_experiments(found), unknown)


def _taken_for_zero(side: Side, other: Side) -> Cause:
    first = side.step.computing()[0]
    return Cause(
        "a missing gradient",
        f"the parameter has no gradient (None): {other.name} leaves it alone, and {side.name} "
        f"steps it as if its gradient were zero, or decays it, from {first} on",
        f"no operation of {other.name} computes with the parameter",
    )


def _experiments(found: Divergence) -> Iterator[Cause]:
    ours, theirs = found.operations
    if ours is None or theirs is None:
        yield from _written_gradient(found)
    else:
        yield from _place_in_memory(found, ours, theirs)
        yield from _other_arguments(found, ours, theirs)
    yield from state_precision(found)
    yield from other_rounding(found)
    yield from _operation_too_many(found)
    if ours is None or theirs is None:
        yield from _missing(found)


# Whether it is the bits at all.


def _place_in_memory(found: Divergence, ours: Operation, theirs: Operation) -> Iterator[Cause]:
    left, right = ours.target, theirs.target
    if left is None or right is None or left.digest != right.digest:
        return
    for value, other, side in ((left, right, found.a), (right, left, found.b)):
        if value.label and value.label != other.label:
            text = f"{side.name} overwrites {value.label} with what the other keeps apart"
            yield Cause("in place", text, f"both results have the same bits: {ours} and {theirs}")


def _written_gradient(found: Divergence) -> Iterator[Cause]:
    """Tell an operation on the gradient, which is not the optimizer's, that one side lacks."""
    for side, other in found.both_ways:
        operation = side.operation
        if operation is None or operation.target is None or operation.target.label != "grad":
            continue
        if not any(o.in_place and _writes_gradient(o) for o in other.step.operations):
            evidence = f"{side.name} computes {operation}, and no operation of {other.name} writes "
            text = f"{side.name} writes to grad, {other.name} does not"
            yield Cause("in place", text, f"{evidence}to grad")


def _writes_gradient(operation: Operation) -> bool:
    return any(value.label == "grad" for value in operation.results)


# The same operation with something else in it.


def _other_arguments(found: Divergence, ours: Operation, theirs: Operation) -> Iterator[Cause]:
    left, right = _arguments(ours), _arguments(theirs)
    if ours.name.strip("_") != theirs.name.strip("_") or len(left) != len(right):
        return
    for (name, mine), (_, other) in zip(left, right, strict=True):
        if _same(mine, other):
            continue
        given = other.kept.clone() if isinstance(other, Value) else other
        try:
            result = ours.repeat({name: given})
        except (RuntimeError, TypeError):
            continue
        if theirs.target is not None and digest(result) == theirs.target.digest:
            evidence = f"{found.a.name}'s {ours.name} with {_spelt(other)} gives {found.b.name}'s"
            yield Cause(*_argument_words(found, mine, other), f"{evidence} bits")


def _arguments(operation: Operation) -> list[tuple[str, Any]]:
    return [
        (name, value)
        for name, value in operation.arguments.items()
        if name != "out" and isinstance(value, Value | int | float)
    ]


def _same(mine: Any, other: Any) -> bool:
    if isinstance(mine, Value) and isinstance(other, Value):
        return mine.digest == other.digest
    return type(mine) is type(other) and bool(mine == other)


def _argument_words(found: Divergence, mine: Any, other: Any) -> tuple[str, str]:
    """Name the class of cause that another argument is, and say what differs."""
    a, b = found.a, found.b
    if _is_number(mine, a.operation) and _is_number(other, b.operation):
        return _number_words(a, b, mine.kept.item(), other.kept.item())
    if isinstance(mine, Value) and isinstance(other, Value):
        if mine.name == other.name:
            words = f"{mine.name} does not start as the same in {a.name} and {b.name}"
            return "another operand", words
        return "another operand", f"{a.name} takes {mine.name} where {b.name} takes {other.name}"
    if isinstance(mine, Value) or isinstance(other, Value):
        return "Tensor scalar", f"{a.name} takes {_spelt(mine)}, {b.name} {_spelt(other)}"
    kind, text = _number_words(a, b, float(mine), float(other))
    for side, number in ((a, mine), (b, other)):
        read = side.step.read.get(number)
        if read is not None and math.isclose(mine, other, rel_tol=1e-2):
            text += f"; {side.name} reads it from a tensor of {short(read.dtype)}, {read.name}"
            return "Tensor scalar", text
    return kind, text


def _is_number(argument: Any, operation: Operation | None) -> bool:
    """Tell whether a tensor is a number beside the others, and no element of them."""
    if not isinstance(argument, Value) or operation is None or operation.target is None:
        return False
    return not argument.shape and bool(operation.target.shape)


def _number_words(a: Side, b: Side, mine: float, other: float) -> tuple[str, str]:
    text = f"{a.name} takes {mine!r}, {b.name} {other!r}"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, rounded, exact in ((a.name, mine, other), (b.name, other, mine)):
            if rounded == torch.tensor(exact, dtype=torch.float64).to(dtype).item():
                whose = f"{name}'s is the other's rounded to {short(dtype)}"
                return "a rounded scalar", f"{text}: {whose}"
    if math.isclose(mine, other, rel_tol=8e-16):
        return "a rounded scalar", f"{text}: the same but for rounding in double precision"
    return "another scalar", text + (", its negative" if mine == -other else "")


def _spelt(argument: Any) -> str:
    if not isinstance(argument, Value):
        return f"the number {argument!r}"
    if argument.shape:
        return argument.name
    return f"the tensor {argument.name} ({argument.kept.item()!r}, {short(argument.dtype)})"


# Other mathematics.


def _operation_too_many(found: Divergence) -> Iterator[Cause]:
    for side, other in reversed(found.both_ways):
        operation = side.operation
        if operation is None or operation.target is None or not operation.operands:
            continue
        follower = _follower_without(operation, side.step, other.step)
        if follower is None:
            continue
        evidence = f"{side.name}'s {follower.name} without it gives {other.name}'s bits"
        elsewhere = [each for each in other.step.computing() if _is_alike(each, operation)]
        if elsewhere:
            text = f"{side.name} does {operation} where {other.name} does it later or earlier: "
            yield Cause("order of operations", f"{text}{elsewhere[0]}", evidence)
        else:
            text = f"{side.name} computes {operation}, which {other.name} does not"
            yield Cause("an operation missing", text, evidence)


def _follower_without(
    operation: Operation, own: RecordedStep, other: RecordedStep
) -> Operation | None:
    """Find an operation that, given the operand for the result, computes what the other has."""
    computed = {value.digest for each in other.computing() for value in each.results}
    for later in own.computing():
        for name, value in later.arguments.items():
            if not isinstance(value, Value) or value.source != operation.number:
                continue
            try:
                result = later.repeat({name: operation.operands[0].kept.clone()})
            except RuntimeError:
                continue
            if digest(result) in computed:
                return later
    return None


def _is_alike(one: Operation, another: Operation) -> bool:
    return (
        one.name.strip("_") == another.name.strip("_")
        and list(one.scalars.values()) == list(another.scalars.values())
        and bool(one.scalars)
    )


def _missing(found: Divergence) -> Iterator[Cause]:
    for side, other in reversed(found.both_ways):
        if side.operation is not None:
            words = f"{side.name} computes {side.operation}, and {other.name} no tensor with this"
            evidence = f"no operation of {other.name} has a result with these bits"
            yield Cause("an operation missing", f"{words} result", evidence)
