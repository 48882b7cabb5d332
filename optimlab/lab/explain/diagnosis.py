"""Why two steps part: experiments that turn one side's bits into the other's.

Each experiment changes one thing about one side's computation, carries that out, and compares what
comes out with the bits that the other side has. The one that reproduces them is the cause, and says
what was changed. Where none does, that is said, too: no class of cause is ever guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from optimlab.lab.explain.cases import Case, Cause, is_result
from optimlab.lab.explain.divergence import Digest, Steps, digest
from optimlab.lab.explain.experiments import other_rounding, state_precision
from optimlab.lab.record.writing import Operation, Value


def cause_of(case: Case) -> Cause:
    """Find out what makes the difference."""
    if case.divergence.ours is None and case.divergence.theirs is None:
        return Cause(
            "outside the recorded operations",
            "what makes the difference does not go through the operations that were recorded",
            "no operation of one side has a result that the other lacks",
        )
    found = next(_experiments(case), None)
    if found is not None:
        return found
    return Cause(
        "unknown",
        "none of the changes that were tried turns one side's bits into the other's",
        "other numbers and operands, a missing or extra operation, other orders, FMA, reciprocals, "
        "reduced precision",
    )


def _experiments(case: Case) -> Iterator[Cause]:
    yield from _place_in_memory(case)
    if case.divergence.ours is not None and case.divergence.theirs is not None:
        yield from _other_arguments(case, case.divergence.ours, case.divergence.theirs)
    yield from state_precision(case)
    yield from other_rounding(case)
    yield from _operation_too_many(case)
    yield from _missing(case)


# Whether it is the bits at all.


def _place_in_memory(case: Case) -> Iterator[Cause]:
    ours, theirs = case.divergence.ours, case.divergence.theirs
    if ours is None or theirs is None:
        yield from _written_gradient(case)
        return
    left, right = ours.target, theirs.target
    if left is None or right is None or digest(left.kept) != digest(right.kept):
        return
    for value, other, name in ((left, right, case.names[0]), (right, left, case.names[1])):
        if value.label and value.label != other.label:
            text = f"{name} overwrites {value.label} with what the other keeps apart"
            yield Cause("in place", text, f"both results have the same bits: {ours} and {theirs}")
            return


def _written_gradient(case: Case) -> Iterator[Cause]:
    """Tell an operation on the gradient, which is not the optimizer's, that one side lacks."""
    a, b = case.names
    for operation, name, other, steps in (
        (case.divergence.ours, a, b, case.theirs),
        (case.divergence.theirs, b, a, case.ours),
    ):
        if operation is None or operation.target is None or operation.target.label != "grad":
            continue
        if not any(o.in_place and _writes_gradient(o) for o in steps.operations):
            evidence = f"{name} computes {operation}, and no operation of {other} writes to grad"
            yield Cause("in place", f"{name} writes to grad, {other} does not", evidence)


def _writes_gradient(operation: Operation) -> bool:
    return any(value.label == "grad" for value in operation.results)


# The same operation with something else in it.


def _other_arguments(case: Case, ours: Operation, theirs: Operation) -> Iterator[Cause]:
    left, right = _arguments(ours), _arguments(theirs)
    if ours.name.strip("_") != theirs.name.strip("_") or len(left) != len(right):
        return
    for (name, mine), (_, other) in zip(left, right, strict=True):
        if _same(mine, other):
            continue
        try:
            result = ours.repeat({name: _plain(other)})
        except (RuntimeError, TypeError):
            continue
        if is_result(result, theirs.target):
            yield _argument_cause(case, ours, theirs, mine, other)


def _arguments(operation: Operation) -> list[tuple[str, Any]]:
    return [
        (name, value)
        for name, value in operation.arguments.items()
        if name != "out" and (isinstance(value, Value | int | float))
    ]


def _argument_cause(case: Case, ours: Operation, theirs: Operation, mine: Any, other: Any) -> Cause:
    a, b = case.names
    evidence = f"{a}'s {ours.name} with {_spelt(other)} gives {b}'s bits"
    if _is_number(mine, ours) and _is_number(other, theirs):
        kind, text = _number_cause(case.names, mine.kept.item(), other.kept.item())
        return Cause(kind, text, evidence)
    if isinstance(mine, Value) and isinstance(other, Value):
        text = f"{a} takes {mine.name} where {b} takes {other.name}"
        if mine.name == other.name:
            text = f"{mine.name} does not start as the same in {a} and {b}"
        return Cause("another operand", text, evidence)
    if isinstance(mine, Value) or isinstance(other, Value):
        text = f"{a} takes {_spelt(mine)}, {b} {_spelt(other)}"
        return Cause("Tensor scalar", text, evidence)
    kind, text = _number_cause(case.names, float(mine), float(other))
    for steps, number, name in ((case.ours, mine, a), (case.theirs, other, b)):
        read = [each for each in steps.operations if _is_read(each, number)]
        if read and math.isclose(mine, other, rel_tol=1e-2):
            dtype = str(read[0].operands[0].dtype).removeprefix("torch.")
            text += f"; {name} reads it from a tensor of {dtype}, {read[0].operands[0].name}"
            return Cause("Tensor scalar", text, evidence)
    return Cause(kind, text, evidence)


def _is_number(argument: Any, operation: Operation) -> bool:
    """Tell whether a tensor is a number beside the others, and no element of them."""
    if not isinstance(argument, Value) or operation.target is None:
        return False
    return not argument.shape and bool(operation.target.shape)


def _is_read(operation: Operation, number: Any) -> bool:
    returned = operation.returned
    return isinstance(returned, float) and returned == number


def _number_cause(names: tuple[str, str], mine: float, other: float) -> tuple[str, str]:
    a, b = names
    text = f"{a} takes {mine!r}, {b} {other!r}"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        short = str(dtype).removeprefix("torch.")
        for name, rounded, exact in ((a, mine, other), (b, other, mine)):
            if rounded == torch.tensor(exact, dtype=torch.float64).to(dtype).item():
                return "a rounded scalar", f"{text}: {name}'s is the other's rounded to {short}"
    if math.isclose(mine, other, rel_tol=8e-16):
        return "a rounded scalar", f"{text}: the same but for rounding in double precision"
    relation = ", its negative" if mine == -other else ""
    return "another scalar", text + relation


# Other mathematics.


def _operation_too_many(case: Case) -> Iterator[Cause]:
    a, b = case.names
    sides = [
        (case.divergence.theirs, case.theirs, case.ours, (b, a)),
        (case.divergence.ours, case.ours, case.theirs, (a, b)),
    ]
    for operation, own, other, (name, without) in sides:
        if operation is None or operation.target is None or not operation.operands:
            continue
        follower = _follower_without(operation, own, other)
        if follower is None:
            continue
        evidence = f"{name}'s {follower.name} without it gives {without}'s bits"
        elsewhere = [each for each in other.computing() if _is_alike(each, operation)]
        if elsewhere:
            text = f"{name} does {operation} where {without} does it later or earlier: "
            yield Cause("order of operations", f"{text}{elsewhere[0]}", evidence)
        else:
            text = f"{name} computes {operation}, which {without} does not"
            yield Cause("an operation missing", text, evidence)


def _follower_without(operation: Operation, own: Steps, other: Steps) -> Operation | None:
    """Find an operation that, given the operand for the result, computes what the other has."""
    for later in own.computing():
        for name, value in later.arguments.items():
            if not isinstance(value, Value) or value.source != operation.number:
                continue
            try:
                result = later.repeat({name: operation.operands[0].kept.clone()})
            except RuntimeError:
                continue
            if digest(result) in _computed(other):
                return later
    return None


def _computed(steps: Steps) -> set[Digest]:
    return {digest(value.kept) for each in steps.computing() for value in each.results}


def _is_alike(one: Operation, another: Operation) -> bool:
    return (
        one.name.strip("_") == another.name.strip("_")
        and list(one.scalars.values()) == list(another.scalars.values())
        and bool(one.scalars)
    )


def _missing(case: Case) -> Iterator[Cause]:
    ours, theirs = case.divergence.ours, case.divergence.theirs
    for operation, name, other in (
        (theirs, case.names[1], case.names[0]),
        (ours, case.names[0], case.names[1]),
    ):
        missing = ours is None or theirs is None
        if missing and operation is not None:
            text = f"{name} computes {operation}, and {other} no tensor with this result"
            evidence = f"no operation of {other} has a result with these bits"
            yield Cause("an operation missing", text, evidence)


# What they have in common.


def _same(mine: Any, other: Any) -> bool:
    if isinstance(mine, Value) and isinstance(other, Value):
        return digest(mine.kept) == digest(other.kept)
    return type(mine) is type(other) and bool(mine == other)


def _plain(argument: Any) -> Any:
    return argument.kept.clone() if isinstance(argument, Value) else argument


def _spelt(argument: Any) -> str:
    if isinstance(argument, Value):
        if not argument.shape:
            dtype = str(argument.dtype).removeprefix("torch.")
            return f"the tensor {argument.name} ({argument.kept.item()!r}, {dtype})"
        return argument.name
    return f"the number {argument!r}"
