"""A live optimizer beside the model that it is meant to train."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from optimlab.lab.doctor.findings import Finding, Report, listed, report
from optimlab.lab.doctor.hyperparameters import shown
from optimlab.lab.doctor.inside import examine
from optimlab.lab.doctor.subject import Subject, of_optimizer

MANY_GROUPS = 50


def lint(optimizer: Optimizer | Sequence[Optimizer], model: nn.Module | None = None) -> Report:
    """Look over a live optimizer for what torch takes without an error and is hardly meant.

    Parameters that the model no longer has (an optimizer built before ``model.to(device)`` made new
    ones), parameters left out, frozen, given twice or sharing memory; a tensor ``lr`` that several
    groups share; many groups with equal settings; misspelt keys and hyperparameters that make no
    sense; and everything that :func:`~optimlab.doctor` finds in its state.

    Args:
        optimizer: one, or all that train the model together. Nothing of it is changed.
        model: the model; without it nothing can be said about left out or lost parameters.

    Returns:
        Report: print it; ``healthy`` tells whether there is an error or a warning in it.

    Raises:
        TypeError: if there is no optimizer, or something else is among them.

    Example:
        >>> import torch, optimlab
        >>> model = torch.nn.Linear(2, 1)
        >>> early = torch.optim.Adam(model.parameters())
        >>> model.weight = torch.nn.Parameter(torch.ones(1, 2))
        >>> print(optimlab.lint(early, model).findings[0].what)
        1 of the 2 parameters it holds are not the model's (any more): it updates what nobody uses
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    if not optimizers or not all(isinstance(each, Optimizer) for each in optimizers):
        raise TypeError("lint takes a torch.optim.Optimizer, or several")
    found = [of_optimizer(each, model) for each in optimizers]
    findings = [finding for subject in found for finding in _alone(subject)]
    findings += _together(found)
    if model is not None:
        for subject in found:
            findings += _foreign(subject, model)
        findings += _left_out(found, model)
    count = sum(len(subject.params) for subject in found)
    looked_at = f"parameters: {count}, groups: {sum(len(subject.groups) for subject in found)}"
    return report(", ".join(subject.name for subject in found), findings, looked_at)


def _alone(subject: Subject) -> Iterator[Finding]:
    yield from examine(subject)
    yield from _frozen(subject)
    yield from _equal_groups(subject)


def _frozen(subject: Subject) -> Iterator[Finding]:
    frozen = [p for p, param in enumerate(subject.params) if not param.requires_grad]
    stale = [p for p in frozen if subject.params[p].grad is not None]
    if stale:
        yield Finding(
            "warning",
            "frozen",
            f"{subject.name}: {listed([subject.parameter(p) for p in stale])}",
            "requires_grad is False, but there is still a gradient: every step moves it on",
            "set grad to None: zero_grad() does.",
        )
    quiet = [subject.parameter(p) for p in frozen if p not in stale]
    if quiet:
        what = f"{len(quiet)} parameters are frozen: {listed(quiet)}"
        advice = "they stay as they are, as long as they have no gradient."
        yield Finding("note", "frozen", subject.name, what, advice)


def _equal_groups(subject: Subject) -> Iterator[Finding]:
    settings = [
        tuple(sorted((str(key), shown(value)) for key, value in group.items() if _counts(key)))
        for group in subject.groups
    ]
    if not settings:
        return
    (_, count), *_ = Counter(settings).most_common(1)
    if count >= MANY_GROUPS:
        yield Finding(
            "warning",
            "equal groups",
            subject.name,
            f"{count} of {len(settings)} groups have the same settings: torch steps each by itself",
            "put their parameters into one group: the same bits, in less time.",
        )


def _counts(key: Any) -> bool:
    return key not in ("params", "param_names", "name")


def _together(found: list[Subject]) -> Iterator[Finding]:
    """What several groups, or several optimizers, have in common and should not."""
    shared: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    owners: defaultdict[int, list[str]] = defaultdict(list)
    for number, subject in enumerate(found):
        which = f"{subject.name} {number}" if len(found) > 1 else subject.name
        for index, group in enumerate(subject.groups):
            for key, value in group.items():
                if isinstance(value, Tensor):
                    shared[id(value), key].append(f"{which}, group {index}")
        for param in {id(param) for param in subject.params}:
            owners[param].append(which)
    for (_, key), places in shared.items():
        if len(places) > 1:
            yield Finding(
                "warning",
                "shared lr" if key == "lr" else "shared tensor",
                listed(places),
                f"{key} is one tensor for all of them: a scheduler that fills it in place changes "
                "it for all, and once for each",
                f"give each group a {key} of its own: {key}.clone().",
            )
    several = [places for places in owners.values() if len(places) > 1]
    if several:
        what = f"{len(several)} parameters are held by both, and updated by both"
        yield Finding("warning", "two optimizers", listed(several[0]), what, "give each to one.")


def _foreign(subject: Subject, model: nn.Module) -> Iterator[Finding]:
    known = {id(param) for param in model.parameters()}
    foreign = [place for place, param in enumerate(subject.params) if id(param) not in known]
    if not foreign:
        return
    yield Finding(
        "error",
        "lost parameters",
        f"{subject.name}: {listed([_described(subject, place) for place in foreign])}",
        f"{len(foreign)} of the {len(subject.params)} parameters it holds are not the model's "
        "(any more): it updates what nobody uses",
        "build the optimizer after the model was moved, cast, wrapped or had parameters replaced.",
    )


def _described(subject: Subject, place: int) -> str:
    param = subject.params[place]
    return f"{subject.parameter(place)}, {tuple(param.shape)} {param.dtype} on {param.device}"


def _left_out(found: list[Subject], model: nn.Module) -> Iterator[Finding]:
    held = {id(param) for subject in found for param in subject.params}
    left_out = [
        name
        for name, param in model.named_parameters()
        if id(param) not in held and param.requires_grad
    ]
    if left_out:
        what = f"{len(left_out)} parameters of the model are in no group: {listed(left_out)}"
        advice = "add them, or set requires_grad to False: they cost a gradient and never move."
        yield Finding("warning", "left out", ", ".join(s.name for s in found), what, advice)
