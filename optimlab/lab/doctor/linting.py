"""A live optimizer beside the model that it is meant to train."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from optimlab.lab.doctor.checkpoint import Checkpoint, of_optimizer
from optimlab.lab.doctor.hyperparameters import is_number, number, shown
from optimlab.lab.doctor.report import Report, report
from optimlab.lab.doctor.state_checks import examine
from optimlab.lab.findings import Finding, error, listed, note, warning

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
    all_of_them = [of_optimizer(each, model) for each in optimizers]
    findings: list[Finding] = []
    for one in all_of_them:
        findings += [*examine(one), *_frozen(one), *_equal_groups(one)]
    findings += _shared(all_of_them)
    if model is not None:
        findings += [finding for one in all_of_them for finding in _foreign(one, model)]
        findings += [*_left_out(all_of_them, model), *_unregistered(model)]
    count = sum(len(one.params) for one in all_of_them)
    looked_at = f"parameters: {count}, groups: {sum(len(one.groups) for one in all_of_them)}"
    return report(", ".join(one.name for one in all_of_them), findings, looked_at)


def _frozen(one: Checkpoint) -> Iterator[Finding]:
    frozen = [p for p, param in enumerate(one.params) if not param.requires_grad]
    stale = [p for p in frozen if one.params[p].grad is not None]
    quiet = [p for p in frozen if p not in stale]
    if stale:
        what = "requires_grad is False, but there is still a gradient: every step moves it on"
        where = f"{one.name}: {one.parameters(stale)}"
        yield warning("frozen", where, what, "set grad to None: zero_grad() does.")
    trained = [p for p in quiet if _has_trained(one, p)]
    if one.params and len(quiet) == len(one.params):
        what = "all parameters are frozen, requires_grad is False: nothing can move"
        yield error("frozen", one.name, what, "call requires_grad_() on what is to be trained.")
    elif trained:
        what = f"{one.parameters(trained)}: trained until now, and frozen: requires_grad is False"
        advice = "call requires_grad_() on them, if they are to go on; drop their state, if not."
        yield warning("frozen", one.name, what, advice)
    if quiet:
        what = f"{len(quiet)} parameters are frozen: {one.parameters(quiet)}"
        advice = "they stay as they are, as long as they have no gradient."
        yield note("frozen", one.name, what, advice)


def _has_trained(one: Checkpoint, place: int) -> bool:
    step = one.held(place).get("step")
    return bool(number(step)) if is_number(step) else bool(one.held(place))


def _equal_groups(one: Checkpoint) -> Iterator[Finding]:
    own = ("params", "param_names", "name")
    settings = Counter(
        tuple(sorted((str(key), shown(value)) for key, value in group.items() if key not in own))
        for group in one.groups
    )
    count = max(settings.values(), default=0)
    if count >= MANY_GROUPS:
        what = f"{count} of {len(one.groups)} groups have the same settings: torch steps each by "
        advice = "put their parameters into one group: the same bits, in less time."
        yield warning("equal groups", one.name, f"{what}itself", advice)


def _shared(several: list[Checkpoint]) -> Iterator[Finding]:
    """What several groups, or several optimizers, have in common and should not."""
    tensors: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    owners: defaultdict[int, list[str]] = defaultdict(list)
    for index, one in enumerate(several):
        label = one.name if len(several) == 1 else f"{one.name} {index}"
        for place, group in enumerate(one.groups):
            for key, value in group.items():
                if isinstance(value, Tensor):
                    tensors[id(value), key].append(f"{label}, group {place}")
        for param in {id(param) for param in one.params}:
            owners[param].append(label)
    for (_, key), places in tensors.items():
        if len(places) > 1:
            kind = "shared lr" if key == "lr" else "shared tensor"
            what = f"{key} is one tensor for all of them: a scheduler that fills it in place "
            advice = f"give each group a {key} of its own: {key}.clone()."
            what += "changes it for all, and once for each"
            yield warning(kind, listed(places), what, advice)
    shared = [labels for labels in owners.values() if len(labels) > 1]
    if shared:
        what = f"{len(shared)} parameters are held by both, and updated by both"
        yield warning("two optimizers", listed(shared[0]), what, "give each to one.")


def _foreign(one: Checkpoint, model: nn.Module) -> Iterator[Finding]:
    known = {id(param) for param in model.parameters()}
    foreign = [
        f"{one.parameter(place)}, {tuple(param.shape)} {param.dtype} on {param.device}"
        for place, param in enumerate(one.params)
        if id(param) not in known
    ]
    if foreign:
        what = f"{len(foreign)} of the {len(one.params)} parameters it holds are not the model's "
        what += "(any more): it updates what nobody uses"
        advice = "build the optimizer after the model was moved, cast, wrapped or had parameters "
        where = f"{one.name}: {listed(foreign)}"
        yield error("lost parameters", where, what, f"{advice}replaced.")


def _left_out(several: list[Checkpoint], model: nn.Module) -> Iterator[Finding]:
    held = {id(param) for one in several for param in one.params}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    left_out = [name for name, param in named if id(param) not in held]
    if left_out:
        what = f"{len(left_out)} parameters of the model are in no group: {listed(left_out)}"
        advice = "add them, or set requires_grad to False: they cost a gradient and never move."
        yield warning("left out", ", ".join(one.name for one in several), what, advice)


def _unregistered(model: nn.Module) -> Iterator[Finding]:
    """Find what hangs in lists and dicts of a module, where ``parameters()`` cannot see it."""
    known = {id(param) for param in model.parameters()}
    hidden = [
        f"{type(module).__name__}.{name}"
        for module in model.modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and any(id(param) not in known for param in _params_in(value))
    ]
    if hidden:
        what = f"{listed(hidden)}: parameters that parameters() does not see: they never move"
        advice = "use nn.ModuleList, nn.ParameterList, or their dicts, in place of Python's."
        yield warning("left out", type(model).__name__, what, advice)


def _params_in(value: Any) -> Iterator[nn.Parameter]:
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, nn.Module):
                yield from (param for param in item.parameters() if param.requires_grad)
            elif isinstance(item, nn.Parameter) and item.requires_grad:
                yield item
