"""Two optimizers beside each other: checkpoints, or live ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.compare.diff import Diff, path_name
from optimlab.lab.doctor import aliasing
from optimlab.lab.doctor.author import writer
from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.hyperparameters import (
    BOOKKEEPING,
    IMPLEMENTATION,
    form,
    is_number,
    same,
    shown,
)
from optimlab.lab.doctor.order import check_moments, check_order, names_apart
from optimlab.lab.findings import Finding, error, note, warning

States: TypeAlias = dict[int, dict[str, Any]]


def compare(ours: Checkpoint, theirs: Checkpoint) -> tuple[list[Finding], int]:
    """Compare groups, names, shapes, dtypes, then bits; return also how many elements."""
    if ours.sizes != theirs.sizes:
        what = f"{ours.sizes} parameters in its groups, {theirs.sizes} in {theirs.name}"
        what += names_apart(ours, theirs)
        return [error("groups", ours.name, what, "torch refuses to load one into the other.")], 0
    found = [*_classes(ours, theirs), *check_order(ours, theirs)]
    found += [
        finding for index in range(len(ours.groups)) for finding in _group(index, ours, theirs)
    ]
    shared = list(aliasing.check_between(ours, theirs, here=" here", there=" there"))
    left, right = _states(ours), _states(theirs)
    if shared:  # tensors that are the same one are the same by being so
        left, right = _unshared(left, right)
    diff = Diff()
    differences = diff.differences({"state": left}, {"state": right})
    found += [*shared, *_missing(ours, theirs, left, right)]
    dtypes = [
        (path, mismatch, left[path[1]].get(path[2]), right[path[1]].get(path[2]))
        for path, mismatch in differences
        if mismatch.what == "dtype"
    ]
    known = [*_dtypes(ours, theirs, dtypes), *(check_moments(ours, theirs) if differences else ())]
    found += known
    if len(differences) > 1 or (differences and not known):
        (path, mismatch), *_ = differences
        there = "" if mismatch.distance is None else f";  there, {mismatch.distance}"
        # What only one side has differs without having been compared, so "of" would be wrong.
        what = f"{len({path for path, _ in differences})} tensors or keys differ, {diff.tensors} "
        what += (
            f"tensors were compared; the first: {path_name(path, ours.names)}: {mismatch}{there}"
        )
        advice = "ours is the first checkpoint, theirs the second."
        found.append(warning("bits", ours.name, what, advice))
    return found, diff.elements


def _classes(ours: Checkpoint, theirs: Checkpoint) -> Iterator[Finding]:
    one, other = writer(ours), writer(theirs)
    if one and other and one != other:
        what = f"was written by {one}, {theirs.name} by {other}"
        advice = "what one class saved means something else to the other."
        yield error("wrong class", ours.name, what, advice)


def _group(index: int, ours: Checkpoint, theirs: Checkpoint) -> Iterator[Finding]:
    one, other = ours.groups[index], theirs.groups[index]
    where = f"{ours.name}, group {index}"
    for key in dict.fromkeys([*one, *other]):
        if key in ("params", "param_names"):
            continue
        say = note if key in BOOKKEEPING else warning
        if key not in one or key not in other:
            what = f"only {theirs.name if key in other else ours.name} has {key}"
            kind = "missing key" if key in other else "foreign key"
            yield say(kind, where, what, "--repair --keep takes it over from the reference.")
        elif not same(one[key], other[key]):
            what = f"{key} = {shown(one[key])}, in {theirs.name} {shown(other[key])}"
            advice = f"a load takes the checkpoint's; --repair --keep {key} the reference's."
            say = note if key in IMPLEMENTATION else say
            yield say("hyperparameter", where, what, advice)
        elif is_number(one[key]) and form(one[key]) != form(other[key]):
            what = f"{key} = {shown(one[key])} is a {form(one[key])}, in {theirs.name} a "
            what += f"{form(other[key])} of the same value"
            advice = "a step may round otherwise with one than with the other."
            yield warning("hyperparameter", where, what, advice)


def _states(one: Checkpoint) -> States:
    return {place: held for place in one.places.values() if (held := one.held(place))}


def _unshared(left: States, right: States) -> list[States]:
    """Leave out what lies in the same memory on both sides."""
    addresses = [
        {value.data_ptr() for held in side.values() for value in held.values() if _is_full(value)}
        for side in (left, right)
    ]
    both = addresses[0] & addresses[1]
    return [
        {
            place: {k: v for k, v in held.items() if not (_is_full(v) and v.data_ptr() in both)}
            for place, held in side.items()
        }
        for side in (left, right)
    ]


def _is_full(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


def _missing(
    ours: Checkpoint, theirs: Checkpoint, left: States, right: States
) -> Iterator[Finding]:
    without = [place for place in right if place not in left]
    if without:
        what = f"{ours.parameters(without)}: no state, where {theirs.name} has one"
        advice = "it starts from zero without an error; take its state from the other checkpoint."
        yield error("missing state", ours.name, what, advice)


def _dtypes(ours: Checkpoint, theirs: Checkpoint, found: list[Any]) -> Iterator[Finding]:
    """Say how many tensors of another dtype are the other's, rounded."""
    if not found:
        return
    rounded = 0
    for *_, one, other in found:
        alike = _is_full(one) and _is_full(other) and one.shape == other.shape
        rounded += alike and same_bits(one, other.to(one.dtype))
    (_, place, key, *_), mismatch, *_ = found[0]
    what = f"is {mismatch.ours}, in {theirs.name} {mismatch.theirs}, as {len(found) - 1} others"
    what += f"; {rounded} of them are the other's values, rounded"
    where = f"{ours.name}: {key} of {ours.parameter(place)}"
    yield error("dtype", where, what, "--repair takes the float32 moments back.")
