"""From a rule to bytecode: for one step, or specialised once for all steps.

What a rule does depends on hyperparameters and step count in two ways: they choose which operations
there are (``if weight_decay != 0``), and they are the numbers in them (``-lr``). Running the rule
on symbols anew at every step is always right, and takes some ten microseconds. A rule that is
declared :func:`~optimlab.rule.pure` is traced with symbolic scalars as well (``scalar.py``):
its numbers become a compiled function, in which every operation of Python is the one that the rule
does, and which notices where the rule would go another way.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimlab.core.decorators import is_declared
from optimlab.core.program import Recorder
from optimlab.core.tracer import run_on_symbols
from optimlab.native.bytecode import INSTRUCTION_SIZE, Bytecode, assemble

if TYPE_CHECKING:
    from optimlab.core.batch import Stepped
    from optimlab.core.scalar import Compute
    from optimlab.native.launch import Launch

# They choose who executes a rule, also where the rule itself never asks: every step guards them.
FLAGS = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})

_SETTLED = frozenset({bool, int, float, str, type(None)})


@dataclass(frozen=True, slots=True)
class SpecialisedTrace:
    """The trace of a rule, specialised to the way that it went.

    Attributes:
        numbers: the bytecode.
        compute: writes the scalars of a step into a launch's code; tells whether the guards hold.
    """

    numbers: list[float]
    compute: Compute


def encode_rule(
    optimizer: Stepped, names: tuple[str, ...], step: float, group: dict[str, Any]
) -> Bytecode:
    """Trace a rule for one parameter and one step, and encode it.

    Args:
        optimizer: whose rule it is.
        names: the registers: ``param``, ``grad`` and state names.
        step: the step count.
        group: the hyperparameters.

    Raises:
        NotServedError: if the kernel does not know an operation, or a scalar is a tensor.
    """
    recorder = Recorder(listed=False, named=False)
    run_on_symbols(recorder, names, lambda *given: optimizer.update(*given, step, group))
    return assemble(recorder)


def specialise(optimizer: Stepped, launch: Launch) -> SpecialisedTrace | None:
    """Trace a rule once for all steps, beside the one for which it was just read.

    Returns:
        ``None`` if the rule has to be read at every step: it is not declared pure, a hyperparameter
        is of a kind that can change by itself, or other numbers come out than were read.
    """
    rule = None if "update" in optimizer.__dict__ else type(optimizer).update
    values = (value for name, value in launch.group.items() if name != "params")
    if not (_is_pure(rule) and all(map(_is_settled, values))):
        return None
    was_read = launch.code[: 1 + INSTRUCTION_SIZE * launch.record.length]
    try:
        recorder = Recorder(listed=False, named=False)
        scalars = recorder.scalars
        group, step = scalars.group(launch.group), scalars.step_count(launch.step)
        optimizer.state_spec.names(group)  # whose choice has to stay, too
        run_on_symbols(recorder, launch.names, lambda *given: optimizer.update(*given, step, group))
        bytecode = assemble(recorder)
        places = [(1 + place, number) for place, number in bytecode.symbolic]
        compute = scalars.compiled(places, guarded=FLAGS)
        code = array("d", [launch.step, *bytecode.numbers])
        agrees = compute(code, launch.group) and code.tobytes() == was_read.tobytes()
    except Exception:  # noqa: BLE001 - whatever it is, reading at every step meets it where it counts
        return None
    return SpecialisedTrace(bytecode.numbers, compute) if agrees else None


def _is_pure(rule: Any) -> bool:
    """Tell whether a rule itself is declared pure, and not one that it wraps.

    ``type`` tells a symbolic scalar from a number; a rule that asks it is read at every step.
    """
    code: Any = getattr(rule, "__code__", None)
    return code is not None and is_declared(rule, "pure") and "type" not in code.co_names


def _is_settled(value: Any) -> bool:
    """Tell whether a value stays what it is as long as it is the same object."""
    if type(value) is tuple:
        return all(map(_is_settled, value))
    return type(value) in _SETTLED
