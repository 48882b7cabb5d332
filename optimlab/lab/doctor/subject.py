"""What a doctor looks at: the groups and the state of an optimizer, live or in a checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from optimlab.core.groups import all_params

StateDict: TypeAlias = Mapping[str, Any]
Source: TypeAlias = "str | PathLike[str] | StateDict | torch.optim.Optimizer"

#: How to get from a checkpoint to a part of it: keys and indices.
Keys: TypeAlias = tuple[Any, ...]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class CheckpointError(ValueError):
    """What was given cannot be examined; the message says why."""


@dataclass(frozen=True)
class Subject:
    """An optimizer's groups and state, parameters being numbers.

    Attributes:
        name: what to call it.
        groups: its parameter groups; ``"params"`` are numbers.
        state: the state by number.
        names: names of the parameters in the order of the groups; empty if they are unknown.
        params: the parameters in the order of the groups; empty for a checkpoint.
        live: the optimizer, ``None`` for a checkpoint.
        names_from: where the names come from, if not from the optimizer itself.
        path: where it is in the checkpoint.
    """

    name: str
    groups: list[dict[str, Any]]
    state: dict[Any, Any]
    names: tuple[str, ...] = ()
    params: tuple[Tensor, ...] = ()
    live: torch.optim.Optimizer | None = None
    names_from: str = ""
    path: Keys = field(default=())

    @property
    def numbers(self) -> list[Any]:
        """The numbers of the parameters in the order of the groups."""
        return [number for group in self.groups for number in group["params"]]

    @property
    def places(self) -> dict[Any, int]:
        """The place of each number, the last one where it stands for several parameters."""
        return {number: place for place, number in enumerate(self.numbers)}

    @property
    def sizes(self) -> list[int]:
        """How many parameters each group has."""
        return [len(group["params"]) for group in self.groups]

    def parameter(self, place: int) -> str:
        """Name the parameter at a place in the order of the groups."""
        name = f" ({self.names[place]})" if place < len(self.names) else ""
        return f"parameter {place}{name}"

    def tensors(self) -> Iterator[tuple[int, str, Tensor]]:
        """Yield every state tensor: place of its parameter, key, tensor."""
        for number, place in self.places.items():
            for key, value in entries(self.state.get(number, {})):
                if isinstance(value, Tensor):
                    yield place, key, value


def entries(held: Any, outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all entries of one parameter's state, nested ones with their keys joined."""
    if isinstance(held, Mapping):
        for key, value in held.items():
            yield from entries(value, f"{outer}.{key}" if outer else str(key))
    else:
        yield outer, held


def subjects(source: Source, model: nn.Module | None = None) -> tuple[list[Subject], Any]:
    """Find all optimizers in what was given.

    Args:
        source: a checkpoint's path, a state dict or a checkpoint in memory, or an optimizer.
        model: whose names the parameters of a live optimizer are called by.

    Returns:
        The optimizers, and the checkpoint that holds them (``None`` for a live optimizer).

    Raises:
        CheckpointError: if there is none, or the file is no checkpoint that is safe to read.
    """
    if isinstance(source, torch.optim.Optimizer):
        return [of_optimizer(source, model)], None
    if isinstance(source, Mapping):
        content, name = source, "state dict"
    else:
        content, name = read(Path(source)), Path(source).name
    found = list(_found(content, name, ()))
    if not found:
        raise CheckpointError(
            f"{name} holds no optimizer: nothing in it has 'state' and 'param_groups'"
        )
    return found, content


def of_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> Subject:
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
    name = f"the live {type(optimizer).__name__}"
    return Subject(name, groups, state, names, params, optimizer)


def read(path: Path) -> Any:
    """Read a checkpoint without running any code that it may hold.

    Raises:
        CheckpointError: if there is no such file, or it is not to be read safely.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and reading that would run code "
            f"from the file, which the doctor does not do: {_reason(error)}"
        ) from error
    except Exception as error:  # damaged bytes make torch's reader raise nearly anything
        raise CheckpointError(f"{path} is no checkpoint: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Find the line of torch's explanation that says what was met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    return next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0])


def _found(value: Any, name: str, path: Keys) -> Iterator[Subject]:
    for key, item in _items(value) if not is_state_dict(value) else ():
        if is_state_dict(item):
            yield _of_state_dict(item, f"{name}[{key!r}]", (*path, key), value)
        else:
            yield from _found(item, f"{name}[{key!r}]", (*path, key))
    if is_state_dict(value) and not path:
        yield _of_state_dict(value, name, path, {})


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def is_state_dict(value: Any) -> bool:
    """Tell whether a value is what an optimizer's ``state_dict()`` returns."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("state"), Mapping)
        and isinstance(value.get("param_groups"), list)
        and all(isinstance(group, dict) and "params" in group for group in value["param_groups"])
    )


def _of_state_dict(saved: StateDict, name: str, path: Keys, around: Any) -> Subject:
    groups = [dict(group) for group in saved["param_groups"]]
    _require_types(saved, name)
    subject = Subject(name, groups, dict(saved["state"]), _names_in(groups), path=path)
    if subject.names or len(groups) != 1:  # the parameters of several groups are in no known order
        return subject
    for key, beside in _items(around):
        names = _names_of_model(beside, subject)
        if names:
            return Subject(
                name, groups, subject.state, names, path=path, names_from=f"the order of [{key!r}]"
            )
    return subject


def _require_types(saved: StateDict, name: str) -> None:
    """Check that groups and state are laid out as torch lays them out.

    Raises:
        CheckpointError: if they are not.
    """
    for index, group in enumerate(saved["param_groups"]):
        for key in ("params", "param_names"):
            value = group.get(key, [])
            if not isinstance(value, list | tuple):
                what = f"is {type(value).__name__}, not a list"
                raise CheckpointError(f"{name}: {key} of group {index} {what}")
        for number in group["params"]:
            if not isinstance(number, Hashable):
                what = f"has a {type(number).__name__} for a parameter's number"
                raise CheckpointError(f"{name}: group {index} {what}")
            held = saved["state"].get(number, {})
            if not isinstance(held, Mapping):
                what = f"the state of parameter {number} is {type(held).__name__}, not a dict"
                raise CheckpointError(f"{name}: {what}")


def _names_in(groups: list[dict[str, Any]]) -> tuple[str, ...]:
    if not groups or not all("param_names" in group for group in groups):
        return ()
    names = tuple(name for group in groups for name in group["param_names"])
    return names if len(names) == sum(len(group["params"]) for group in groups) else ()


def _names_of_model(beside: Any, subject: Subject) -> tuple[str, ...]:
    """Take names from a model's state dict, if its tensors have the shapes of the moments."""
    if not isinstance(beside, Mapping) or not beside:
        return ()
    if not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in beside.items()):
        return ()
    weights = {n: t for n, t in beside.items() if n.rpartition(".")[2] not in _BUFFERS}
    numbers = subject.numbers
    if len(weights) != len(numbers):
        return ()
    for tensor, number in zip(weights.values(), numbers, strict=True):
        held = [v for k, v in entries(subject.state.get(number, {})) if isinstance(v, Tensor)]
        if any(value.dim() and value.shape != tensor.shape for value in held):
            return ()
    return tuple(weights)
