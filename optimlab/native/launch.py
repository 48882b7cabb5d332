"""A launch: tensors of one dtype and step count, written down for the kernel.

Here it is decided whether the kernel serves a group, and what it needs for that is written down.
Everything that may change later the kernel looks at by itself each time it runs, the first time
too: where tensors lie, how, and that nothing which is written overlaps (``kernel/guards.c``).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from optimlab.native.bytecode import INSTRUCTION_SIZE, MOST_INSTRUCTIONS
from optimlab.native.guards import address_of
from optimlab.native.library import LaunchRecord
from optimlab.native.tracing import SpecialisedTrace, encode_rule

if TYPE_CHECKING:
    from optimlab.core.batch import Batch, Member, Stepped
    from optimlab.native.self_check import Capabilities

DTYPES = (torch.float32, torch.float64)

SINGLE_THREAD_LIMIT = 1 << 15
"""Up to so many elements one thread is faster than waking the others."""

MOST_STEPS = 1 << 24
"""From here on a step count in float32 stays where it is when 1 is added."""

_is_dense = torch.ops.aten.is_non_overlapping_and_dense
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def no_modes_active() -> bool:
    """Tell whether tensors are plain memory now: nothing intercepts or records operations."""
    return (
        not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
    )


class Launch:
    """Tensors that one run of the kernel goes through.

    Args:
        optimizer: whose they are.
        batch: the group that they are in.
        members: parameters of one dtype with one step count, with their gradients and state.
        step: which step is coming.
        written: room for the ranges of memory that the batch writes, which its launches share.

    Attributes:
        group: their parameter group.
        names: the registers: ``param``, ``grad`` and state names.
        dtype: of parameters, gradients and state.
        params: the parameters.
        state_dicts: their state dicts.
        states: their state tensors, ``step`` last, parameter by parameter.
        code: which step is coming, counted from 1 (and 1 where steps are not counted), then six
            numbers for each instruction of the rule.
        trace: whose instructions the code has, if it is one that computes their scalars.
        record: the same for the kernel.
    """

    __slots__ = (
        *("_arrays", "code", "dtype", "group", "names", "params", "record"),
        *("state_dicts", "states", "trace"),
    )

    def __init__(
        self,
        optimizer: Stepped,
        batch: Batch,
        members: Sequence[Member],
        step: float,
        written: array[int],
    ) -> None:
        steps = [member.step for member in members if member.step is not None]
        keys = [*batch.names, *(("step",) if steps else ())]
        self.group = batch.group
        self.names = ("param", "grad", *batch.names)
        self.params = [member.param for member in members]
        self.dtype = self.params[0].dtype
        states = [_state_of(member, batch.names) for member in members]
        self.states = list(chain.from_iterable(states))
        self.state_dicts = [optimizer.state[p] for p in self.params] if keys else []
        self.trace: SpecialisedTrace | None = None
        self.code = array("d", bytes(8 * (1 + MOST_INSTRUCTIONS * INSTRUCTION_SIZE)))
        self.code[0] = step
        tensors = chain.from_iterable(zip(self.params, *zip(*states, strict=True), strict=True))
        layouts = ((p.dim(), *p.shape, *p.stride()) for p in self.params)
        arrays: dict[str, array[Any]] = {
            "tensors": array("q", map(id, tensors)),
            "state_dicts": array("q", map(id, self.state_dicts)),
            "names": array("q", map(id, keys)),
            "gradients": _room(len(members)),
            "layouts": array("q", chain.from_iterable(layouts)),
            "written": written,
            "pointers": _room(len(members) * len(self.names)),
            "sizes": array("q", map(Tensor.numel, self.params)),
            "steps": _room(len(steps)),
            "code": self.code,
        }
        self._arrays = keys, arrays
        self.record = LaunchRecord(
            **{name: address_of(numbers) for name, numbers in arrays.items()},
            inputs=len(self.names),
            count=len(members),
            total=sum(arrays["sizes"]),
            step_count=len(steps),
            is_double=self.dtype == torch.float64,
            steps_are_double=bool(steps) and steps[0].dtype == torch.float64,
            threads=1,
        )

    @property
    def step(self) -> float:
        """Which step is coming."""
        return self.code[0]

    @property
    def written_tensors(self) -> list[Tensor]:
        """Parameters, state tensors and step counts."""
        return [*self.params, *self.states]

    @property
    def step_addresses(self) -> array[int]:
        """Where the step counts lay in the last step; empty if steps are not counted."""
        return self._arrays[1]["steps"]

    def write(self, program: Sequence[float], trace: SpecialisedTrace | None = None) -> None:
        """Take a program: six numbers for each instruction, with the trace that they are from."""
        self.trace = trace
        self.code[1 : 1 + len(program)] = array("d", program)
        self.record.length = len(program) // INSTRUCTION_SIZE


def launch(capable: Capabilities, optimizer: Stepped, batch: Batch) -> list[Launch] | None:
    """Execute a batch, if the kernel can.

    All of its members or none: those that the kernel does not serve could share memory with those
    that it does, or raise an error before which torch would have updated no more than those in
    front.

    Returns:
        How it was executed, or ``None`` if nothing was done.
    """
    kernel = capable.kernel
    if (
        kernel is None
        or torch.is_grad_enabled()
        or batch.steps_stay_tensors
        or not (no_modes_active() and kernel.has_usual_mode())
    ):
        return None
    launches = _launches_of(capable, optimizer, batch)
    records = [each.record for each in launches]
    large = [record for record in records if record.total > SINGLE_THREAD_LIMIT]
    if not launches or (large and not kernel.share(large)):
        return None
    if not kernel.was_made(kernel.step(records, array("q"), None)()):
        return None
    increment_version(list(chain.from_iterable(each.written_tensors for each in launches)))
    return launches


def _launches_of(capable: Capabilities, optimizer: Stepped, batch: Batch) -> list[Launch]:
    """Divide the members of a batch into launches, none if the kernel does not serve them."""
    divided: defaultdict[Any, list[Member]] = defaultdict(list)
    for member in batch.members:
        param, count = member.param, member.step
        if not (param.dtype in DTYPES and param.is_cpu and (count is None or _is_count(count))):
            return []
        coming = (1.0, None) if count is None else (float(count.item()) + 1, count.dtype)
        divided[(param.dtype, *coming)].append(member)
    names = ("param", "grad", *batch.names)
    programs: list[Sequence[float]] = []
    for dtype, step, _ in divided:  # before the tensors are looked at, which takes longer
        program = read_rule(capable, optimizer, names, dtype, step, batch.group)
        if program is None:
            return []
        programs.append(program)
    if not all(is_dense_cpu(member, optimizer, batch.names) for member in batch.members):
        return []
    written = _room(2 * len(batch.members) * (len(names) + 1))
    launches = []
    for ((dtype, step, _), same), program in zip(divided.items(), programs, strict=True):
        made = Launch(optimizer, batch, same, step, written)
        made.write(program)
        made.record.superinstructions = dtype in capable.superinstructions
        launches.append(made)
    return launches


def read_rule(
    capable: Capabilities,
    optimizer: Stepped,
    names: tuple[str, ...],
    dtype: torch.dtype,
    step: float,
    group: dict[str, Any],
) -> Sequence[float] | None:
    """Read the rule for a step and return its program, if the kernel serves it."""
    if not (1 <= step <= MOST_STEPS and step.is_integer()):
        return None
    try:
        bytecode = encode_rule(optimizer, names, step, group)
    except Exception:  # noqa: BLE001 - if it is an error, the for-loop meets it where it counts
        return None
    return bytecode.numbers if capable.serves(bytecode.opcodes, dtype) else None


def is_dense_cpu(member: Member, optimizer: Stepped, names: Sequence[str]) -> bool:
    """Tell whether a parameter and its state are of the kinds that the kernel looks at."""
    param, state = member.param, _state_of(member, names)
    return (
        type(param) in _PLAIN_TYPES
        and param.layout is torch.strided
        and (param.is_contiguous() or bool(_is_dense(param)))
        and len(member.state) == len(names)  # the rule makes state at the first step
        and all(type(tensor) is Tensor for tensor in state)
        and not any(map(Tensor.is_inference, (param, *state)))  # which have no version
        and (not state or type(optimizer.state[param]) is dict)
    )


def _is_count(step: Tensor) -> bool:
    return type(step) is Tensor and step.is_cpu and step.dtype in DTYPES and step.numel() == 1


def _state_of(member: Member, names: Sequence[str]) -> list[Tensor]:
    state = [member.state[name] for name in names if name in member.state]
    return state if member.step is None else [*state, member.step]


def _room(length: int) -> array[int]:
    """Return room for addresses that the kernel writes down."""
    return array("q", bytes(8 * length))
