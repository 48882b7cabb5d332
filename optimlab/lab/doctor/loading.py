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
from optimlab.lab.doctor.findings import Finding, listed
from optimlab.lab.doctor.hyperparameters import BOOKKEEPING, IMPLEMENTATION, same, shown
from optimlab.lab.doctor.kinds import check_writer, read_state, writer
from optimlab.lab.doctor.memory import overlaps
from optimlab.lab.doctor.places import check_order
from optimlab.lab.doctor.subject import Subject, of_optimizer


def check_loading(saved: Subject, live: Subject) -> Iterator[Finding]:
    """Compare a checkpoint with the live optimizer that would load it.

    Args:
        saved: from a checkpoint.
        live: has the optimizer.
    """
    loaded = try_to_load(saved, live)
    yield from check_writer(saved, live, loads_it=not isinstance(loaded, Exception))
    if isinstance(loaded, Exception):
        what = f"loading fails: {type(loaded).__name__}: {loaded}"
        advice = "make the optimizer with the groups that the checkpoint has, or load its own."
        yield Finding("error", "refused", saved.name, what, advice)
        return
    if loaded.sizes != saved.sizes:
        return
    yield from check_order(saved, live)
    yield from _hyperparameters(saved, live, loaded)
    yield from _state(saved, loaded)
    yield from _dtypes(saved, loaded)
    yield from _shared(saved, live)


def try_to_load(saved: Subject, live: Subject) -> Subject | Exception:
    """Load a checkpoint into a copy of a live optimizer.

    Returns:
        The copy, or the error that loading raises.
    """
    optimizer = live.live
    assert optimizer is not None
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(optimizer.__dict__)
    twin.state = defaultdict(dict)
    twin.param_groups = [dict(group) for group in optimizer.param_groups]
    for name in [name for name in vars(twin) if name.endswith("_hooks")]:
        setattr(twin, name, OrderedDict())
    try:
        twin.load_state_dict(_state_dict(saved))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what loading raises
        return error
    return of_optimizer(twin)


def _state_dict(saved: Subject) -> dict[str, Any]:
    return {"state": saved.state, "param_groups": copy.deepcopy(saved.groups)}


def _hyperparameters(saved: Subject, live: Subject, loaded: Subject) -> Iterator[Finding]:
    for index, (before, after) in enumerate(zip(live.groups, loaded.groups, strict=True)):
        where = f"{saved.name}, group {index}"
        lost = [key for key in before if key not in after and key not in BOOKKEEPING]
        if lost:
            what = f"has no {listed(lost)}, and neither has the optimizer once it is loaded"
            advice = "the next step raises KeyError, if it reads it; --repair --keep fills it in."
            yield Finding("error", "missing key", where, what, advice)
        for key, value in before.items():
            if key in BOOKKEEPING or key not in after or same(value, after[key]):
                continue
            absent = key not in saved.groups[index]
            how = "which it fills in where the checkpoint has none" if absent else "its own"
            yield Finding(
                "note" if key in IMPLEMENTATION else "error" if absent else "warning",
                "missing key" if absent else "hyperparameter overridden",
                where,
                f"loading replaces {key} = {shown(value)} by {shown(after[key])}, {how}",
                f"set {key} again after loading, or keep it: --repair OUT --keep {key}.",
            )
        foreign = after.keys() - before.keys() - BOOKKEEPING
        if foreign:
            what = f"brings {listed(sorted(map(str, foreign)))}, which the optimizer does not read"
            advice = f"it was written by {writer(saved) or 'another optimizer'}."
            yield Finding("warning", "foreign key", where, what, advice)


def _state(saved: Subject, loaded: Subject) -> Iterator[Finding]:
    """Compare the state with what the rule will read after loading."""
    assert loaded.live is not None
    place = 0
    for index, group in enumerate(loaded.groups):
        here = range(place, place + len(group["params"]))
        place += len(group["params"])
        reads = read_state(loaded.live, loaded.live.param_groups[index])
        held = {p: loaded.state.get(loaded.numbers[p]) or {} for p in here}
        if reads is None:
            continue
        silent = isinstance(loaded.live, torch.optim.SGD) or writer(loaded) == "SGD"
        for missing, places in _alike({p: reads - set(held[p]) for p in here if held[p]}):
            foreign = sorted({key for p in places for key in held[p]} - reads)
            instead = f"; there is {listed(foreign)} instead" if foreign else ""
            effect = "starts anew without an error" if silent else "raises KeyError"
            yield Finding(
                "error",
                "missing key",
                f"{saved.name}: {listed([saved.parameter(p) for p in places])}",
                f"the state has no {listed(sorted(missing))}{instead}: the next step {effect}",
                f"the state was written by {writer(saved) or 'another optimizer'}; rename or "
                "convert what means the same.",
            )
        for foreign_keys, places in _alike({p: set(held[p]) - reads for p in here}):
            what = f"the state has {listed(sorted(foreign_keys))}, which the rule never reads"
            where = f"{saved.name}: {listed([saved.parameter(p) for p in places])}"
            yield Finding("warning", "foreign key", where, what, "nothing to do, if that is meant.")
        without = [p for p in here if not held[p]]
        if without and reads and any(loaded.state.values()):
            yield Finding(
                "error",
                "missing state",
                saved.name,
                f"{listed([saved.parameter(p) for p in without])}: no state, so that it starts "
                "from zero without an error",
                "fine only for parameters that never had a gradient.",
            )


def _alike(keys: dict[int, set[str]]) -> Iterator[tuple[set[str], list[int]]]:
    """Gather the parameters with the same keys, leaving out those with none."""
    places: defaultdict[frozenset[str], list[int]] = defaultdict(list)
    for place, found in keys.items():
        if found:
            places[frozenset(map(str, found))].append(place)
    return ((set(found), here) for found, here in places.items())


def _dtypes(saved: Subject, loaded: Subject) -> Iterator[Finding]:
    """Find tensors that loading casts to a dtype that does not hold all their bits."""
    held = {(place, key): tensor for place, key, tensor in loaded.tensors()}
    cast = []
    for place, key, tensor in saved.tensors():
        now = held.get((place, key))
        if now is None or now.dtype == tensor.dtype or now.shape != tensor.shape:
            continue
        cast.append((place, key, tensor, now))
    for dtypes in {(tensor.dtype, now.dtype) for *_, tensor, now in cast}:
        there = [each for each in cast if (each[2].dtype, each[3].dtype) == dtypes]
        lossy = [each for each in there if not _survives(each[2], each[3])]
        place, key, tensor, now = (lossy or there)[0]
        elements = sum(each[2].numel() for each in there)
        lost = "with loss" if lossy else "without loss"
        yield Finding(
            "error" if lossy else "note",
            "dtype",
            f"{saved.name}: {key} of {saved.parameter(place)}",
            f"loading casts {tensor.dtype} to {now.dtype} {lost}, here and in {len(there) - 1} "
            f"other tensors, {elements} elements",
            "the parameters' dtype decides: load before the model is cast, or restore the state "
            "tensors after loading.",
        )


def _survives(tensor: Tensor, cast: Tensor) -> bool:
    return same_bits(tensor, cast.to(device=tensor.device, dtype=tensor.dtype))


def _shared(saved: Subject, live: Subject) -> Iterator[Finding]:
    """Find tensors of the live optimizer that are also the checkpoint's in memory."""
    ours = [(f"{key} of {saved.parameter(p)}", t) for p, key, t in saved.tensors()]
    theirs = [(f"the live {key} of {live.parameter(p)}", t) for p, key, t in live.tensors()]
    yield from shared_by_two(ours, theirs, f"{saved.name} and {live.name}")


def shared_by_two(
    ours: list[tuple[str, Tensor]], theirs: list[tuple[str, Tensor]], where: str
) -> Iterator[Finding]:
    """Say which tensors of one side share memory with the other's."""
    names = {name for name, _ in theirs}
    pairs = [
        pair for pair in overlaps([*ours, *theirs]) if (pair[0] in names) != (pair[1] in names)
    ]
    if pairs:
        yield Finding(
            "error",
            "aliasing",
            where,
            f"{len(pairs)} tensors share memory, such as {pairs[0][0]} and {pairs[0][1]}: a step "
            "of one changes the other",
            "load copy.deepcopy(state_dict): torch keeps the very tensors it is given.",
        )
