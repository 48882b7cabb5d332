"""What is compared: everything that can be seen of an optimizer, as one nested value.

An optimizer is known here through :class:`torch.optim.Optimizer` alone. :func:`observe` puts its
parameters, groups, state, defaults and state dict into one dict, in which a parameter is its
number; a :class:`Comparison` walks two such values side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.bits import Mismatch, compare_floats, compare_tensors

Place: TypeAlias = tuple[Any, ...]
Differences: TypeAlias = list[tuple[Place, Mismatch]]

# A value of these types has the bits it has and cannot be changed through one of two sides, so that
# the same object on both is equal without a further look.
_CONSTANTS = frozenset({bool, int, float, str, type(None)})


class NothingCompared(ValueError):  # noqa: N818 - it reads as what happened
    """A comparison that could not have found a difference."""


def observe(
    optimizer: Optimizer, params: Sequence[Tensor], ignored: Collection[str] = ()
) -> dict[str, Any]:
    """Lay out all that can be seen of an optimizer, parameters being their numbers.

    Args:
        optimizer: any optimizer.
        params: its parameters, in an order that numbers them.
        ignored: hyperparameters to leave out.

    Returns:
        A nested value of dicts, lists, tensors and numbers. Its tensors are the live ones.
    """
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


@dataclass
class Comparison:
    """Walks nested values side by side and counts what it has compared.

    Tensors and floats are compared by their bits, dicts by their keys and the order of these,
    everything else by type and ``==``.

    Attributes:
        tensors: pairs of tensors compared so far.
        elements: pairs of their elements compared.
        values: pairs of other values compared: numbers, flags, names, lists of keys.
    """

    tensors: int = 0
    elements: int = 0
    values: int = 0
    _found: Differences = field(default_factory=list, repr=False)
    _seen: set[tuple[int, int]] = field(default_factory=set, repr=False)

    def differences(self, ours: object, theirs: object, place: Place = ()) -> Differences:
        """Compare two values.

        Args:
            ours: a value of dicts, lists, tuples, tensors and anything that has ``==``.
            theirs: another.
            place: how to get here from an outermost value: keys and indices.

        Returns:
            Every place where they differ, with what differs there.

        Raises:
            NothingCompared: if both sides hold the very same tensor, which always equals itself.
        """
        self._found, self._seen = [], set()
        self._walk(ours, theirs, place)
        return self._found

    def _walk(self, ours: object, theirs: object, place: Place) -> None:
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            self._tensors(ours, theirs, place)
            return
        self.values += 1
        if type(ours) is not type(theirs):
            self._note(place, Mismatch("type", described(ours), described(theirs)))
        elif isinstance(ours, dict):
            assert isinstance(theirs, dict)
            self._dicts(ours, theirs, place)
        elif isinstance(ours, list | tuple):
            assert isinstance(theirs, list | tuple)
            self._sequences(ours, theirs, place)
        elif isinstance(ours, float):
            assert isinstance(theirs, float)
            self._note(place, compare_floats(ours, theirs))
        elif ours != theirs:
            self._note(place, Mismatch("value", ours, theirs))

    def _note(self, place: Place, mismatch: Mismatch | None) -> None:
        if mismatch is not None:
            self._found.append((place, mismatch))

    def _tensors(self, ours: Tensor, theirs: Tensor, place: Place) -> None:
        pair = (id(ours), id(theirs))
        if pair in self._seen:  # the state and the state dict, for one, hold the same tensors
            return
        self._seen.add(pair)
        if ours is theirs or _same_memory(ours, theirs):
            raise NothingCompared(f"both sides hold the same tensor: {place_name(place)}")
        self.tensors += 1
        self.elements += ours.numel()
        self._note(place, compare_tensors(ours, theirs))

    def _dicts(self, ours: dict[Any, Any], theirs: dict[Any, Any], place: Place) -> None:
        if list(ours) != list(theirs):
            what = "order of keys" if ours.keys() == theirs.keys() else "keys"
            self._note(place, Mismatch(what, list(ours), list(theirs)))
        for key, value in ours.items():
            if key in theirs:
                self._item(value, theirs[key], place, key)

    def _sequences(self, ours: Sequence[Any], theirs: Sequence[Any], place: Place) -> None:
        if len(ours) != len(theirs):
            self._note(place, Mismatch("length", len(ours), len(theirs)))
        for index, pair in enumerate(zip(ours, theirs, strict=False)):
            self._item(*pair, place, index)

    def _item(self, ours: object, theirs: object, place: Place, key: object) -> None:
        if ours is theirs and type(ours) in _CONSTANTS:
            self.values += 1
        else:
            self._walk(ours, theirs, (*place, key))


def described(value: object) -> str:
    """Print a value together with its type, for a difference between types."""
    return f"{type(value).__name__} {value!r}"


def place_name(place: Place, names: Sequence[str] = ()) -> str:
    """Put a place of :func:`observe`'s value into words.

    Args:
        place: keys and indices from the outside in.
        names: names of the parameters, if they have any.
    """

    def parameter(number: Any) -> str:
        named = isinstance(number, int) and number < len(names)
        return f"parameter {number}" + (f" ({names[number]})" if named else "")

    match place:
        case ("parameters", number):
            return parameter(number)
        case ("gradients", number):
            return f"gradient of {parameter(number)}"
        case ("backward", number):
            return f"derivative {number} through the steps"
        case ("state", number, key, *rest):
            return f"state {key!r}{_subscripts(rest)} of {parameter(number)}"
        case (head, *rest):
            return f"{head}{_subscripts(rest)}"
    return "value"


def _same_memory(ours: Tensor, theirs: Tensor) -> bool:
    dense = ours.layout is theirs.layout is torch.strided
    return dense and ours.numel() > 0 and ours.data_ptr() == theirs.data_ptr()


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


def _subscripts(keys: Sequence[Any]) -> str:
    return "".join(f"[{key!r}]" for key in keys)
