"""All that can be seen of an optimizer, as one nested value of dicts, lists, tensors and numbers.

An optimizer is known here through :class:`torch.optim.Optimizer` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters, in the order that numbers them."""
    return [param for group in optimizer.param_groups for param in group["params"]]


def snapshot(
    optimizer: Optimizer,
    params: Sequence[Tensor] | None = None,
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """Lay out all that can be seen of an optimizer, parameters being their numbers."""
    params = parameters(optimizer) if params is None else params
    numbers = {id(param): number for number, param in enumerate(params)}
    state_dict = optimizer.state_dict()

    def number(key: Any) -> Any:
        return numbers.get(id(key), key)

    def shown(entries: dict[str, Any]) -> dict[str, Any]:
        if not ignored:
            return entries
        return {key: value for key, value in entries.items() if key not in ignored}

    # Causes before effects: the first place that differs is the first to be looked at.
    return {
        "param_groups": [
            {**shown(group), "params": [number(param) for param in group["params"]]}
            for group in optimizer.param_groups
        ],
        "defaults": shown(optimizer.defaults),
        "shared tensors": [shown(entries) for entries in _shared_tensors(optimizer)],
        "state": {number(key): value for key, value in optimizer.state.items()},
        "parameters": dict(enumerate(params)),
        "state_dict": {**state_dict, "param_groups": [*map(shown, state_dict["param_groups"])]},
    }


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested value holds, each with its keys and indices, joined by points."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _shared_tensors(optimizer: Optimizer) -> list[dict[str, int]]:
    """Say which tensor-valued hyperparameters, such as ``lr``, are one object in many groups.

    A scheduler fills a tensor ``lr`` in place, so it matters which groups that reaches.
    """
    places = [optimizer.defaults, *optimizer.param_groups]
    first: dict[int, int] = {}
    return [
        {
            key: first.setdefault(id(value), index)
            for key, value in entries.items()
            if isinstance(value, Tensor)
        }
        for index, entries in enumerate(places)
    ]
