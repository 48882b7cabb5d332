"""The machine as a carrier of parts, and the choice between it and ATen in blocks and bins."""

from __future__ import annotations

import functools
from array import array
from typing import TYPE_CHECKING

import torch

from optimlab.blocks import Blocks
from optimlab.native.library import Machine
from optimlab.native.plan import Carrier, Part
from optimlab.native.tape import Tape
from optimlab.native.trust import Trust, trust

if TYPE_CHECKING:
    from optimlab.optimizer import Optimizer

ALONE = 1 << 15
"""Up to so many elements one thread is faster than waking the others."""


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

    def common_step(self, part: Part) -> float:
        """Return the step count that all tensors of a part have, or -1 if they differ."""
        if "steps" not in part.scratch:
            part.scratch["steps"] = array("q", [step.data_ptr() for step in part.steps])
        return self._machine.common_step(part.scratch["steps"], is_double=_has_double_steps(part))

    def carry_out(self, optimizer: Optimizer, part: Part) -> None:
        """Carry out the step for which the part was prepared, and count it."""
        if part.tape is None:
            raise ValueError("the part was not prepared")
        self._machine.run(
            array("d", part.tape.numbers),
            part.table,
            part.sizes,
            inputs=len(part.names),
            total=part.total,
            is_double=part.dtype == torch.float64,
            threads=1 if part.total <= ALONE else torch.get_num_threads(),
        )
        if part.steps:
            self._machine.count_steps(part.scratch["steps"], is_double=_has_double_steps(part))


def _has_double_steps(part: Part) -> bool:
    return part.steps[0].dtype == torch.float64


@functools.cache
def carrier() -> Carrier:
    """Choose, once in a process, what carries out rules on CPU."""
    trusted = trust()
    return Blocks() if trusted.machine is None else Native(trusted.machine, trusted)
