"""A rule that was traced once, and whose numbers are computed for other steps without running it.

What a rule does depends on hyperparameters and step count in two ways: they choose which operations
there are (``if weight_decay != 0``), and they are the numbers in them (``-lr``). Running the rule
on symbols anew at every step is always right, and takes some ten microseconds. A rule that is
declared :func:`~optimlab.optimizer.pure` is traced with symbolic scalars as well (``scalar.py``):
its numbers become a compiled function, in which every operation of Python is the one that the rule
does, and which notices where the rule would go another way.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from optimlab.native.bytecode import INSTRUCTION_SIZE, assemble, trace
from optimlab.native.guards import ANY_FLOAT, ANYTHING, Identity

if TYPE_CHECKING:
    from optimlab.core.batch import Stepped
    from optimlab.core.program import Recorder
    from optimlab.native.launch import Launch
    from optimlab.native.library import Kernel

# They choose who carries a rule out, also where the rule itself never asks.
FLAGS = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})

_SETTLED = frozenset({bool, int, float, str, type(None)})


class Traced:
    """The trace of a rule, as bytecode and a function that computes its scalars.

    Args:
        kernel: which asks whether the group has stayed.
        rule: what was traced.
        launch: what it was run on last; the numbers of that step must come out.
        recorder: the trace.

    Raises:
        ValueError: if they do not.

    Attributes:
        rule: the function that was traced.
        numbers: the bytecode.
        stayed: tells whether the group is as it was, but for floats in it.
        compute: writes the numbers of a step into a launch's code; tells whether the guards hold.
    """

    def __init__(self, kernel: Kernel, rule: Any, launch: Launch, recorder: Recorder) -> None:
        group, bytecode = launch.group, assemble(recorder)
        self.rule = rule
        self.numbers = bytecode.numbers
        identity = Identity([(group, lambda name: _instead_of(name, group[name]))])
        self.stayed = kernel.stayed(identity)
        places = [(1 + place, number) for place, number in bytecode.symbolic]
        self.compute = recorder.scalars.compiled(places)
        run = launch.code[: 1 + INSTRUCTION_SIZE * launch.record.length]
        code = array("d", [0.0, *self.numbers])
        if not (self.compute(code, run[0], group) and code.tobytes() == run.tobytes()):
            raise ValueError("the trace does not give the numbers of the step that was made")


def traced(kernel: Kernel, optimizer: Stepped, launch: Launch) -> Traced | None:
    """Trace a rule for all steps, after one that was made.

    Returns:
        ``None`` if the rule has to be traced at every step: it is not declared pure, or a
        hyperparameter is of a kind that can change by itself.
    """
    rule = None if "update" in optimizer.__dict__ else type(optimizer).update
    values = (value for name, value in launch.group.items() if name != "params")
    if not (_is_pure(rule) and all(map(_is_settled, values))):
        return None
    try:
        recorder = trace(optimizer, launch.names, launch.code[0], launch.group, symbolic=True)
        return Traced(kernel, rule, launch, recorder)
    except Exception:  # noqa: BLE001 - whatever it is, tracing at every step meets it where it counts
        return None


def _instead_of(name: str, value: Any) -> int | None:
    """Return what may stand in place of a hyperparameter; of tuples the trace asks for itself."""
    if name in FLAGS:
        return None
    if type(value) is tuple and value and all(type(member) is float for member in value):
        return ANYTHING
    return ANY_FLOAT if type(value) is float else None


def _is_pure(rule: Any) -> bool:
    """Tell whether a rule itself is declared pure, and not one that it wraps.

    ``type`` tells a symbolic scalar from a number; a rule that asks it is traced at every step.
    """
    code: Any = getattr(rule, "__code__", None)
    is_declared = code is not None and getattr(rule, "declared_pure", None) is rule
    return is_declared and "type" not in code.co_names


def _is_settled(value: Any) -> bool:
    """Tell whether a value stays what it is as long as it is the same object."""
    if type(value) is tuple:
        return all(map(_is_settled, value))
    return type(value) in _SETTLED
