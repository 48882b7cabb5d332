"""What would become of a live optimizer if it loaded a checkpoint: found out by trying.

The load is tried on a copy of the optimizer that shares the parameters and has nothing else of it,
so that whatever the class does on loading, it does here too, and the optimizer stays as it is.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.doctor import aliasing
from optimlab.lab.doctor.author import check_writer, read_state, rule_of, writer
from optimlab.lab.doctor.checkpoint import Checkpoint, of_optimizer
from optimlab.lab.doctor.hyperparameters import BOOKKEEPING, IMPLEMENTATION, SCHEDULE, same, shown
from optimlab.lab.doctor.order import check_order, sizes_apart
from optimlab.lab.findings import Finding, Severity, error, listed, note, warning


def check_loading(saved: Checkpoint, live: Checkpoint) -> Iterator[Finding]:
    """Compare a checkpoint with the live optimizer that would load it."""
    loaded = try_to_load(saved, live)
    yield from check_writer(saved, live, loads_it=not isinstance(loaded, Exception))
    if isinstance(loaded, Exception):
        what = f"loading fails: {type(loaded).__name__}: {loaded}{sizes_apart(saved, live)}"
        advice = "make the optimizer with the groups that the checkpoint has, or load its own."
        yield error("refused", saved.name, what, advice)
        return
    if loaded.sizes != saved.sizes:
        return
    yield from check_order(saved, live)
    yield from _hyperparameters(saved, live, loaded)
    yield from _state(saved, loaded)
    yield from _dtypes(saved, loaded)
    yield from aliasing.check_between(saved, live, live="the live ")


def try_to_load(saved: Checkpoint, live: Checkpoint) -> Checkpoint | Exception:
    """Load a checkpoint into a copy of a live optimizer; return the copy, or the error raised."""
    optimizer = live.live
    assert optimizer is not None
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(optimizer.__dict__)
    twin.state = defaultdict(dict)
    twin.param_groups = [dict(group) for group in optimizer.param_groups]
    for name in [name for name in vars(twin) if name.endswith("_hooks")]:
        setattr(twin, name, OrderedDict())
    try:
        twin.load_state_dict({"state": saved.state, "param_groups": copy.deepcopy(saved.groups)})
    except Exception as refusal:  # noqa: BLE001 - whatever it is, it is what loading raises
        return refusal
    return of_optimizer(twin)


def _hyperparameters(saved: Checkpoint, live: Checkpoint, loaded: Checkpoint) -> Iterator[Finding]:
    groups = zip(saved.groups, live.groups, loaded.groups, strict=True)
    for index, (wrote, before, after) in enumerate(groups):
        where = f"{saved.name}, group {index}"
        own = before.keys() - BOOKKEEPING
        lost = [key for key in before if key in own - after.keys()]
        if lost:
            what = f"has no {listed(lost)}, and neither has the optimizer once it is loaded"
            advice = "the next step raises KeyError, if it reads it; --repair --keep fills it in."
            yield error("missing key", where, what, advice)
        for key in before:
            if key in own & after.keys() and not same(before[key], after[key]):
                follows = [each for each in SCHEDULE if key == "lr" and each in after]
                yield _overridden(
                    key, before[key], after[key], where, follows, absent=key not in wrote
                )
        schedule = sorted(set(SCHEDULE) & (before.keys() ^ wrote.keys()))
        if schedule:
            what = f"{listed(schedule)} of a schedule: only one of the two has it"
            advice = (
                "make the scheduler again before loading its state; a distributed load drops it."
            )
            yield note("foreign key", where, what, advice)
        foreign = after.keys() - before.keys() - BOOKKEEPING
        if foreign:
            what = f"brings {listed(sorted(map(str, foreign)))}, which the optimizer does not read"
            advice = f"it was written by {writer(saved) or 'another optimizer'}."
            yield warning("foreign key", where, what, advice)


def _overridden(
    key: str, before: Any, after: Any, where: str, follows: list[str], *, absent: bool
) -> Finding:
    goes_on = (
        f"; a schedule goes by {listed(follows)}, which --keep lr keeps, too" if follows else ""
    )
    severity: Severity = "error" if absent else "warning"
    return Finding(
        "note" if key in IMPLEMENTATION else severity,
        "missing key" if absent else "hyperparameter overridden",
        where,
        f"loading replaces {key} = {shown(before)} by {shown(after)}, "
        + ("which it fills in where the checkpoint has none" if absent else f"its own{goes_on}"),
        f"set {key} again after loading, or keep it: --repair OUT --keep {key}.",
    )


def _state(saved: Checkpoint, loaded: Checkpoint) -> Iterator[Finding]:
    """Compare the state with what the rule will read after loading."""
    assert loaded.live is not None
    rule = rule_of(loaded.live)
    silent = rule is not None and rule.state_spec.made_by_rule
    for here, group in zip(loaded.ranges, loaded.live.param_groups, strict=True):
        reads = read_state(rule, group)
        if reads is None:
            continue
        held = {p: set(loaded.held(p)) for p in here}
        for missing, places in _alike({p: reads - keys for p, keys in held.items() if keys}):
            foreign = sorted({key for p in places for key in held[p]} - reads)
            instead = f"; there is {listed(foreign)} instead" if foreign else ""
            effect = "starts anew without an error" if silent else "raises KeyError"
            yield error(
                "missing key",
                f"{saved.name}: {saved.parameters(places)}",
                f"the state has no {listed(sorted(missing))}{instead}: the next step {effect}",
                f"the state was written by {writer(saved) or 'another optimizer'}; rename or "
                "convert what means the same.",
            )
        for foreign_keys, places in _alike({p: keys - reads for p, keys in held.items()}):
            what = f"the state has {listed(sorted(foreign_keys))}, which the rule never reads"
            where = f"{saved.name}: {saved.parameters(places)}"
            yield warning("foreign key", where, what, "nothing to do, if that is meant.")
        without = [p for p in here if not held[p]]
        if without and reads and any(loaded.state.values()):
            what = f"{saved.parameters(without)}: no state, so that it starts from zero without an "
            what += "error"
            advice = "fine only for parameters that never had a gradient."
            yield error("missing state", saved.name, what, advice)


def _alike(keys: dict[int, set[str]]) -> Iterator[tuple[set[str], list[int]]]:
    """Gather the parameters with the same keys, leaving out those with none."""
    places: defaultdict[frozenset[str], list[int]] = defaultdict(list)
    for place, found in keys.items():
        if found:
            places[frozenset(found)].append(place)
    return ((set(found), here) for found, here in places.items())


def _dtypes(saved: Checkpoint, loaded: Checkpoint) -> Iterator[Finding]:
    """Find tensors that loading casts to a dtype that does not hold all their bits."""
    held = {(place, key): tensor for place, key, tensor in loaded.tensors()}
    cast: defaultdict[tuple[torch.dtype, torch.dtype], list[tuple[int, str, Tensor, Tensor]]]
    cast = defaultdict(list)
    for place, key, tensor in saved.tensors():
        now = held.get((place, key), tensor)
        if now.dtype != tensor.dtype and now.shape == tensor.shape:
            cast[tensor.dtype, now.dtype].append((place, key, tensor, now))
    for (before, after), there in cast.items():
        lossy = [each for each in there if not same_bits(each[2], each[3].to(each[2]))]
        place, key, *_ = (lossy or there)[0]
        elements = sum(each[2].numel() for each in there)
        say = error if lossy else note
        yield say(
            "dtype",
            f"{saved.name}: {key} of {saved.parameter(place)}",
            f"loading casts {before} to {after} {'with' if lossy else 'without'} loss, here and in "
            f"{len(there) - 1} other tensors, {elements} elements",
            "the parameters' dtype decides: load before the model is cast, or restore the state "
            "tensors after loading.",
        )
