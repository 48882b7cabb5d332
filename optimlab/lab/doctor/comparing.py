"""Two optimizers beside each other: checkpoints, or live ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.compare.diff import Compared, Diff
from optimlab.lab.compare.digest import digest
from optimlab.lab.doctor.findings import Finding, listed
from optimlab.lab.doctor.hyperparameters import (
    BOOKKEEPING,
    IMPLEMENTATION,
    form,
    is_number,
    same,
    shown,
)
from optimlab.lab.doctor.kinds import writer
from optimlab.lab.doctor.loading import shared_by_two
from optimlab.lab.doctor.places import check_order
from optimlab.lab.doctor.subject import Subject, entries
from optimlab.lab.lockstep.outcome import Difference


def compare_subjects(ours: Subject, theirs: Subject) -> tuple[list[Finding], Compared]:
    """Compare two optimizers: groups, names, shapes, dtypes, then bits.

    Returns:
        What differs, and how much was compared.
    """
    if ours.sizes != theirs.sizes:
        what = f"{ours.sizes} parameters in its groups, {theirs.sizes} in {theirs.name}"
        advice = "torch refuses to load one into the other."
        return [Finding("error", "groups", ours.name, what, advice)], Compared()
    found = [*_classes(ours, theirs), *check_order(ours, theirs), *_groups(ours, theirs)]
    found += _shared(ours, theirs)
    bits, compared = _bits(ours, theirs, aliased=any(f.kind == "aliasing" for f in found))
    return found + bits, compared


def _classes(ours: Subject, theirs: Subject) -> Iterator[Finding]:
    one, other = writer(ours), writer(theirs)
    if one and other and one != other:
        what = f"was written by {one}, {theirs.name} by {other}"
        advice = "what one class saved means something else to the other."
        yield Finding("error", "wrong class", ours.name, what, advice)


def _groups(ours: Subject, theirs: Subject) -> Iterator[Finding]:
    for index, (one, other) in enumerate(zip(ours.groups, theirs.groups, strict=True)):
        where = f"{ours.name}, group {index}"
        for key in dict.fromkeys([*one, *other]):
            if key in ("params", "param_names"):
                continue
            if key not in one or key not in other:
                which = theirs.name if key in other else ours.name
                kind = "missing key" if key in other else "foreign key"
                severity = "note" if key in BOOKKEEPING else "warning"
                what = f"only {which} has {key}"
                advice = "--repair --keep takes it over from the reference."
                yield Finding(severity, kind, where, what, advice)  # type: ignore[arg-type]
            elif not same(one[key], other[key]):
                what = f"{key} = {shown(one[key])}, in {theirs.name} {shown(other[key])}"
                advice = f"a load takes the checkpoint's; --repair --keep {key} the reference's."
                noted = key in IMPLEMENTATION or key in BOOKKEEPING
                severity = "note" if noted else "warning"
                yield Finding(severity, "hyperparameter", where, what, advice)  # type: ignore[arg-type]
            elif is_number(one[key]) and form(one[key]) != form(other[key]):
                what = f"{key} = {shown(one[key])} is a {form(one[key])}, in {theirs.name} a "
                what += f"{form(other[key])} of the same value"
                advice = "a step may round otherwise with one than with the other."
                yield Finding("warning", "hyperparameter", where, what, advice)


def _shared(ours: Subject, theirs: Subject) -> Iterator[Finding]:
    left, right = (
        [(f"{key} of {side.parameter(p)} {which}", t) for p, key, t in side.tensors()]
        for side, which in ((ours, "here"), (theirs, "there"))
    )
    yield from shared_by_two(left, right, f"{ours.name} and {theirs.name}")


def _bits(ours: Subject, theirs: Subject, *, aliased: bool) -> tuple[list[Finding], Compared]:
    diff = Diff()
    left, right = _state_by_place(ours), _state_by_place(theirs)
    if aliased:  # tensors that are the same one are the same by being so
        left, right = _unshared(left, right)
    found = diff.differences({"state": left}, {"state": right})
    compared = diff.compared
    if not found:
        return [], compared
    missing = [_missing(ours, theirs, left, right)]
    dtypes = [item for item in found if item[1].what == "dtype"]
    first = Difference.first_of(found, compared, 0, "", ours.names)
    permuted = _permuted(ours, theirs)
    findings = [finding for finding in missing if finding is not None]
    if dtypes:
        findings.append(_dtype(ours, theirs, dtypes, left, right))
    if permuted:
        findings.append(permuted)
    differ = len({item[0] for item in found})
    # What only one side has differs without having been compared, so "of" would be wrong.
    what = f"{differ} tensors or keys differ, {compared.tensors} tensors were compared; the first: "
    what += f"{first.where}: "
    what += str(first).partition(f"{first.where}: ")[2].replace("\n", ";")
    advice = "ours is the first checkpoint, theirs the second."
    if found[1:] or not (dtypes or permuted):
        findings.append(Finding("warning", "bits", ours.name, what, advice))
    return findings, compared


def _state_by_place(subject: Subject) -> dict[Any, Any]:
    return {p: subject.state[n] for n, p in subject.places.items() if subject.state.get(n)}


def _unshared(left: dict[Any, Any], right: dict[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Leave out what lies in the same memory on both sides."""

    def kept(side: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
        theirs = {t.data_ptr() for held in other.values() for _, t in entries(held) if _full(t)}
        return {
            place: {
                key: value
                for key, value in held.items()
                if not (_full(value) and value.data_ptr() in theirs)
            }
            for place, held in side.items()
        }

    return kept(left, right), kept(right, left)


def _full(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


def _missing(
    ours: Subject, theirs: Subject, left: dict[Any, Any], right: dict[Any, Any]
) -> Finding | None:
    without = [ours.parameter(p) for p in right if p not in left]
    if not without:
        return None
    what = f"{listed(without)}: no state, where {theirs.name} has one"
    advice = "it starts from zero without an error; take its state from the other checkpoint."
    return Finding("error", "missing state", ours.name, what, advice)


def _dtype(
    ours: Subject, theirs: Subject, found: list[Any], left: dict[Any, Any], right: dict[Any, Any]
) -> Finding:
    rounded = 0
    for (_, place, key, *_), _ in found:
        one, other = left[place].get(key), right[place].get(key)
        rounded += _full(one) and _full(other) and same_bits(one, other.to(one.dtype))
    (_, place, key, *_), mismatch = found[0]
    what = f"is {mismatch.ours}, in {theirs.name} {mismatch.theirs}, as {len(found) - 1} others"
    what += f"; {rounded} of them are the other's values, rounded"
    where = f"{ours.name}: {key} of {ours.parameter(place)}"
    return Finding("error", "dtype", where, what, "--repair takes the float32 moments back.")


def _permuted(ours: Subject, theirs: Subject) -> Finding | None:
    """Find out whether both hold the same moments in another order."""
    left, right = _largest(ours), _largest(theirs)
    there = {held: place for place, held in right.items()}
    differing = [place for place, held in left.items() if right.get(place) != held]
    if not all(left[place] in there for place in differing):
        return None
    moved = {place: there[left[place]] for place in differing}
    if not moved:
        return None
    place, other_place = next(iter(moved.items()))
    what = f"the state of {ours.parameter(place)} is, bit for bit, that of "
    what += f"{theirs.parameter(other_place)} in {theirs.name}, and so for {len(moved)} parameters"
    advice = "the parameters were in another order: --repair needs their names to set it right."
    return Finding("error", "order", ours.name, what, advice)


def _largest(subject: Subject) -> dict[int, str]:
    """Return the bits of each parameter's largest state tensor, which tells it from the others."""
    found: dict[int, Tensor] = {}
    for place, _, tensor in subject.tensors():
        if place not in found or tensor.numel() > found[place].numel():
            found[place] = tensor
    return {place: digest(tensor) for place, tensor in found.items() if tensor.dim()}
