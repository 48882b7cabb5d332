"""The machine as a carrier of parts, and the choice between it and ATen in blocks and bins."""

from __future__ import annotations

import functools
from array import array
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimlab.blocks import Blocks
from optimlab.native.library import Machine, Task
from optimlab.native.look import View
from optimlab.native.plan import Carrier, Part
from optimlab.native.tape import Tape
from optimlab.native.trust import Trust, trust

if TYPE_CHECKING:
    from optimlab.optimizer import Optimizer

ALONE = 1 << 15
"""Up to so many elements one thread is faster than waking the others."""

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

    def is_ready(self) -> bool:
        """Tell whether steps can be carried out in this thread, in its present state."""
        return not self._machine.flushes_denormals()

    def look(self, part: Part) -> float:
        """Take up the gradients of a step, and look at all tensors in one call."""
        grads = list(map(_grad, part.params))
        if set(map(type, grads)) != {Tensor} or any(map(_is_neg, grads)):
            return -1.0
        part.grads = grads
        if "view" not in part.scratch:
            part.scratch["view"] = View(part)
        try:
            return self._machine.look(part.scratch["view"].take(grads))
        except (BufferError, RuntimeError):
            return -1.0  # a sparse gradient, for one, has no address

    def carry_out(self, optimizer: Optimizer, part: Part) -> None:
        """Carry out the step for which the part was prepared, and count it."""
        if part.tape is None:
            raise ValueError("the part was not prepared")
        if "task" not in part.scratch:
            part.scratch["task"] = _task(part)
        task = part.scratch["task"]
        task.threads = 1 if part.total <= ALONE else torch.get_num_threads()
        self._machine.carry_out(task, array("d", part.tape.numbers))


def _task(part: Part) -> Task:
    return Task(
        pointers=part.table.buffer_info()[0],
        sizes=part.sizes.buffer_info()[0],
        steps=part.scratch["view"].steps.buffer_info()[0],
        inputs=len(part.names),
        count=len(part.params),
        total=part.total,
        step_count=len(part.steps),
        is_double=part.dtype == torch.float64,
        steps_are_double=bool(part.steps) and part.steps[0].dtype == torch.float64,
        joined=True,
    )


@functools.cache
def carrier() -> Carrier:
    """Choose, once in a process, what carries out rules on CPU."""
    trusted = trust()
    return Blocks() if trusted.machine is None else Native(trusted.machine, trusted)
