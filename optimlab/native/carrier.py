"""The machine as a carrier of parts, and the choice between it and ATen in blocks and bins."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from optimlab.blocks import Blocks
from optimlab.native.library import Machine, Task
from optimlab.native.look import Block, Collections
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

    def stayed(self, collections: Collections) -> bool:
        """Tell whether collections still hold the same objects, in the same order."""
        return self._machine.stayed(collections)

    def look(self, part: Part) -> float:
        """Take up the gradients of a step, and look at all tensors, block by block."""
        if "blocks" not in part.scratch:
            part.scratch["blocks"] = _blocks(part)
        moved: list[Block] = []
        part.scratch["moved"] = moved
        common = None
        for block in part.scratch["blocks"]:
            step = block.take_up(self._machine, part.is_private)
            if step < 0:
                return -1.0
            moved.append(block)
            if common is not None and step != common:
                return -1.0
            common = step
        return -1.0 if common is None else common

    def undo(self, part: Part) -> None:
        """Move the version counters back: the step will not be carried out."""
        for block in part.scratch.pop("moved", ()):
            block.undo()

    def carry_out(self, optimizer: Optimizer, part: Part) -> None:
        """Carry out the step for which the part was prepared, and count it."""
        if "task" not in part.scratch:
            part.scratch["task"] = _task(part)
        task = part.scratch["task"]
        task.threads = 1 if part.total <= ALONE or _forked else torch.get_num_threads()
        self._machine.carry_out(task, part.program)
        for block in part.scratch.pop("moved", ()):
            block.grads = []  # their memory is not ours to keep


def _blocks(part: Part) -> list[Block]:
    starts = range(0, len(part.params), BLOCK)
    blocks = [Block(part, first, first + BLOCK) for first in starts]
    for block, following in pairwise(blocks):
        block.following = following
    return blocks


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
