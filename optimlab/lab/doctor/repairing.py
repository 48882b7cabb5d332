"""Writing a repaired copy of a checkpoint: never in place, and whole or not at all."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.doctor.checkpoint import Checkpoint, Keys, StateDict
from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats import Placeholder
from optimlab.lab.doctor.hyperparameters import SCHEDULE, is_number, number
from optimlab.lab.doctor.state_checks import HALF
from optimlab.lab.findings import listed


def repaired(
    saved: Checkpoint, reference: Checkpoint | None, keep: Collection[str] = ()
) -> tuple[StateDict, list[str]]:
    """Repair a copy of an optimizer's state dict; return it, and what was done, in words.

    Raises:
        CheckpointError: if the reference has none of the hyperparameters to keep, or there is none.
    """
    groups = [{**copy.deepcopy(group), "params": list(group["params"])} for group in saved.groups]
    # Each tensor by itself: what shared memory does so no longer.
    state = {number: _separate(held) for number, held in saved.state.items()}
    made, done = replace(saved, groups=groups, state=state), list[str]()
    if reference is not None and reference.sizes == saved.sizes:
        # In the reference's order first, so that the same place is the same parameter from here on.
        made = _reordered(made, reference, done)
    for name in keep:
        done.append(_keep(name, made, reference))
    done += _widen(made, reference)
    return {"state": made.state, "param_groups": made.groups}, done


def _separate(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _separate(item) for key, item in value.items()}
    return copy.deepcopy(value)


def _reordered(made: Checkpoint, reference: Checkpoint, done: list[str]) -> Checkpoint:
    """Give each parameter the place that its name has in the reference."""
    same = made.names == reference.names
    one_to_one = len(set(made.names)) == len(made.names) == len(set(made.numbers))
    if same or not one_to_one or sorted(made.names) != sorted(reference.names):
        return made
    number_of = dict(zip(made.names, made.numbers, strict=True))
    order = [number_of[name] for name in reference.names]
    state = {
        place: made.state[number] for place, number in enumerate(order) if number in made.state
    }
    for group, here in zip(made.groups, reference.ranges, strict=True):
        group["params"] = list(here)
        if "param_names" in group:
            group["param_names"] = list(reference.names[here.start : here.stop])
    moved = sum(a != b for a, b in zip(made.names, reference.names, strict=True))
    done.append(f"brought {moved} parameters into the order of {reference.name}")
    return replace(made, state=state, names=reference.names)


def _keep(name: str, made: Checkpoint, reference: Checkpoint | None) -> str:
    if reference is None or len(reference.groups) != len(made.groups):
        raise CheckpointError(f"there is nothing with the same groups to keep {name} from")
    if not all(name in group for group in reference.groups):
        raise CheckpointError(f"{reference.name} has no hyperparameter {name}")
    for group, other in zip(made.groups, reference.groups, strict=True):
        ratio = _ratio(other[name], group.get(name)) if name == "lr" else None
        group[name] = _separate(other[name])
        for key in SCHEDULE if name == "lr" else ():
            if key in group and (key in other or key == "initial_lr"):
                group[key] = _separate(other.get(key, other["lr"]))
            elif key in group and ratio is not None:
                group[key] = number(group[key]) * ratio
    scheduled = [key for key in SCHEDULE if name == "lr" and any(key in g for g in made.groups)]
    return f"kept {listed([name, *scheduled])} of {reference.name}"


def _ratio(new: Any, old: Any) -> float | None:
    return number(new) / number(old) if is_number(new) and is_number(old) and old else None


def _widen(made: Checkpoint, reference: Checkpoint | None) -> list[str]:
    """Make moments and step counts in half precision float32, with the reference's bits if known.

    The bits are known where the reference's float32 tensor, rounded, is the tensor in question.
    """
    done: dict[str, list[str]] = {
        "restored float32 bits from the reference": [],
        "made float32, without the bits lost before": [],
    }
    restored, widened = done.values()
    for place, key_of_state in enumerate(made.numbers):
        known = (
            {} if reference is None or place >= len(reference.numbers) else reference.held(place)
        )
        held = made.state.get(key_of_state, {})
        for key, value in held.items():
            if isinstance(value, Tensor) and value.dtype in HALF:
                other = _original(known.get(key), value)
                (widened if other is None else restored).append(f"{key} of {place}")
                held[key] = value.float() if other is None else other.clone()
    return [f"{did}: {listed(places)}" for did, places in done.items() if places]


def _original(other: Any, value: Tensor) -> Tensor | None:
    if not isinstance(other, Tensor) or other.dtype is not torch.float32:
        return None
    other = other.detach().cpu()
    fits = other.shape == value.shape and same_bits(value, other.to(value.dtype))
    return other if fits else None


def plain(content: Any, where: str, left_out: list[str]) -> Any:
    """Return a checkpoint without the objects that were not made; the given one stays as it is."""
    if isinstance(content, dict):
        items = {}
        for key, value in content.items():
            if isinstance(value, Placeholder):
                left_out.append(f"left out {where}[{key!r}], a {value.kind}")
            else:
                items[key] = plain(value, f"{where}[{key!r}]", left_out)
        changed = copy.copy(content)
        changed.clear()
        changed.update(items)
        return changed
    if type(content) in (list, tuple):
        kept = [value for value in content if not isinstance(value, Placeholder)]
        if len(kept) < len(content):
            left_out.append(f"left out {len(content) - len(kept)} objects of {where}")
        return type(content)(plain(value, f"{where}[...]", left_out) for value in kept)
    return content


def put(content: Any, path: Keys, part: StateDict) -> Any:
    """Return a checkpoint with one part replaced; the given one stays as it is."""
    if isinstance(content, Placeholder):
        what = f"is inside an object, a {content.kind}, which is not made here"
        raise CheckpointError(f"the optimizer {what}: save its state_dict() with the program")
    if not path:
        return {**content, **part} if "param_groups" in content else part  # it was flat
    if isinstance(content, list | tuple):
        items = list(content)
        items[path[0]] = put(items[path[0]], path[1:], part)
        return type(content)(items)
    changed = copy.copy(content)
    changed[path[0]] = put(content[path[0]], path[1:], part)
    return changed


def write(path: Path, content: Any, sources: Sequence[Path] = ()) -> None:
    """Write a checkpoint under a name that is still free, whole or not at all.

    Raises:
        CheckpointError: if there is a file of that name, or no such directory.
    """
    if path.exists() or any(path.resolve() == source.resolve() for source in sources):
        raise CheckpointError(f"{path} is there already, and is not overwritten")
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no directory {path.parent} to write to")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)  # as any new file, which mkstemp's is not
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        _give_name(part, path)
    finally:
        part.unlink(missing_ok=True)


def _give_name(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # unlike a rename, refuses a name that somebody took meanwhile
    except FileExistsError as error:
        raise CheckpointError(f"{path} is there already, and is not overwritten") from error
    except OSError:  # a file system without hard links
        part.replace(path)
