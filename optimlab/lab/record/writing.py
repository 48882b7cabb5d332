"""What is written down of an operation: its operands, scalars and results, and how it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from optimlab.lab.record.registers import Value, short

T = TypeVar("T")

_BY_NAME = {"alpha", "value", "dtype", "out", "memory_format", "beta", "lr", "eps"}
_PLACEMENT = {"layout", "device", "pin_memory", "memory_format", "non_blocking"}


@dataclass(eq=False)
class Operation:
    """One ATen operation on the tensors of one parameter.

    Attributes:
        number: its place among the operations of the step.
        function: ATen's overload, such as ``aten.lerp_.Scalar``.
        arguments: by their names in ATen's schema; a tensor is a :class:`Value`.
        in_place: whether it wrote to one of its arguments.
        listed: its place in the list, if the operation was one on lists of tensors.
        returned: what it returned instead of tensors, such as the number read from one.
        results: the tensors that it wrote or made.
        parameter: number of the parameter, ``None`` if the operation is on none.
    """

    number: int
    function: Any
    arguments: Mapping[str, Any]
    in_place: bool
    listed: int | None = None
    returned: Any = None
    results: tuple[Value, ...] = ()
    parameter: int | None = None

    @property
    def name(self) -> str:
        """Its name as a method of tensors: ``lerp_`` also for ``aten._foreach_lerp_``."""
        return str(self.function.overloadpacket.__name__).removeprefix("_foreach_")

    @property
    def operands(self) -> list[Value]:
        """The tensors among the arguments."""
        return list(leaves(Value, self.arguments.values()))

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers among the arguments, by their names, defaults left out."""
        return {
            name: value
            for name, value in self.arguments.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    @property
    def computes(self) -> bool:
        """Whether it makes numbers: it is no view, and reads no number."""
        sources = {value.register for value in self.operands}
        return any(self.in_place or value.register not in sources for value in self.results)

    @property
    def target(self) -> Value | None:
        """The first result."""
        return self.results[0] if self.results else None

    def __str__(self) -> str:
        return self.spelt()

    def spelt(self, numbers: Mapping[float, str] | None = None) -> str:
        """Spell the operation as Python code, some numbers by a text in place of their value."""
        texts = numbers or {}
        first, *rest = [*self.shown_arguments()] or [("", None)]
        given = [_shown(value, texts) for name, value in rest if name not in _BY_NAME]
        given += [f"{name}={_shown(value, texts)}" for name, value in rest if name in _BY_NAME]
        if isinstance(first[1], Value) and not self.name.startswith("_fused_"):
            code = f"{first[1].name}.{self.name}({', '.join(given)})"
        else:
            given[:0] = [_shown(first[1], texts)] if first[0] else []
            code = f"{self.name}({', '.join(given)})"
        target = self.target
        return code if self.in_place or target is None else f"{target.name} = {code}"

    def shown_arguments(self) -> Iterator[tuple[str, Any]]:
        """Go through the arguments that say what is computed, with their names."""
        defaults = {each.name: each.default_value for each in self.function._schema.arguments}
        for name, value in self.arguments.items():
            is_default = not isinstance(value, Value | list) and value == defaults.get(name)
            if name not in _PLACEMENT and not (is_default and name in _BY_NAME):
                yield name, value

    def repeat(self, changed: Mapping[str, Any] | None = None) -> Tensor:
        """Return the first result, carried out once more on copies, with some other arguments."""
        given = {name: _own(value) for name, value in self.arguments.items()} | dict(changed or {})
        schema = self.function._schema.arguments
        if self.listed is not None:
            lists = [each.name for each in schema if isinstance(each.type, torch.ListType)]
            given |= {name: [given[name]] if name in given else [] for name in lists}
        # A tensor in place of a number is another overload of the same operation.
        function = self.function.overloadpacket if changed else self.function
        returned = function(**given)
        if self.in_place:
            returned = next(given[each.name] for each in schema if _is_written(each))
        return next(leaves(Tensor, [returned]))


def is_listed(function: Any) -> bool:
    """Tell whether an operation goes through lists, each tensor by itself."""
    name = str(function.overloadpacket.__name__)
    return name.startswith(("_foreach_", "_fused_", "_amp_foreach_"))


def split(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], returned: Any
) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
    """Divide an operation on lists by their places: arguments by name, and tensors returned."""
    names = [each.name for each in function._schema.arguments]
    arguments = dict(zip(names, args, strict=False)) | dict(kwargs)
    made = list(leaves(Tensor, [returned]))
    if not is_listed(function):
        yield arguments, made
        return
    lists = [value for value in arguments.values() if isinstance(value, list | tuple)]
    length = max(len(value) for value in lists if value and isinstance(value[0], Tensor))
    for place in range(length):
        taken = {name: _at(value, place, length) for name, value in arguments.items()}
        yield (
            {name: value for name, value in taken.items() if value is not None},
            made[place : place + 1] if len(made) == length else [],
        )


def written_arguments(function: Any, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes to, by ATen's schema."""
    written = [each.name for each in function._schema.arguments if _is_written(each)]
    return list(leaves(Tensor, (arguments[name] for name in written if name in arguments)))


def leaves(kind: type[T], values: Iterable[Any]) -> Iterator[T]:
    """Go through what is of a kind in nested lists and tuples."""
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, list | tuple):
            yield from leaves(kind, value)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _own(value: Any) -> Any:
    if isinstance(value, Value):
        return value.kept.clone()
    return [_own(item) for item in value] if isinstance(value, list) else value


def _at(value: Any, place: int, length: int) -> Any:
    if isinstance(value, list | tuple):
        return value[place] if len(value) == length else value or None
    return value


def _shown(value: Any, numbers: Mapping[float, str]) -> str:
    if isinstance(value, Value):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(_shown(item, numbers) for item in value)}]"
    if isinstance(value, float) and value in numbers:
        return numbers[value]
    return short(value) if isinstance(value, torch.dtype) else repr(value)
