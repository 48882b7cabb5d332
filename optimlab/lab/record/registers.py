"""Which memory is what: names for the tensors of a step, found without the optimizer's help.

A :class:`Register` is a piece of memory that has one name for the whole step: ``param``, ``grad``,
the name that the optimizer's state has for it, or else what the code that computes with it calls
it. That is read from the frames of the running functions, as they keep their local variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

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
    """A piece of memory under one name."""

    start: int  # its first address, or the tensor's id where there is no plain memory
    end: int  # the address behind its last
    tensor: Tensor  # one that lies there, held, so that no other takes its place during the step
    others: list[Register] = field(repr=False)  # all in the same storage
    name: str = ""  # unique among those of one parameter
    parameter: int | None = None  # its number, counted through all groups
    label: str = ""  # how the optimizer calls it
    rank: int = 0  # where the name is from: an operation, a local variable, the optimizer itself
    writer: int = -1  # number of the operation that wrote it last
    looks: dict[Any, Any] = field(default_factory=dict, repr=False)  # kept since then

    def overlapping(self) -> Iterator[Register]:
        """Go through the registers that share memory with this one, itself among them."""
        for other in self.others:
            if other is self or (other.start < self.end and self.start < other.end):
                yield other


class Registers:
    """The registers of one step of an optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._by_storage: dict[int, list[Register]] = {}
        self._by_id: dict[int, tuple[Register, Tensor]] = {}  # held, so that no id is used again
        self._unnamed = 0
        self.name_optimizers_tensors()

    def of(self, tensor: Tensor, *, made_by: Any = None, parameter: int | None = None) -> Register:
        """Find the register that a tensor lies in, or make one."""
        if id(tensor) not in self._by_id:
            self._by_id[id(tensor)] = self._around(tensor), tensor
        found, _ = self._by_id[id(tensor)]
        if made_by is not None and not found.name:
            found.name = operation_name(made_by).strip("_")
        if found.parameter is None:
            found.parameter = parameter
        return found

    def _around(self, tensor: Tensor) -> Register:
        start, end, storage = _memory(tensor)
        others = self._by_storage.setdefault(storage, [])
        found = next((r for r in others if r.start <= start and end <= r.end), None)
        if found is None:
            found = Register(start, end, tensor, others)
            others.append(found)
            self._unnamed += 1
        return found

    def write(self, register: Register, number: int) -> None:
        """Note that an operation wrote to a register, and so to all that overlap it."""
        for other in register.overlapping():
            other.writer = number

    def writer(self, register: Register) -> int | None:
        """Return the number of the operation that wrote a register last, ``None`` if none did."""
        last = max(other.writer for other in register.overlapping())
        return None if last < 0 else last

    def name_optimizers_tensors(self) -> None:
        """Name parameters, gradients, state and tensor hyperparameters, as they are now."""
        number = 0
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                held = self._optimizer.state.get(param, {})
                for name, tensor in named_tensors({"param": param, "grad": param.grad, **held}):
                    self._name(tensor, name, number)
                number += 1
            for name, tensor in named_tensors({k: v for k, v in group.items() if k != "params"}):
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
                    self._name_local(name, getattr(value, "tensors", value))
            frame = frame.f_back

    def _name_local(self, name: str, value: Any) -> None:
        for tensor in value if isinstance(value, list | tuple) else [value]:
            register, _ = self._by_id.get(id(tensor), (None, None))
            if register is not None and register.tensor is tensor and not register.rank:
                register.name, register.rank = name, _LOCAL
                self._unnamed -= 1


def operation_name(function: Any) -> str:
    """Return an operation's name as a method of tensors: ``lerp_`` for ``aten._foreach_lerp_``."""
    return str(function.overloadpacket.__name__).removeprefix("_foreach_")


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
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


def _memory(tensor: Tensor) -> tuple[int, int, int]:
    """Return where a tensor's memory begins and ends, and its storage's address."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return id(tensor), id(tensor) + 1, -id(tensor)
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    start = tensor.data_ptr()
    return start, start + reach * tensor.element_size(), tensor.untyped_storage().data_ptr()
