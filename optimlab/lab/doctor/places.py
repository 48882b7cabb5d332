"""Which parameter is which: torch goes by the position, people by the name."""

from __future__ import annotations

from collections.abc import Iterator

from optimlab.lab.doctor.findings import Finding, listed
from optimlab.lab.doctor.subject import Subject


def check_order(saved: Subject, reference: Subject) -> Iterator[Finding]:
    """Compare the names at each position.

    Args:
        saved: what would be loaded, with as many parameters in each group as the reference.
        reference: what it is compared with.
    """
    if not (saved.names and reference.names):
        unnamed = saved if not saved.names else reference
        what = "has no names of parameters, so that their order cannot be checked"
        advice = "make the optimizer from model.named_parameters(): checkpoints then have names."
        yield Finding("note", "names", unnamed.name, what, advice)
        return
    moved = [p for p, name in enumerate(saved.names) if name != reference.names[p]]
    if not moved:
        return
    first = moved[0]
    source = f", names from {saved.names_from}" if saved.names_from else ""
    if sorted(saved.names) == sorted(reference.names):
        yield Finding(
            "error",
            "order",
            f"{saved.name}{source}",
            f"{len(moved)} parameters stand in another place: place {first} is "
            f"{saved.names[first]} here and {reference.names[first]} in {reference.name}. torch "
            "goes by the place and gives each the other's state",
            "--repair brings the state into the reference's order.",
        )
        return
    gone = sorted(set(saved.names) - set(reference.names))
    new = sorted(set(reference.names) - set(saved.names))
    yield Finding(
        "error",
        "names",
        f"{saved.name}{source}",
        f"names differ: here {listed(gone)}; in {reference.name} {listed(new)}",
        "rename what was only renamed; the state of another parameter is of no use.",
    )
