"""What a doctor looks at: the groups and the state of an optimizer, live or in a checkpoint."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from optimlab.core.groups import all_params
from optimlab.lab.compare.snapshot import leaves
from optimlab.lab.doctor import formats
from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.findings import listed

StateDict: TypeAlias = Mapping[str, Any]
Source: TypeAlias = "str | PathLike[str] | StateDict | torch.optim.Optimizer"

#: How to get from a checkpoint to a part of it: keys and indices.
Keys: TypeAlias = tuple[Any, ...]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Checkpoint:
    """An optimizer's groups and state, saved or live, parameters being numbers.

    Attributes:
        name: what to call it.
        groups: its parameter groups; ``"params"`` are numbers.
        state: the state by number.
        names: names of the parameters in the order of the groups; empty if they are unknown.
        params: the parameters in the order of the groups; empty for what was saved.
        live: the optimizer, ``None`` for what was saved.
        names_from: where the names come from, if not from the optimizer itself.
        path: where it is in what was read.
    """

    name: str
    groups: list[dict[str, Any]]
    state: dict[Any, Any]
    names: tuple[str, ...] = ()
    params: tuple[Tensor, ...] = ()
    live: torch.optim.Optimizer | None = None
    names_from: str = ""
    path: Keys = field(default=())

    @cached_property
    def numbers(self) -> list[Any]:
        """The numbers of the parameters in the order of the groups."""
        return [number for group in self.groups for number in group["params"]]

    @cached_property
    def places(self) -> dict[Any, int]:
        """The place of each number, the last one where it stands for several parameters."""
        return {number: place for place, number in enumerate(self.numbers)}

    @property
    def sizes(self) -> list[int]:
        """How many parameters each group has."""
        return [len(group["params"]) for group in self.groups]

    @property
    def ranges(self) -> list[range]:
        """The places of the parameters of each group."""
        ends = accumulate(self.sizes)
        return [range(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]

    def parameter(self, place: int) -> str:
        """Name the parameter at a place in the order of the groups."""
        name = f" ({self.names[place]})" if place < len(self.names) else ""
        return f"parameter {place}{name}"

    def parameters(self, places: Iterable[int]) -> str:
        """Name the first few of the parameters at some places."""
        return listed([self.parameter(place) for place in places])

    def held(self, place: int) -> dict[str, Any]:
        """Return the state of the parameter at a place, nested entries with their keys joined."""
        held = self.state.get(self.numbers[place])
        return {} if held is None else dict(leaves(held))

    def tensors(self) -> Iterator[tuple[int, str, Tensor]]:
        """Yield every state tensor: place of its parameter, key, tensor."""
        for place in self.places.values():
            for key, value in self.held(place).items():
                if isinstance(value, Tensor):
                    yield place, key, value


def checkpoints(source: Source, model: nn.Module | None = None) -> tuple[list[Checkpoint], Any]:
    """Find all optimizers in what was given; return them, and what holds them.

    Raises:
        CheckpointError: if there is none, or the file is no checkpoint that is safe to read.
    """
    if isinstance(source, torch.optim.Optimizer):
        return [of_optimizer(source, model)], None
    if isinstance(source, Mapping):
        content, name = source, "state dict"
    else:
        content, name = formats.read(Path(source)), Path(source).name
    found = list(_found(content, name, ()))
    if not found:
        what = "nothing in it has 'state' and 'param_groups'"
        raise CheckpointError(f"{name} holds no optimizer: {what}")
    return found, content


def of_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> Checkpoint:
    """Look at a live optimizer; its state tensors are referred to, not copied."""
    params = tuple(all_params(optimizer.param_groups))
    number = {id(param): place for place, param in reversed(list(enumerate(params)))}
    groups = [
        {**group, "params": [number[id(param)] for param in group["params"]]}
        for group in optimizer.param_groups
    ]
    state = {
        number.get(id(key), key) if isinstance(key, Tensor) else key: value
        for key, value in optimizer.state.items()
    }
    known = {} if model is None else {id(param): name for name, param in model.named_parameters()}
    names = _names_in(groups)
    if not names and all(id(param) in known for param in params):
        names = tuple(known[id(param)] for param in params)
    return Checkpoint(
        f"the live {type(optimizer).__name__}", groups, state, names, params, optimizer
    )


def _found(value: Any, name: str, path: Keys, around: Any = ()) -> Iterator[Checkpoint]:
    """Find the state dicts of optimizers in a value, each with what it stands beside."""
    if is_state_dict(value):
        yield _of_state_dict(value, name, path, around)
    else:
        for key, item in _items(value):
            yield from _found(item, f"{name}[{key!r}]", (*path, key), value)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
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
    one = Checkpoint(name, groups, dict(saved["state"]), _names_in(groups), path=path)
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


def _names_in(groups: list[dict[str, Any]]) -> tuple[str, ...]:
    if not groups or not all("param_names" in group for group in groups):
        return ()
    names = tuple(name for group in groups for name in group["param_names"])
    return names if len(names) == sum(len(group["params"]) for group in groups) else ()


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
    return tuple(weights)
