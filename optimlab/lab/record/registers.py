"""Which memory is what: names for the tensors of a step, found without the optimizer's help.

A :class:`Register` is a piece of memory that has one name for the whole step: ``param``, ``grad``,
the name that the optimizer's state has for it, or else what the code that computes with it calls
it. That is read from the frames of the running functions, as they keep their local variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare import digest as digests

Look: TypeAlias = Callable[[Tensor, "int | None"], Any]
"""What to keep of a tensor at a moment, given the number of the parameter that it belongs to."""

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

    def holds(self, tensor: Tensor) -> bool:
        """Tell whether a tensor lies in this memory."""
        start, end, _ = _memory(tensor)
        return self.start <= start and end <= self.end

    def overlapping(self) -> Iterator[Register]:
        """Go through the registers that share memory with this one, itself among them."""
        for other in self.others:
            if other is self or (other.start < self.end and self.start < other.end):
                yield other


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


class Registers:
    """The registers of one step of an optimizer."""

    def __init__(self, optimizer: Optimizer, look: Look) -> None:
        self._optimizer, self._look = optimizer, look
        self._by_storage: dict[int, list[Register]] = {}
        self._by_id: dict[int, tuple[Register, Tensor]] = {}  # held, so that no id is used again
        self._unnamed = 0
        self.name_optimizers_tensors()

    def of(self, tensor: Tensor) -> Register:
        """Find the register that a tensor lies in, or make one."""
        known = self._by_id.get(id(tensor))
        # ``tensor.data = ...`` and ``tensor.set_(...)`` lay a tensor elsewhere.
        if known is None or not known[0].holds(tensor):
            known = self._by_id[id(tensor)] = self._around(tensor), tensor
        return known[0]

    def _around(self, tensor: Tensor) -> Register:
        start, end, storage = _memory(tensor)
        others = self._by_storage.setdefault(storage, [])
        found = next((r for r in others if r.holds(tensor)), None)
        if found is None:
            found = Register(start, end, tensor, others)
            others.append(found)
            self._unnamed += 1
        return found

    def seen(self, tensor: Tensor) -> Value:
        """Keep of a tensor what there is to keep, once for each time that it is written."""
        register = self.of(tensor)
        last = max(other.writer for other in register.overlapping())
        address = tensor.data_ptr() if tensor.layout is torch.strided else 0
        key = (last, tensor.shape, tensor.dtype, address)
        if key not in register.looks:
            register.looks = {k: v for k, v in register.looks.items() if k[0] == last}
            register.looks[key] = self._look(tensor, register.parameter)
        source, shape = None if last < 0 else last, tuple(tensor.shape)
        return Value(register, register.looks[key], shape, tensor.dtype, source)

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


def digest(tensor: Tensor) -> str:
    """Summarise dtype and bits of a tensor, elements in order of their indices, all NaN alike."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return digests.digest(real.reshape(-1))


def short(dtype: torch.dtype) -> str:
    """Return the name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")
