"""What a doctor looks at: the groups and the state of an optimizer, live or in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from optimlab.core.groups import all_params
from optimlab.lab.compare.snapshot import leaves
from optimlab.lab.findings import Finding, listed

StateDict: TypeAlias = Mapping[str, Any]

#: How to get from a checkpoint to a part of it: keys and indices.
Keys: TypeAlias = tuple[Any, ...]

# What DataParallel, torch.compile, FSDP and activation checkpoints put into names.
_WRAPPERS = re.compile(
    r"(^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.)"
)


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
        beside: what there is to say of what it was read from.
    """

    name: str
    groups: list[dict[str, Any]]
    state: dict[Any, Any]
    names: tuple[str, ...] = ()
    params: tuple[Tensor, ...] = ()
    live: torch.optim.Optimizer | None = None
    names_from: str = ""
    path: Keys = ()
    beside: tuple[Finding, ...] = ()

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
    names = names_in(groups)
    if not names and all(id(param) in known for param in params):
        names = tuple(known[id(param)] for param in params)
    return Checkpoint(
        f"the live {type(optimizer).__name__}", groups, state, names, params, optimizer
    )


def names_in(groups: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the parameters in groups: their own entry, or keys that are names."""
    numbers = [number for group in groups for number in group["params"]]
    if numbers and all(isinstance(number, str) for number in numbers):
        return without_wrappers(numbers)
    if not groups or not all("param_names" in group for group in groups):
        return ()
    names = [name for group in groups for name in group["param_names"]]
    return without_wrappers(names) if len(names) == len(numbers) else ()


def without_wrappers(names: Sequence[Any]) -> tuple[str, ...]:
    """Take off names what a wrapper of the whole model puts before or between their parts."""
    bare = tuple(_WRAPPERS.sub("", str(name)) for name in names)
    return bare if len(set(bare)) == len(set(names)) else tuple(map(str, names))
