"""The machine as a carrier of parts, and the choice between it and ATen in blocks and bins."""

from __future__ import annotations

import functools
import os
import threading
from array import array
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from optimlab.blocks import Blocks
from optimlab.native.library import Machine, Task
from optimlab.native.look import Block
from optimlab.native.plan import Carrier, Part
from optimlab.native.tape import Tape
from optimlab.native.trust import Trust, trust

if TYPE_CHECKING:
    from optimlab.execution import Member
    from optimlab.optimizer import Optimizer

ALONE = 1 << 15
"""Up to so many elements one thread is faster than waking the others."""

BLOCK = 128
"""How many parameters are looked at together."""

_FIRST_USE = threading.Lock()
_forked = False

_grad = attrgetter("grad")
_is_neg = Tensor.is_neg


class Native:
    """The carrier that hands a part to the machine in one call.

    Args:
        machine: the loaded library.
        trusted: which of its instructions give ATen's bits here.
    """

    def __init__(self, machine: Machine, trusted: Trust) -> None:
        self._machine = machine
        self._trust = trusted

    def takes(self, tape: Tape, dtype: torch.dtype) -> bool:
        """Tell whether a rule comes out with ATen's bits."""
        return tape.fits() and self._trust.serves(tape.used, dtype)

    def gains(self, members: Sequence[Member]) -> bool:
        """Tell whether it is sooner done than tensor by tensor: always."""
        return True

    def is_ready(self) -> bool:
        """Tell whether steps can be carried out in this thread, in its present state."""
        return not self._machine.flushes_denormals()

    def look(self, part: Part) -> float:
        """Take up the gradients of a step, and look at all tensors, block by block."""
        if "blocks" not in part.scratch:
            part.scratch["blocks"] = [
                Block(part, first, first + BLOCK) for first in range(0, len(part.params), BLOCK)
            ]
        part.grads = []
        moved: list[Block] = []
        part.scratch["moved"] = moved
        steps = set()
        for block in part.scratch["blocks"]:
            step = self._look_at(part, block)
            steps.add(step)
            if step < 0 or len(steps) > 1:
                return -1.0
            # Autograd must notice that what it saved for a backward pass will no longer be there.
            # Now, because the tensors are at hand, in the cache.
            increment_version(block.written)
            moved.append(block)
        return steps.pop()

    def undo(self, part: Part) -> None:
        """Move the version counters back: the step will not be carried out."""
        for block in part.scratch.pop("moved", ()):
            block.forget()
            for tensor in block.written:  # one by one, because views of one tensor share a counter
                version = (tensor._version - 1,)
                torch._C._autograd._unsafe_set_version_counter((tensor,), version)

    def _look_at(self, part: Part, block: Block) -> float:
        grads = list(map(_grad, block.params))
        if (
            set(map(type, grads)) != {Tensor}
            or any(map(_is_neg, grads))
            or any(map(_is_neg, block.written))
            or not block.keeps_its_state()
        ):
            return -1.0
        part.grads += grads
        try:
            return self._machine.look(block.take(grads))
        except (BufferError, RuntimeError):
            return -1.0  # a sparse gradient, for one, has no address

    def carry_out(self, optimizer: Optimizer, part: Part) -> None:
        """Carry out the step for which the part was prepared, and count it."""
        if part.tape is None:
            raise ValueError("the part was not prepared")
        if "task" not in part.scratch:
            part.scratch["task"] = _task(part)
        task = part.scratch["task"]
        task.threads = 1 if part.total <= ALONE or _forked else torch.get_num_threads()
        self._machine.carry_out(task, array("d", part.tape.numbers))
        for block in part.scratch.pop("moved", ()):
            block.forget()


def _task(part: Part) -> Task:
    return Task(
        pointers=part.table.buffer_info()[0],
        sizes=part.sizes.buffer_info()[0],
        steps=part.step_addresses.buffer_info()[0],
        inputs=len(part.names),
        count=len(part.params),
        total=part.total,
        step_count=len(part.steps),
        is_double=part.dtype == torch.float64,
        steps_are_double=bool(part.steps) and part.steps[0].dtype == torch.float64,
        joined=True,
    )


@functools.cache
def _carriers() -> tuple[Carrier, ...]:
    trusted = trust()
    if trusted.machine is None:
        return (Blocks(),)
    return Native(trusted.machine, trusted), Blocks()


def carriers() -> tuple[Carrier, ...]:
    """Return what carries out rules on CPU, the fastest first; found out once in a process."""
    with _FIRST_USE:  # threads that make their first step together would check with one another
        return _carriers()


def _note_fork() -> None:
    """Go on with one thread: a pool does not survive a fork, and would be waited for."""
    global _forked  # noqa: PLW0603 - there is one process
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
