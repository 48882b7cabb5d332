"""A launch: tensors of one dtype and step count, written down for one run of the kernel.

Making one means looking at every property of every tensor. The kernel compares with what was
written down here each time it runs, the first time too: while Python looks at thousands of tensors
other threads may move those that it looked at first. Where tensors lie, and that nothing which is
written overlaps, only the kernel finds out.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from optimlab.native import library
from optimlab.native.bytecode import INSTRUCTION_SIZE, MOST_INSTRUCTIONS
from optimlab.native.guards import layout, start

if TYPE_CHECKING:
    from optimlab.core.batch import Batch, Member, Stepped
    from optimlab.native.traced import Traced

Ranges: TypeAlias = "array[int]"
"""Where a range of memory begins and where it ends, then the next one, in ascending order."""

DTYPES = (torch.float32, torch.float64)

_is_dense = torch.ops.aten.is_non_overlapping_and_dense
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


class Launch:
    """Tensors that one run of the kernel goes through.

    Args:
        optimizer: whose they are.
        batch: the group that they are in.
        members: parameters of one dtype with one step count, with their gradients and state.
        written: all memory that the batch writes.

    Attributes:
        group: their parameter group.
        names: the registers: ``param``, ``grad`` and state names.
        dtype: of parameters, gradients and state.
        params: the parameters.
        state_dicts: their state dicts.
        states: their state tensors, ``step`` last, parameter by parameter.
        step: which step is coming, counted from 1, and 1 where steps are not counted.
        code: the step, then six numbers for each instruction of the rule.
        trace: whose instructions the code has, if it is one that computes their scalars.
        total: how many elements there are.
        record: the same for the kernel.
    """

    __slots__ = (
        *("_arrays", "code", "counts_steps", "dtype", "group", "names", "params", "record"),
        *("state_dicts", "states", "step", "total", "trace"),
    )

    def __init__(
        self, optimizer: Stepped, batch: Batch, members: Sequence[Member], written: Ranges
    ) -> None:
        steps = [member.step for member in members if member.step is not None]
        self.group = batch.group
        self.names = ("param", "grad", *batch.names)
        self.params = [member.param for member in members]
        self.dtype = self.params[0].dtype
        self.states = [tensor for member in members for tensor in _state_of(member, batch.names)]
        self.state_dicts = [optimizer.state[p] for p in self.params] if self.states else []
        self.trace: Traced | None = None
        self.counts_steps = bool(steps)
        self.step = float(steps[0].item()) + 1 if steps else 1.0
        self.total = sum(map(Tensor.numel, self.params))
        self.code = array("d", bytes(8 * (1 + MOST_INSTRUCTIONS * INSTRUCTION_SIZE)))
        of_each = ((member.param, *_state_of(member, batch.names)) for member in members)
        registers = [self.params, [member.grad for member in members]]
        registers += [[member.state[name] for member in members] for name in batch.names]
        keys = [*batch.names, *(("step",) if steps else ())]
        arrays: dict[str, array[Any]] = {
            "tensors": array("q", map(id, chain.from_iterable(of_each))),
            "state_dicts": array("q", map(id, self.state_dicts)),
            "names": array("q", map(id, keys)),
            "gradients": array("q", [id(member.grad) for member in members]),
            "layouts": array("q", chain.from_iterable(map(layout, self.params))),
            "written": written,
            "pointers": array("q", map(Tensor.data_ptr, chain.from_iterable(registers))),
            "sizes": array("q", map(Tensor.numel, self.params)),
            "steps": array("q", map(Tensor.data_ptr, steps)),
            "code": self.code,
        }
        self._arrays = keys, arrays
        self.record = library.Launch(
            **{name: start(numbers) for name, numbers in arrays.items()},
            inputs=len(self.names),
            count=len(members),
            total=self.total,
            step_count=len(steps),
            written_count=len(written) // 2,
            is_double=self.dtype == torch.float64,
            steps_are_double=bool(steps) and steps[0].dtype == torch.float64,
            threads=1,
            joined=True,
            is_given=True,
        )

    @property
    def written(self) -> list[Tensor]:
        """Parameters, state tensors and step counts."""
        return [*self.params, *self.states]

    @property
    def step_addresses(self) -> array[int]:
        """Where the step counts lie; empty if steps are not counted."""
        return self._arrays[1]["steps"]

    def leave(self) -> None:
        """From now on ask parameters for gradients, and dicts for state."""
        gradients = self._arrays[1]["gradients"]
        gradients[:] = array("q", bytes(8 * len(gradients)))
        self.record.is_given = False

    def take(self, trace: Traced) -> None:
        """Take the instructions of a trace, which is about to write their scalars."""
        self.write(trace.numbers)
        self.trace = trace

    def write(self, program: Sequence[float]) -> None:
        """Take a program for the coming step: six numbers for each instruction."""
        self.trace = None
        self.code[0] = self.step
        self.code[1 : 1 + len(program)] = array("d", program)
        self.record.length = len(program) // INSTRUCTION_SIZE


def launches_of(optimizer: Stepped, batch: Batch) -> list[Launch] | None:
    """Divide the members of a batch into launches.

    All of them or none: members that the kernel does not serve could share memory with those that
    it does, or raise an error before which torch would have updated no more than those in front.
    """
    members = batch.members
    if not all(_is_plain(member, batch.names) for member in members):
        return None
    if batch.names and any(type(optimizer.state[m.param]) is not dict for m in members):
        return None
    divided: defaultdict[Any, list[Member]] = defaultdict(list)
    for member in members:
        step = None if member.step is None else (member.step.item(), member.step.dtype)
        divided[member.param.dtype, step].append(member)
    written = _ranges(members)
    return [Launch(optimizer, batch, same, written) for same in divided.values()]


def _state_of(member: Member, names: Iterable[str]) -> list[Tensor]:
    state = [member.state[name] for name in names]
    return state if member.step is None else [*state, member.step]


def _is_plain(member: Member, names: tuple[str, ...]) -> bool:
    """Tell whether a parameter, its gradient and its state lie alike in plain memory."""
    param, step = member.param, member.step
    if len(member.state) != len(names) or param.dtype not in DTYPES:
        return False  # the rule makes state at the first step
    contiguous = _is_plain_memory(param) and param.is_contiguous()
    return (
        (contiguous or (_is_plain_memory(param) and bool(_is_dense(param))))
        and all(
            _is_plain_memory(tensor)
            and type(tensor) is Tensor
            and tensor.dtype == param.dtype
            and tensor.shape == param.shape
            and (tensor.is_contiguous() if contiguous else tensor.stride() == param.stride())
            for tensor in (member.grad, *member.state.values())
        )
        and (step is None or _is_plain_count(step))
    )


def _is_plain_memory(tensor: Tensor) -> bool:
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and not tensor.is_inference()
        and tensor.data_ptr() % tensor.element_size() == 0
    )


def _is_plain_count(step: Tensor) -> bool:
    return (
        type(step) is Tensor
        and _is_plain_memory(step)
        and step.dtype in DTYPES
        and step.numel() == 1
    )


def _ranges(members: Iterable[Member]) -> Ranges:
    """Return the memory that a step writes."""
    tensors = chain.from_iterable((m.param, *m.state.values(), m.step) for m in members)
    ranges = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        for tensor in tensors
        if tensor is not None and tensor.numel()
    )
    return array("q", chain.from_iterable(ranges))
