"""Which memory is what: names for the tensors of a step, found without the optimizer's help.

A :class:`Register` is a piece of memory that has one name for the whole step: ``param``, ``grad``,
the name that the optimizer's state has for it, or else what the code that computes with it calls
it. That is read from the frames of the running functions, as they keep their local variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from optimlab.lab.record.writing import Operation

# Functions between the optimizer's code and ATen, whose local variables are not the optimizer's.
_BETWEEN = (
    "optimlab.lab.",
    "optimlab.core.tensor_list",
    "optimlab.core.values",
    "torch._",
    "torch.utils.",
    "torch.overrides",
    "torch.autograd.",
)
_OUTERMOST = "torch.optim.optimizer"  # whose hooks surround each step
_LOCAL, _OPTIMIZERS = 1, 2


@dataclass(eq=False)
class Register:
    """A piece of memory under one name.

    Attributes:
        start: its first address, or the tensor's id where there is no plain memory.
        end: the address behind its last.
        tensor: one that lies there. Held, so that no other takes its place during the step.
        name: how it is called, unique among those of one parameter.
        parameter: number of the parameter that it belongs to, counted through all groups.
        label: how the optimizer calls it, ``""`` for what is no tensor of the optimizer's.
        rank: where the name is from: an operation, a local variable, or the optimizer itself.
        looks: what was kept of it since it was last written.
    """

    start: int
    end: int
    tensor: Tensor
    name: str = ""
    parameter: int | None = None
    label: str = ""
    rank: int = 0
    looks: dict[Any, Any] = field(default_factory=dict, repr=False)


class Registers:
    """The registers of one step.

    Args:
        optimizer: whose step it is.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._by_storage: dict[int, list[Register]] = {}
        self._by_id: dict[int, Register] = {}
        self._held: list[Tensor] = []
        self._writers: dict[int, int] = {}
        self._unnamed = 0
        self.name_optimizers_tensors()

    def of(self, tensor: Tensor, *, made_by: Any = None, parameter: int | None = None) -> Register:
        """Find the register that a tensor lies in, or make one."""
        known = self._by_id.get(id(tensor))
        if known is not None and known.tensor is tensor:
            found = known
        else:
            start, end, storage = _extent(tensor)
            others = self._by_storage.setdefault(storage, [])
            inside = [r for r in others if r.start <= start and end <= r.end]
            if inside:
                found = inside[0]
            else:
                found = Register(start, end, tensor)
                others.append(found)
                self._unnamed += 1
            self._by_id[id(tensor)] = found
            self._held.append(tensor)
        if made_by is not None and not found.name:
            found.name = operation_name(made_by).strip("_")
        if found.parameter is None:
            found.parameter = parameter
        return found

    def write(self, register: Register, number: int) -> None:
        """Note that an operation wrote to a register, and so to all that overlap it."""
        for other in self._overlapping(register):
            self._writers[id(other)] = number

    def writer(self, register: Register) -> int | None:
        """Return the number of the operation that wrote a register last, ``None`` if none did."""
        numbers = [self._writers.get(id(other), -1) for other in self._overlapping(register)]
        return max(numbers) if max(numbers) >= 0 else None

    def _overlapping(self, register: Register) -> list[Register]:
        # An empty tensor overlaps nothing but itself.
        others = self._by_storage[_extent(register.tensor)[2]]
        return [
            other
            for other in others
            if other is register or (other.start < register.end and register.start < other.end)
        ]

    def name_optimizers_tensors(self) -> None:
        """Name parameters, gradients, state and tensor hyperparameters, as they are now."""
        number = 0
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                self._name(param, "param", number)
                if param.grad is not None:
                    self._name(param.grad, "grad", number)
                held = self._optimizer.state.get(param, {})
                for name, tensor in named_tensors(held, ""):
                    self._name(tensor, name, number)
                number += 1
            settings = {key: value for key, value in group.items() if key != "params"}
            for name, tensor in named_tensors(settings, ""):
                self._name(tensor, name, None)

    def _name(self, tensor: Tensor, name: str, parameter: int | None) -> None:
        register = self.of(tensor)
        if register.rank < _OPTIMIZERS:
            self._unnamed -= register.rank == 0
            register.rank, register.name, register.label = _OPTIMIZERS, name, name
            register.parameter = parameter

    def name_locals(self, frame: FrameType | None) -> None:
        """Name what the running functions hold in local variables, the innermost first."""
        while self._unnamed and frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if module == _OUTERMOST and frame.f_code.co_name == "wrapper":
                return
            if not module.startswith(_BETWEEN):
                for name, value in frame.f_locals.items():
                    for tensor in _tensors_of(value):
                        self._name_local(tensor, name)
            frame = frame.f_back

    def _name_local(self, tensor: Tensor, name: str) -> None:
        register = self._by_id.get(id(tensor))
        if register is not None and not register.rank and register.tensor is tensor:
            register.name, register.rank = name, _LOCAL
            self._unnamed -= 1

    def settle(self, operations: Sequence[Operation]) -> None:
        """Attribute all registers to parameters, and give those of each parameter unique names."""
        for operation in operations:
            values = [*operation.operands, *operation.results]
            numbers = [value.register.parameter for value in values]
            operation.parameter = next((n for n in numbers if n is not None), None)
            for value in operation.results:
                if value.register.parameter is None:
                    value.register.parameter = operation.parameter
        taken: dict[int | None, set[str]] = {}
        seen: set[int] = set()
        everything = [v.register for o in operations for v in (*o.operands, *o.results)]
        for register in sorted(everything, key=lambda register: -register.rank):
            if id(register) not in seen:
                seen.add(id(register))
                names = taken.setdefault(register.parameter, set())
                register.name = _unused(register.name or "tensor", names)
        for register in everything:
            register.looks = {}


def operation_name(function: Any) -> str:
    """Return an operation's name as a method of tensors: ``lerp_`` for ``aten._foreach_lerp_``."""
    return str(function.overloadpacket.__name__).removeprefix("_foreach_")


def _extent(tensor: Tensor) -> tuple[int, int, int]:
    """Return where a tensor's memory begins and ends, and its storage's address."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return id(tensor), id(tensor) + 1, -id(tensor)
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    start = tensor.data_ptr()
    return start, start + reach * tensor.element_size(), tensor.untyped_storage().data_ptr()


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Go through the tensors of nested dicts and lists: ``key``, ``key['inner']``, ``key1``."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}[{key!r}]" if name else str(key))
    elif isinstance(value, list | tuple):
        stem = name.removesuffix("s")
        for number, item in enumerate(value, start=1):
            yield from named_tensors(item, f"{stem}{number}")


def _tensors_of(value: Any) -> Iterator[Tensor]:
    value = getattr(value, "tensors", value) if not isinstance(value, Tensor) else value
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Tensor):
                yield item


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
