"""What ``state_dict`` writes and ``load_state_dict`` reads, apart from hooks.

In a checkpoint a parameter is a number: its place, counted through all groups in order.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.core import devices
from optimlab.core.groups import ParamGroup

StateDict: TypeAlias = dict[str, Any]
State: TypeAlias = defaultdict[Any, Any]


def pack(state: Mapping[Any, Any], groups: Sequence[ParamGroup]) -> StateDict:
    """Put numbers in place of parameters; tensors are referred to, not copied."""
    index_of: dict[int, int] = {}
    numbers = itertools.count()
    for group in groups:
        # A parameter that stands twice in a group goes by its last place there.
        found = {id(param): next(numbers) for param in group["params"]}
        index_of = {**found, **index_of}
    return {
        "state": {
            index_of[id(key)] if isinstance(key, Tensor) else key: _own_dict(value)
            for key, value in state.items()
        },
        "param_groups": [
            {
                **{key: value for key, value in group.items() if key != "params"},
                "params": [index_of[id(param)] for param in group["params"]],
            }
            for group in groups
        ],
    }


def unpack(state_dict: StateDict, groups: Sequence[ParamGroup]) -> tuple[State, list[ParamGroup]]:
    """Put parameters in place of numbers, and copy everything else.

    Args:
        state_dict: what :func:`pack` or torch wrote.
        groups: the groups of the optimizer that loads it, which stay as they are.

    Returns:
        The state and the parameter groups to use from now on.

    Raises:
        ValueError: if the number of groups, or of parameters in a group, differs.
    """
    saved_groups = copy.deepcopy(state_dict["param_groups"])
    param_of = _match(saved_groups, groups)
    group_of = {i: group for group in reversed(saved_groups) for i in group["params"]}
    state: State = defaultdict(dict)
    for index, value in state_dict["state"].items():
        param = param_of.get(index)
        state[index if param is None else param] = _copied(value, param, group_of.get(index, {}))
    for saved, group in zip(saved_groups, groups, strict=True):
        saved["params"] = group["params"]
        if "param_names" in group:
            saved.setdefault("param_names", group["param_names"])
    return state, saved_groups


def complete_old_groups(groups: Iterable[ParamGroup], defaults: Mapping[str, Any]) -> None:
    """Fill in hyperparameters that an older version did not save yet."""
    for group in groups:
        for name, value in defaults.items():
            group.setdefault(name, value)


def steps_to_tensors(
    state: Mapping[Any, Any],
    groups: Iterable[ParamGroup],
    flag: Callable[[ParamGroup, str], Any],
) -> None:
    """Turn the plain numbers that an older version saved as ``step`` into tensors."""
    for group in groups:
        fused = flag(group, "fused")
        for param in group["params"]:
            held = state.get(param, {})
            if len(held) != 0 and not isinstance(held["step"], Tensor):
                step = held["step"]
                # Of a string torch makes another one, which is no number whatever stood in it.
                number = float(repr(step) if isinstance(step, str) else step)
                held["step"] = torch.tensor(
                    number,
                    dtype=devices.step_dtype(fused=fused),
                    device=param.device if flag(group, "capturable") or fused else None,
                )


def _own_dict(value: Any) -> Any:
    return dict(value) if type(value) is dict else value


def _match(
    saved_groups: Sequence[Mapping[str, Any]], groups: Sequence[ParamGroup]
) -> dict[Any, Tensor]:
    """Pair saved numbers with parameters by their position."""
    if len(groups) != len(saved_groups):
        raise ValueError("loaded state dict has a different number of parameter groups")
    pairs = list(zip(saved_groups, groups, strict=True))
    if any(len(saved["params"]) != len(group["params"]) for saved, group in pairs):
        raise ValueError(
            "loaded state dict contains a parameter group "
            "that doesn't match the size of optimizer's group"
        )
    return {
        index: param
        for saved, group in pairs
        for index, param in zip(saved["params"], group["params"], strict=True)
    }


def _copied(value: Any, param: Tensor | None, group: Mapping[str, Any], key: Any = None) -> Any:
    """Copy state, tensors to where the parameter's rule expects them."""
    if isinstance(value, Tensor):
        return _copied_tensor(value, param, group, key)
    if isinstance(value, dict):
        return {name: _copied(item, param, group, name) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return type(value)(_copied(item, param, group) for item in value)  # type: ignore[call-arg]
    return value


def _copied_tensor(
    value: Tensor, param: Tensor | None, group: Mapping[str, Any], key: Any
) -> Tensor:
    device, dtype = value.device, value.dtype
    if param is not None and key != "step":
        device = param.device
        dtype = param.dtype if param.is_floating_point() else dtype
    elif param is not None and (group.get("capturable") or group.get("fused")):
        device, dtype = param.device, torch.float32
    moved = value.to(device=device, dtype=dtype)
    if moved is not value:
        return moved
    if not value.is_leaf:  # it stays a part of its graph
        return value.clone()
    source = value.detach()
    copied = source.clone()
    if source.layout is torch.strided and copied.stride() != source.stride():
        copied = copy.deepcopy(source)  # a clone has neither gaps nor elements in one place
    return copied.requires_grad_(value.requires_grad)
