"""What is written down of an operation: its operands, scalars and results, and how it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare import digest as digests
from optimlab.lab.record.registers import Register, operation_name


@dataclass(frozen=True)
class Value:
    """A tensor as it was when an operation read it, or had written it.

    Attributes:
        register: its memory, which has the name.
        kept: what the recording kept of it.
        shape: its shape.
        dtype: its dtype.
        source: number of the operation that had written it, ``None`` if it is from before the step.
    """

    register: Register
    kept: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: int | None

    @property
    def name(self) -> str:
        """The name of its memory."""
        return self.register.name

    @property
    def label(self) -> str:
        """How the optimizer calls its memory, ``""`` if it is not the optimizer's."""
        return self.register.label

    @cached_property
    def digest(self) -> str:
        """Stands for dtype and bits of what was kept, if that is a tensor."""
        return digest(self.kept)


@dataclass(eq=False)
class Operation:
    """One ATen operation on the tensors of one parameter.

    Attributes:
        number: its place among the operations of the step.
        function: ATen's overload, such as ``aten.lerp_.Scalar``.
        arguments: by their names in ATen's schema; a tensor is a :class:`Value`.
        results: the tensors that it wrote or made.
        in_place: whether it wrote to one of its arguments.
        listed: its place in the list, if the operation was one on lists of tensors.
        returned: what it returned instead of tensors, such as the number read from one.
        parameter: number of the parameter, ``None`` if the operation is on none.
    """

    number: int
    function: Any
    arguments: Mapping[str, Any]
    results: tuple[Value, ...]
    in_place: bool
    listed: int | None
    returned: Any
    parameter: int | None

    @property
    def name(self) -> str:
        """Its name as a method of tensors, such as ``lerp_``."""
        return operation_name(self.function)

    @property
    def operands(self) -> list[Value]:
        """The tensors among the arguments."""
        return list(_values_in(self.arguments.values()))

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
        """Spell the operation as Python code.

        Args:
            numbers: what to write for a number instead of its value.
        """
        first, *rest = [*self.shown_arguments()] or [("", None)]
        shown = [f"{_shown(value, numbers)}" for name, value in rest if not _by_name(name)]
        shown += [f"{name}={_shown(v, numbers)}" for name, v in rest if _by_name(name)]
        if not isinstance(first[1], Value) or self.name.startswith("_fused_"):
            positional = [] if first[0] == "" else [_shown(first[1], numbers)]
            code = f"{self.name}({', '.join([*positional, *shown])})"
        else:
            code = f"{first[1].name}.{self.name}({', '.join(shown)})"
        target = self.target
        return code if self.in_place or target is None else f"{target.name} = {code}"

    def shown_arguments(self) -> Iterator[tuple[str, Any]]:
        """Go through the arguments that say what is computed, with their names."""
        defaults = {each.name: each.default_value for each in self.function._schema.arguments}
        for name, value in self.arguments.items():
            placement = name in {"layout", "device", "pin_memory", "memory_format", "non_blocking"}
            is_default = not isinstance(value, Value | list) and value == defaults.get(name)
            if not placement and not (is_default and _by_name(name)):
                yield name, value

    def repeat(self, changed: Mapping[str, Any] | None = None) -> Tensor:
        """Carry the operation out once more, on copies of what was kept.

        Args:
            changed: arguments to take in place of its own; tensors, or numbers.

        Returns:
            The first result.
        """
        given = {name: _own(value) for name, value in self.arguments.items()} | dict(changed or {})
        positional, keywords = [], {}
        for each in self.function._schema.arguments:
            if each.name not in given and not (self.listed is not None and _is_list(each)):
                continue
            value = _as_list(given.get(each.name)) if self._is_divided(each) else given[each.name]
            if each.kwarg_only:
                keywords[each.name] = value
            else:
                positional.append((each.name, value))
        # A tensor in place of a number is another overload of the same operation.
        function = self.function.overloadpacket if changed else self.function
        returned = function(*[value for _, value in positional], **keywords)
        if self.in_place:
            written = [a.name for a in self.function._schema.arguments if _is_written(a)]
            returned = next(dict(positional).get(name, keywords.get(name)) for name in written)
        return next(_tensors_in([returned]))

    def _is_divided(self, argument: Any) -> bool:
        return self.listed is not None and _is_list(argument)


@dataclass(frozen=True)
class Part:
    """What an operation does to one tensor of its lists, or all of it if it has none."""

    arguments: Mapping[str, Any]
    returned: Sequence[Tensor]


def is_listed(function: Any) -> bool:
    """Tell whether an operation goes through lists, each tensor by itself."""
    name = str(function.overloadpacket.__name__)
    return name.startswith(("_foreach_", "_fused_", "_amp_foreach_"))


def split(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], returned: Any
) -> Iterator[Part]:
    """Divide an operation on lists by their places; any other is one part."""
    schema = function._schema.arguments
    arguments = {schema[i].name: value for i, value in enumerate(args)} | dict(kwargs)
    made = list(_tensors_in([returned]))
    if not is_listed(function):
        yield Part(arguments, made)
        return
    length = max(len(value) for value in arguments.values() if _is_list_of_tensors(value))
    for place in range(length):
        taken = {name: _at(value, place, length) for name, value in arguments.items()}
        yield Part(
            {name: value for name, value in taken.items() if value is not None},
            made[place : place + 1] if len(made) == length else [],
        )


def written_arguments(function: Any, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes to, by ATen's schema."""
    written = [each.name for each in function._schema.arguments if _is_written(each)]
    return list(_tensors_in(arguments[name] for name in written if name in arguments))


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _is_list(argument: Any) -> bool:
    return isinstance(argument.type, torch.ListType)


def _own(value: Any) -> Any:
    if isinstance(value, Value):
        return value.kept.clone() if isinstance(value.kept, Tensor) else value.kept
    return [_own(item) for item in value] if isinstance(value, list) else value


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else [value]


def _is_list_of_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Tensor)


def _at(value: Any, place: int, length: int) -> Any:
    if isinstance(value, list | tuple):
        if not value:
            return None
        return value[place] if len(value) == length else value
    return value


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)


def _values_in(values: Iterable[Any]) -> Iterator[Value]:
    for value in values:
        if isinstance(value, Value):
            yield value
        elif isinstance(value, list):
            yield from _values_in(value)


def _by_name(name: str) -> bool:
    return name in {"alpha", "value", "dtype", "out", "memory_format", "beta", "lr", "eps"}


def _shown(value: Any, numbers: Mapping[float, str] | None) -> str:
    if isinstance(value, Value):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(_shown(item, numbers) for item in value)}]"
    if numbers and isinstance(value, float) and value in numbers:
        return numbers[value]
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else repr(value)


def digest(tensor: Tensor) -> str:
    """Summarise dtype and bits of a tensor, elements in order of their indices, all NaN alike."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return digests.digest(real.reshape(-1))


def short(dtype: torch.dtype) -> str:
    """Return the name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")
