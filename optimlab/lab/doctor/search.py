"""Where the optimizers are in what was given: a file, a dict, or a live one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from optimlab.lab.doctor import formats, layouts
from optimlab.lab.doctor.checkpoint import (
    Checkpoint,
    Keys,
    StateDict,
    names_in,
    of_optimizer,
    without_wrappers,
)
from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats import Placeholder
from optimlab.lab.doctor.hyperparameters import same

Source: TypeAlias = "str | PathLike[str] | StateDict | torch.optim.Optimizer"

DEEPEST, LARGEST = 100, 2_000_000
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def checkpoints(
    source: Source, model: nn.Module | None = None, name: str = ""
) -> tuple[list[Checkpoint], Any]:
    """Find all optimizers in what was given; return them, and what holds them.

    Raises:
        CheckpointError: if there is none, or nothing in the file can be read.
    """
    if isinstance(source, torch.optim.Optimizer):
        return [of_optimizer(source, model)], None
    if isinstance(source, Mapping):
        content, name = source, "state dict"
    else:
        content, name = formats.read(Path(source)), name or Path(source).name
    visited = list(_walk(content, name, (), {}, set()))
    found = []
    for value, where, path, around in visited:
        if is_state_dict(_inner(value)):
            found.append(_of_state_dict(_inner(value), where, path, around))
    if not found:
        what = "nothing in it has 'state' and 'param_groups'"
        instead = layouts.instead([(value, where) for value, where, *_ in visited])
        raise CheckpointError(f"{name} holds no optimizer: {what}{instead}")
    beside = [*layouts.beside([(value, where) for value, where, *_ in visited], name)]
    beside += [empty for one in found for empty in layouts.check_empty(one, content)]
    found[0] = replace(found[0], beside=tuple(beside))
    return found, content


def _walk(
    value: Any, name: str, path: Keys, around: Any, seen: set[int]
) -> Iterator[tuple[Any, str, Keys, Any]]:
    """Visit a value and what it holds, but for what is inside of state dicts.

    Yields:
        The value, its name, how to get to it, and what it stands in.
    """
    if len(path) > DEEPEST:
        raise CheckpointError(f"{name[:60]}... is nested deeper than {DEEPEST} times")
    yield value, name, path, around
    if is_state_dict(_inner(value)) or id(value) in seen:
        return
    seen.add(id(value))
    for key, item in _items(value):
        if not isinstance(item, Tensor | str | int | float):
            yield from _walk(item, f"{name}[{key!r}]", (*path, key), value, seen)


def _inner(value: Any) -> Any:
    """Return what is like a state dict of a whole optimizer, and of a flat one."""
    if isinstance(value, Mapping) and any(str(key)[:13] == "param_groups." for key in value):
        return _unflattened(value)
    return value.state if isinstance(value, Placeholder) else value


def _unflattened(flat: Mapping[Any, Any]) -> StateDict:
    """Put a flat state dict in order, whose keys are such as ``state.0.weight.exp_avg``."""
    parts: dict[str, dict[str, dict[str, Any]]] = {"state": {}, "param_groups": {}}
    for key, value in flat.items():
        part, _, rest = str(key).partition(".")
        name, _, entry = rest.rpartition(".")
        parts.setdefault(part, {}).setdefault(name, {})[entry] = value
    groups: list[dict[str, Any]] = []
    for name, options in parts["param_groups"].items():
        alike = groups and all(same(groups[-1].get(key), value) for key, value in options.items())
        if not alike:
            groups.append({**options, "params": []})
        groups[-1]["params"].append(name)
    return {"state": parts["state"], "param_groups": groups}


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Placeholder):
        return [*_items(value.state), *value.items.items()]
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def is_state_dict(value: Any) -> bool:
    """Tell whether a value is what an optimizer's ``state_dict()`` returns."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("state"), Mapping)
        and isinstance(value.get("param_groups"), list)
        and all(isinstance(group, dict) and "params" in group for group in value["param_groups"])
    )


def _of_state_dict(saved: StateDict, name: str, path: Keys, around: Any) -> Checkpoint:
    groups = [dict(group) for group in saved["param_groups"]]
    _require_types(saved, name)
    one = Checkpoint(name, groups, dict(saved["state"]), names_in(groups), path=path)
    if one.names or len(groups) != 1:  # the parameters of several groups are in no known order
        return one
    for key, beside in _items(around):
        names = _names_of_model(beside, one)
        if names:
            return replace(one, names=names, names_from=f"the order of [{key!r}]")
    return one


def _require_types(saved: StateDict, name: str) -> None:
    """Refuse groups and state that are not laid out as torch lays them out."""

    def require(value: Any, types: Any, what: str) -> None:
        if not isinstance(value, types):
            raise CheckpointError(f"{name}: {what.format(type(value).__name__)}")

    for index, group in enumerate(saved["param_groups"]):
        for key in ("params", "param_names"):
            require(group.get(key, []), list | tuple, f"{key} of group {index} is {{}}, not a list")
        for number in group["params"]:
            require(number, Hashable, f"group {index} has a {{}} for a parameter's number")
            held = saved["state"].get(number, {})
            require(held, Mapping, f"the state of parameter {number!s} is {{}}, not a dict")
    _require_small([saved["state"], saved["param_groups"]], name)


def _require_small(value: Any, name: str) -> None:
    """Refuse what would take longer to look at than the file is long."""
    waiting, count = [(value, 0)], 0
    while waiting:
        outer, depth = waiting.pop()
        for _, item in _items(outer):
            count += 1
            if isinstance(item, Mapping | list | tuple):
                waiting.append((item, depth + 1))
        if depth > DEEPEST or count > LARGEST:
            what = f"its state is nested deeper than {DEEPEST} times, or has more than {LARGEST}"
            raise CheckpointError(f"{name}: {what} entries")


def _names_of_model(beside: Any, one: Checkpoint) -> tuple[str, ...]:
    """Take names from a model's state dict, if its tensors have the shapes of the moments."""
    if not isinstance(beside, Mapping) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in beside.items()
    ):
        return ()
    weights = {n: t for n, t in beside.items() if n.rpartition(".")[2] not in _BUFFERS}
    if len(weights) != len(one.numbers):
        return ()
    for place, weight in enumerate(weights.values()):
        for value in one.held(place).values():
            if isinstance(value, Tensor) and value.dim() and value.shape != weight.shape:
                return ()
    return without_wrappers(list(weights))
