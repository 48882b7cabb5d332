"""From a parameter group to one call of the machine, and what is kept from step to step.

A :class:`Part` is what the machine takes, or in its place the blocks and bins of ``blocks.py``:
tensors of one dtype with one step count, lying alike in plain memory. Making one means looking at
every property of every tensor. At the next step only what can have changed is looked at again: that
the group, its parameters and their state tensors are the same objects, that their memory is where
it was, and where the new gradients are. Anything that is not as before ends the part's life; a new
one is made, or the tensors take the plain path.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from optimlab.native.formulas import Formulas, learn
from optimlab.native.look import Collections
from optimlab.native.privacy import Privacy
from optimlab.native.tape import NotServedError, Tape, read

if TYPE_CHECKING:
    from optimlab.execution import Batch, Member
    from optimlab.optimizer import Optimizer

Ranges: TypeAlias = "tuple[array[int], array[int]]"
"""Where ranges of memory begin and where they end, in ascending order."""

DTYPES = (torch.float32, torch.float64)

MOST_STEPS = 1 << 24
"""From here on a step count in float32 stays where it is when 1 is added."""

MOST_LESSONS = 8
"""So often formulas are learned anew; where hyperparameters change at every step, never again."""

_address = Tensor.data_ptr
_is_contiguous = Tensor.is_contiguous
_is_dense = torch.ops.aten.is_non_overlapping_and_dense
_PLAIN_TYPES = {Tensor, torch.nn.Parameter}


class Carrier(Protocol):
    """What carries out parts: the native machine, or blocks and bins of ATen operations."""

    def takes(self, tape: Tape, dtype: torch.dtype) -> bool:
        """Tell whether a rule comes out with ATen's bits."""

    def gains(self, members: Sequence[Member]) -> bool:
        """Tell whether it is sooner done than tensor by tensor."""

    def is_ready(self) -> bool:
        """Tell whether steps can be carried out in this thread, in its present state."""

    def stayed(self, collections: Collections) -> bool:
        """Tell whether collections still hold the same objects, in the same order."""

    def look(self, part: Part) -> float:
        """Take up the gradients of a step, and look at all tensors.

        Returns:
            The step count that all tensors have, 0 if steps are not counted, or -1 if anything is
            not as the part has it, or steps cannot be carried out in this thread.
        """

    def undo(self, part: Part) -> None:
        """Take back what looking has changed: the step will not be carried out."""

    def carry_out(self, optimizer: Optimizer, part: Part) -> None:
        """Carry out the step for which the part was prepared, and count it."""


def is_undisturbed() -> bool:
    """Tell whether tensors are plain memory now: nothing intercepts or records operations."""
    return (
        not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
        and not torch.compiler.is_compiling()
    )


def may_be_served(group: dict[str, Any]) -> bool:
    """Tell whether the flags of a group leave its tensors to a carrier."""
    return not (group["differentiable"] or group.get("capturable"))


Served: TypeAlias = "tuple[Carrier, list[Part]]"


@dataclass(slots=True)
class Part:
    """Tensors that one call goes through.

    Attributes:
        group: their parameter group.
        names: the registers: ``param``, ``grad`` and state names.
        params: the parameters.
        grads: their gradients in the coming step.
        held: their state dicts.
        states: their state tensors, ``step`` last, parameter by parameter.
        dtype: of parameters, gradients and state.
        shapes: of each parameter.
        strides: of each parameter, or ``None`` if all are contiguous.
        sizes: how many elements each parameter has.
        total: how many all have.
        addresses: of the parameters, and of ``states``.
        table: addresses, register by register.
        step_addresses: of the step counts.
        written: where memory that is written begins and ends, in ascending order.
        is_private: whether nobody else can have changed anything about ``states`` and ``held``.
        step: which step is coming, counted from 1, and 1 where steps are not counted.
        program: the rule, read for the coming step: six numbers for each instruction.
        scratch: for the carrier.
    """

    group: dict[str, Any]
    names: tuple[str, ...]
    params: list[Tensor]
    grads: list[Tensor]
    held: list[dict[str, Any]]
    states: list[Tensor]
    dtype: torch.dtype
    shapes: list[torch.Size]
    strides: list[tuple[int, ...]] | None
    sizes: array[int]
    total: int
    addresses: tuple[list[int], list[int]]
    table: array[int]
    step_addresses: array[int]
    written: Ranges
    step: float
    is_private: bool = False
    program: array[float] = field(default_factory=lambda: array("d"))
    scratch: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> list[Tensor]:
        """The step counts; none if the optimizer does not count steps."""
        each = len(self.states) // len(self.params)
        return self.states[each - 1 :: each] if self.step_addresses else []

    def look_again(self) -> bool:
        """Take up the gradients of a step; tell whether everything else is as it was.

        :func:`optimlab_look` in ``look.c`` does the same in a call.
        """
        try:
            return self._params_stayed() and self._states_stayed() and self._take_gradients()
        except (AttributeError, KeyError, RuntimeError, TypeError):
            return False  # a gradient that is None or sparse, a state entry that is gone

    def _params_stayed(self) -> bool:
        params = self.params
        return (
            list(map(_address, params)) == self.addresses[0]
            and self._lie_alike(params)
            and {param.dtype for param in params} == {self.dtype}
        )

    def _states_stayed(self) -> bool:
        names = (*self.names[2:], *(("step",) if self.steps else ()))
        now = [held[name] for held in self.held for name in names]
        return all(map(is_, now, self.states)) and list(map(_address, now)) == self.addresses[1]

    def _lie_alike(self, tensors: Sequence[Tensor]) -> bool:
        return [tensor.shape for tensor in tensors] == self.shapes and (
            all(map(_is_contiguous, tensors))
            if self.strides is None
            else [tensor.stride() for tensor in tensors] == self.strides
        )

    def _take_gradients(self) -> bool:
        grads: list[Any] = [param.grad for param in self.params]
        if not (
            self._lie_alike(grads)
            and not any(map(Tensor.is_neg, (*self.params, *grads, *self.states)))
            and not any(map(Tensor._is_zerotensor, grads))
            and {grad.dtype for grad in grads} == {self.dtype}
            and set(map(type, grads)) == {Tensor}
        ):
            return False
        self.grads = grads
        count = len(grads)
        addresses = array("q", map(_address, grads))
        if addresses == self.table[count : 2 * count]:
            return True
        self.table[count : 2 * count] = addresses
        return _are_apart(self.written, np.asarray(addresses), np.asarray(self.sizes) * _item(self))

    def read(
        self, optimizer: Optimizer, carrier: Carrier, formulas: Formulas | None = None
    ) -> bool:
        """Read the rule for the coming step; tell whether the carrier takes it."""
        if not (1 <= self.step <= MOST_STEPS and self.step.is_integer()):
            return False
        program = formulas.program(self.step) if formulas is not None else None
        if program is None:  # else the operations are those that the carrier has taken before
            try:
                tape = read(optimizer, self.names, self.step, self.group)
            except (NotServedError, AttributeError, TypeError):
                return False
            if not carrier.takes(tape, self.dtype):
                return False
            program = array("d", tape.numbers)
        self.program = program
        return True

    def look(self, carrier: Carrier) -> bool:
        """Look at all tensors; tell whether they are as they were, before the coming step.

        Nothing is changed yet but what the carrier's ``undo`` takes back. From here to the
        arithmetic no code of anybody else's is run, which could change them.
        """
        return carrier.look(self) == self.step - 1

    def carry_out(self, optimizer: Optimizer, carrier: Carrier) -> None:
        """Carry out the step that was prepared."""
        carrier.carry_out(optimizer, self)
        self.grads = []  # their memory is not ours to keep
        if self.step_addresses:
            self.step += 1


@dataclass(slots=True)
class KeptGroup:
    """The parts of a parameter group, and what else has to stay as it is for them to be used.

    Attributes:
        group: the group.
        params: its list of parameters.
        without_grad: those that take no part.
        names: what the rule's state is called.
        parts: the others.
        options: how many entries the group has.
        formulas: what the rule's numbers are computed from, if it need not be read anew.
        lessons: how often formulas were learned.
    """

    group: dict[str, Any]
    params: list[Tensor]
    without_grad: list[Tensor]
    names: tuple[str, ...]
    parts: list[Part]
    options: int
    formulas: Formulas | None = None
    lessons: int = 0

    def stayed(self, optimizer: Optimizer) -> bool:
        """Tell whether the same parameters take part, in the same way."""
        group = self.group
        if self.formulas is None or not self.formulas.hold(optimizer, group):
            self.formulas = None
            if (
                len(group) != self.options
                or group.get("foreach")
                or group.get("fused")
                or not may_be_served(group)
            ):
                return False
        return (
            group["params"] is self.params
            and optimizer.state_names(group) == self.names
            and all([param.grad is None for param in self.without_grad])  # noqa: C419 - twice as fast
        )

    def read(self, optimizer: Optimizer, carrier: Carrier) -> bool:
        """Read the rule for all parts; tell whether the carrier takes it."""
        return all([part.read(optimizer, carrier, self.formulas) for part in self.parts])  # noqa: C419

    def learn(self, optimizer: Optimizer) -> None:
        """Learn formulas from the step that was made last, if there is anything to learn."""
        if self.formulas is None and self.parts and self.lessons < MOST_LESSONS:
            self.lessons += 1
            part = self.parts[0]
            step = part.step - 1 if part.step_addresses else part.step
            self.formulas = learn(optimizer, self.group, part.names, step, part.program)


@dataclass(slots=True)
class Kept:
    """What one step of an optimizer leaves for the next.

    Attributes:
        carrier: what carries all parts out.
        groups: what is kept of each parameter group.
        state: the optimizer's.
        param_groups: the optimizer's.
        all_state: what ``state`` held.
        params: what the list of groups and each group's list of parameters held.
        privacy: whether nobody else can reach ``state``.
        state_was_seen: whether somebody asked for it since the last step.
    """

    carrier: Carrier
    groups: list[KeptGroup]
    state: dict[Tensor, Any]
    param_groups: list[dict[str, Any]]
    all_state: Collections
    params: Collections
    privacy: Privacy = field(default_factory=Privacy)
    state_was_seen: bool = False

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copy of an optimizer keeps nothing: here are addresses

    @property
    def parts(self) -> list[Part]:
        """All parts, group by group."""
        return [part for kept in self.groups for part in kept.parts]

    def step(self, optimizer: Optimizer) -> bool:
        """Make a step, if everything but the gradients is as it was.

        Returns:
            Whether it was made; if not, nothing was changed.
        """
        carrier, privacy, parts = self.carrier, self.privacy, self.parts
        was_seen, self.state_was_seen = self.state_was_seen, False
        if was_seen and privacy.holds:
            privacy.end()
            _set_private(parts, privacy)
        if not self._stayed(optimizer):
            return False
        if not _are_prepared(carrier, parts, self._prepared(optimizer)):
            return False
        for part in parts:
            part.carry_out(optimizer, carrier)
        for kept in self.groups:
            kept.learn(optimizer)
        if not (was_seen or privacy.holds):
            privacy.consider(self)
            _set_private(parts, privacy)
        return True

    def _prepared(self, optimizer: Optimizer) -> Iterator[bool]:
        for kept in self.groups:
            yield kept.read(optimizer, self.carrier)
        yield not (self.privacy.holds and self.state_was_seen)  # by the rule itself
        for kept in self.groups:
            for part in kept.parts:
                yield part.look(self.carrier)

    def _stayed(self, optimizer: Optimizer) -> bool:
        attributes = optimizer.__dict__
        return (
            is_undisturbed()
            and optimizer.defaults.get("differentiable") is False
            and "grad_scale" not in attributes
            and "found_inf" not in attributes
            and attributes.get("state") is self.state
            and optimizer.param_groups is self.param_groups
            and self.carrier.stayed(self.params)
            and (self.privacy.holds or self.carrier.stayed(self.all_state))
            and all([kept.stayed(optimizer) for kept in self.groups])  # noqa: C419
        )


def _set_private(parts: Iterable[Part], privacy: Privacy) -> None:
    for part in parts:
        part.is_private = privacy.holds


def may_be_kept(optimizer: Optimizer) -> bool:
    """Tell whether steps may skip ``optimizer.check``: its class has none of its own.

    What the checks of this package refuse is never served by a carrier.
    """
    return str(type(optimizer).check.__module__).startswith(f"{__name__.partition('.')[0]}.")


def keep(
    optimizer: Optimizer, batches: Sequence[Batch], served: Sequence[tuple[Batch, Served]]
) -> Kept | None:
    """Keep the parts of a step, if one carrier served every tensor of it."""
    if not _is_made_of_lists_and_dicts(optimizer):
        return None
    used = {id(carrier): carrier for _, (carrier, _) in served}
    taking_part = [batch for batch in batches if batch.members]
    if len(used) != 1 or len(served) < len(taking_part) or not may_be_kept(optimizer):
        return None
    counts = [n for _, (_, parts) in served for part in parts for n in part.step_addresses]
    if len(set(counts)) < len(counts):
        return None  # groups share a step count, which has to be read again after each
    parts_of = {id(batch): parts for batch, (_, parts) in served}
    groups = [_kept_group(batch, parts_of.get(id(batch), [])) for batch in batches]
    (carrier,) = used.values()
    state, param_groups = optimizer.state, optimizer.param_groups
    params = Collections([param_groups, *(group["params"] for group in param_groups)])
    return Kept(carrier, groups, state, param_groups, Collections([state]), params)


def _is_made_of_lists_and_dicts(optimizer: Optimizer) -> bool:
    """Tell whether whatever may change between steps is of the kinds that are looked at."""
    groups = optimizer.param_groups
    return (
        type(optimizer.state) in (dict, defaultdict)
        and type(groups) is list
        and all(type(group) is dict and type(group["params"]) is list for group in groups)
    )


def _kept_group(batch: Batch, parts: list[Part]) -> KeptGroup:
    params = batch.group["params"]
    taking_part = {id(member.param) for member in batch.members}
    without_grad = [param for param in params if id(param) not in taking_part]
    return KeptGroup(batch.group, params, without_grad, batch.names, parts, len(batch.group))


def serve(optimizer: Optimizer, carriers: Sequence[Carrier], batch: Batch) -> Served | None:
    """Carry out a batch, if a carrier can.

    All of it or nothing: members that a carrier does not serve could share memory with those that
    it does, or raise an error before which torch would have updated no more than those in front.

    Returns:
        The carrier and the parts that it carried out, or ``None`` if nothing was done.
    """
    if torch.is_grad_enabled() or not (may_be_served(batch.group) and is_undisturbed()):
        return None
    carrier = _chosen(optimizer, carriers, batch)
    if carrier is None or not all(_is_plain(member, batch.names) for member in batch.members):
        return None
    if batch.names and any(type(optimizer.state[m.param]) is not dict for m in batch.members):
        return None
    divided: defaultdict[Any, list[Member]] = defaultdict(list)
    for member in batch.members:
        step = None if member.step is None else (member.step.item(), member.step.dtype)
        divided[member.param.dtype, step].append(member)
    written = _ranges(batch.members)
    begins = np.array([member.grad.data_ptr() for member in batch.members], dtype=np.int64)
    lengths = np.array([member.grad.nbytes for member in batch.members], dtype=np.int64)
    if _overlap(written) or not _are_apart(written, begins, lengths):
        return None
    parts = [_part(optimizer, batch, same, written) for same in divided.values()]
    reads = (part.read(optimizer, carrier) for part in parts)
    looks = (part.look(carrier) for part in parts)
    if not _are_prepared(carrier, parts, chain(reads, looks)):
        return None
    for part in parts:
        part.carry_out(optimizer, carrier)
    return carrier, parts


def _are_prepared(carrier: Carrier, parts: Sequence[Part], prepared: Iterable[bool]) -> bool:
    """Prepare all parts, or none."""
    ready = False
    try:
        ready = all(prepared)
    finally:
        if not ready:
            for part in parts:
                carrier.undo(part)
    return ready


def _chosen(optimizer: Optimizer, carriers: Sequence[Carrier], batch: Batch) -> Carrier | None:
    """Choose the first carrier that takes the rule, before the tensors are looked at."""
    dtypes = {member.param.dtype for member in batch.members}
    if not dtypes.issubset(DTYPES):
        return None
    step = batch.members[0].step
    try:
        coming = 1.0 if step is None else float(step.item()) + 1
        tape = read(optimizer, ("param", "grad", *batch.names), coming, batch.group)
    except (NotServedError, AttributeError, RuntimeError, TypeError):
        return None  # the plain path finds out whether it is an error
    for carrier in carriers:
        if all(carrier.takes(tape, dtype) for dtype in dtypes) and carrier.is_ready():
            return carrier if carrier.gains(batch.members) else None
    return None


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
    return _is_plain_memory(step) and step.dtype in DTYPES and step.numel() == 1


def _part(
    optimizer: Optimizer,
    batch: Batch,
    members: Sequence[Member],
    written: Ranges,
) -> Part:
    params = [member.param for member in members]
    grads = [member.grad for member in members]
    states = [
        tensor
        for member in members
        for tensor in [*(member.state[name] for name in batch.names), member.step]
        if tensor is not None
    ]
    registers = [params, grads]
    registers += [[member.state[name] for member in members] for name in batch.names]
    return Part(
        group=batch.group,
        names=("param", "grad", *batch.names),
        params=params,
        grads=grads,
        held=[optimizer.state[param] for param in params] if states else [],
        states=states,
        dtype=params[0].dtype,
        shapes=[param.shape for param in params],
        strides=None if all(map(_is_contiguous, params)) else [p.stride() for p in params],
        sizes=array("q", map(Tensor.numel, params)),
        total=sum(map(Tensor.numel, params)),
        addresses=(list(map(_address, params)), list(map(_address, states))),
        table=array("q", map(_address, chain.from_iterable(registers))),
        step_addresses=array("q", [m.step.data_ptr() for m in members if m.step is not None]),
        written=written,
        step=1.0 if members[0].step is None else float(members[0].step.item()) + 1,
    )


def _item(part: Part) -> int:
    return part.params[0].element_size()


def _ranges(members: Iterable[Member]) -> Ranges:
    """Return where memory that a step writes begins and ends, in ascending order."""
    tensors = chain.from_iterable((m.param, *m.state.values(), m.step) for m in members)
    ranges = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        for tensor in tensors
        if tensor is not None and tensor.numel()
    )
    return array("q", [begin for begin, _ in ranges]), array("q", [end for _, end in ranges])


def _overlap(written: Ranges) -> bool:
    starts, ends = map(np.asarray, written)
    return bool((ends[:-1] > starts[1:]).any())


def _are_apart(written: Ranges, begins: Any, lengths: Any) -> bool:
    """Tell whether tensors share no memory with what is written."""
    starts, ends = map(np.asarray, written)
    following = np.searchsorted(ends, begins, side="right")  # the first that ends behind each
    inside = (following < len(starts)) & (lengths > 0)
    return not (starts[following[inside]] < (begins + lengths)[inside]).any()
