"""Which parameter is which: torch goes by the place, people by the name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from optimlab.lab.compare.digest import digest
from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.findings import Finding, error, listed, note


def check_order(saved: Checkpoint, reference: Checkpoint) -> Iterator[Finding]:
    """Compare the names at each place; both have as many parameters in each group."""
    if not (saved.names and reference.names):
        unnamed = saved if not saved.names else reference
        what = "has no names of parameters, so that their order cannot be checked"
        advice = "make the optimizer from model.named_parameters(): checkpoints then have names."
        yield note("names", unnamed.name, what, advice)
        return
    moved = [p for p, name in enumerate(saved.names) if name != reference.names[p]]
    where = saved.name + (f", names from {saved.names_from}" if saved.names_from else "")
    gone = sorted(set(saved.names) - set(reference.names))
    new = sorted(set(reference.names) - set(saved.names))
    if sorted(saved.names) != sorted(reference.names):
        what = f"names differ: here {listed(gone)}; in {reference.name} {listed(new)}"
        advice = "rename what was only renamed; the state of another parameter is of no use."
        yield error("names", where, what, advice)
    elif moved:
        yield error(
            "order",
            where,
            f"{len(moved)} parameters stand in another place: place {moved[0]} is "
            f"{saved.names[moved[0]]} here and {reference.names[moved[0]]} in {reference.name}. "
            "torch goes by the place and gives each the other's state",
            "--repair brings the state into the reference's order.",
        )


def sizes_apart(saved: Checkpoint, live: Checkpoint) -> str:
    """Say how many groups and parameters there are on each side, and which only one side has."""
    if saved.sizes == live.sizes:
        return ""
    counts = f"; its groups have {saved.sizes} parameters, those of {live.name} {live.sizes}"
    return counts + names_apart(saved, live)


def names_apart(ours: Checkpoint, theirs: Checkpoint) -> str:
    """Say which parameters only one side has, by name."""
    if not (ours.names and theirs.names):
        return ""
    here, there = set(ours.names), set(theirs.names)
    gone = [name for name in ours.names if name not in there]
    new = [name for name in theirs.names if name not in here]
    only = f"; only here {listed(gone)}" if gone else ""
    return only + (f"; only in {theirs.name} {listed(new)}" if new else "")


def check_moments(ours: Checkpoint, theirs: Checkpoint) -> Iterator[Finding]:
    """Find out, without names, whether both hold the same moments in another order."""
    left, right = _largest(ours), _largest(theirs)
    there = {held: place for place, held in right.items()}
    moved = {p: there.get(held) for p, held in left.items() if right.get(p) != held}
    if not moved or None in moved.values():
        return
    place, other_place = next(iter(moved.items()))
    assert other_place is not None
    what = f"the state of {ours.parameter(place)} is, bit for bit, that of "
    what += f"{theirs.parameter(other_place)} in {theirs.name}, and so for {len(moved)} parameters"
    advice = "the parameters were in another order: --repair needs their names to set it right."
    yield error("order", ours.name, what, advice)


def _largest(one: Checkpoint) -> dict[int, str]:
    """Return the bits of each parameter's largest state tensor, which tells it from the others."""
    found: dict[int, Tensor] = {}
    for place, _, tensor in one.tensors():
        if place not in found or tensor.numel() > found[place].numel():
            found[place] = tensor
    return {place: digest(tensor) for place, tensor in found.items() if tensor.dim()}
