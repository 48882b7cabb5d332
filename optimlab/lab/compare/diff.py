"""What differs between two nested values, such as the snapshots of two optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.lab.compare.bits import Mismatch, compare_floats, compare_tensors

Path: TypeAlias = tuple[Any, ...]
Differences: TypeAlias = list[tuple[Path, Mismatch]]

# A value of these types has the bits it has and cannot be changed through one of two sides, so that
# the same object on both is equal without a further look.
_CONSTANTS = frozenset({bool, int, float, str, type(None)})


class NothingCompared(ValueError):  # noqa: N818 - it reads as what happened
    """A comparison that could not have found a difference."""


@dataclass(frozen=True)
class Compared:
    """How much was compared before an answer was given.

    Attributes:
        steps: calls of ``step()`` after which everything was compared.
        tensors: pairs of tensors, counted anew after each step.
        elements: pairs of their elements.
        values: pairs of other values: numbers, flags, names, lists of keys.
    """

    steps: int = 0
    tensors: int = 0
    elements: int = 0
    values: int = 0

    def __add__(self, other: Compared) -> Compared:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Compared(*map(sum, pairs))

    def __str__(self) -> str:
        return (
            f"{self.steps} steps, {self.tensors} tensors, {self.elements} elements, "
            f"{self.values} other values compared"
        )


@dataclass
class Diff:
    """Walks nested values side by side and counts what it has compared.

    Tensors and floats are compared by their bits, dicts by their keys and the order of these,
    everything else by type and ``==``.

    Attributes:
        steps: how many steps of an optimizer were compared; counted by whoever takes them.
        tensors: pairs of tensors compared so far.
        elements: pairs of their elements compared.
        values: pairs of other values compared: numbers, flags, names, lists of keys.
    """

    steps: int = 0
    tensors: int = 0
    elements: int = 0
    values: int = 0
    _found: Differences = field(default_factory=list, repr=False)
    _seen: set[tuple[int, int]] = field(default_factory=set, repr=False)

    @property
    def compared(self) -> Compared:
        """How much was compared so far."""
        return Compared(self.steps, self.tensors, self.elements, self.values)

    def differences(self, ours: object, theirs: object, path: Path = ()) -> Differences:
        """Compare two values.

        Args:
            ours: a value of dicts, lists, tuples, tensors and anything that has ``==``.
            theirs: another.
            path: how to get here from an outermost value: keys and indices.

        Returns:
            Every path where they differ, with what differs there.

        Raises:
            NothingCompared: if both sides hold the very same tensor, which always equals itself.
        """
        self._found, self._seen = [], set()
        self._walk(ours, theirs, path)
        return self._found

    def _walk(self, ours: object, theirs: object, path: Path) -> None:
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            self._tensors(ours, theirs, path)
            return
        self.values += 1
        if type(ours) is not type(theirs):
            self._note(path, Mismatch("type", _described(ours), _described(theirs)))
        elif isinstance(ours, dict):
            assert isinstance(theirs, dict)
            self._dicts(ours, theirs, path)
        elif isinstance(ours, list | tuple):
            assert isinstance(theirs, list | tuple)
            self._sequences(ours, theirs, path)
        elif isinstance(ours, float):
            assert isinstance(theirs, float)
            self._note(path, compare_floats(ours, theirs))
        elif ours != theirs:
            self._note(path, Mismatch("value", ours, theirs))

    def _note(self, path: Path, mismatch: Mismatch | None) -> None:
        if mismatch is not None:
            self._found.append((path, mismatch))

    def _tensors(self, ours: Tensor, theirs: Tensor, path: Path) -> None:
        pair = (id(ours), id(theirs))
        if pair in self._seen:  # the state and the state dict, for one, hold the same tensors
            return
        self._seen.add(pair)
        if ours is theirs or _same_memory(ours, theirs):
            raise NothingCompared(f"both sides hold the same tensor: {path_name(path)}")
        self.tensors += 1
        self.elements += ours.numel()
        self._note(path, compare_tensors(ours, theirs))

    def _dicts(self, ours: dict[Any, Any], theirs: dict[Any, Any], path: Path) -> None:
        if list(ours) != list(theirs):
            what = "order of keys" if ours.keys() == theirs.keys() else "keys"
            self._note(path, Mismatch(what, list(ours), list(theirs)))
        for key, value in ours.items():
            if key in theirs:
                self._item(value, theirs[key], path, key)

    def _sequences(self, ours: Sequence[Any], theirs: Sequence[Any], path: Path) -> None:
        if len(ours) != len(theirs):
            self._note(path, Mismatch("length", len(ours), len(theirs)))
        for index, pair in enumerate(zip(ours, theirs, strict=False)):
            self._item(*pair, path, index)

    def _item(self, ours: object, theirs: object, path: Path, key: object) -> None:
        if ours is theirs and type(ours) in _CONSTANTS:
            self.values += 1
        else:
            self._walk(ours, theirs, (*path, key))


def _described(value: object) -> str:
    """Print a value together with its type, for a difference between types."""
    return f"{type(value).__name__} {value!r}"


def path_name(path: Path, names: Sequence[str] = ()) -> str:
    """Put a path into a snapshot into words; parameters by their names, if they have any."""

    def parameter(number: Any) -> str:
        named = isinstance(number, int) and number < len(names)
        return f"parameter {number}" + (f" ({names[number]})" if named else "")

    match path:
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


def _subscripts(keys: Sequence[Any]) -> str:
    return "".join(f"[{key!r}]" for key in keys)
