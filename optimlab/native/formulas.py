"""A rule that was read once, and whose numbers are computed for other steps without reading it.

What a rule does depends on hyperparameters and step count in two ways: they choose which operations
there are (``if weight_decay != 0``), and they are the numbers in them (``-lr``). Reading the rule
anew at every step is always right, and takes several microseconds. A rule that is declared
:func:`~optimlab.optimizer.pure` is read on quantities in place of numbers. Those that it only
computes with become arguments of a compiled expression, in which every operation of Python is
the one that the rule does; those that it compares or converts have to stay as they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optimlab.native.bytecode import NUMBERS, Tape
from optimlab.native.guards import ANY_FLOAT, Identity
from optimlab.native.quantity import Script

if TYPE_CHECKING:
    from optimlab.native.launch import Launch
    from optimlab.native.library import Kernel
    from optimlab.optimizer import Optimizer

# They choose who carries a rule out, also where the rule itself never asks.
FLAGS = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})

_SETTLED = frozenset({bool, int, float, str, type(None)})


class Formulas:
    """The scalars of a rule's program as formulas.

    Args:
        optimizer: whose rule it is.
        group: the hyperparameters with which it was read.
        open_names: the hyperparameters that it only computes with.
        tape: what was read on quantities of the step count and of these names.
        script: their arithmetic.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        group: dict[str, Any],
        open_names: Sequence[str],
        tape: Tape,
        script: Script,
    ) -> None:
        self._rule = _rule_of(optimizer)
        self._group = group
        self._identity = Identity([(group, lambda name: ANY_FLOAT if name in open_names else None)])
        places = {1 + place: quantity for place, quantity in tape.open}
        self._compute = script.compiled(places)
        self.program = tape.numbers

    def hold(self, kernel: Kernel, optimizer: Optimizer) -> bool:
        """Tell whether all is as it was read, but for the numbers that it was read for."""
        return kernel.stayed(self._identity) and _rule_of(optimizer) is self._rule

    def compute(self, code: array[float], step: float) -> bool:
        """Write the numbers of a step into a launch's code; tell whether that is all it takes.

        Where it is not, the rule has to be read: it may be an error, which the rule will raise.
        """
        try:
            self._compute(code, step, self._group)
        except (ArithmeticError, TypeError, KeyError):
            return False
        return True


def learn(optimizer: Optimizer, group: dict[str, Any], launch: Launch) -> Formulas | None:
    """Read a rule on quantities.

    Args:
        optimizer: whose rule it is.
        group: the hyperparameters.
        launch: what was run last, with whose numbers the formulas must agree.

    Returns:
        ``None`` if the rule has to be read at every step: it is not declared pure, the step count
        chooses what it does, or a hyperparameter is of a kind that can change by itself.
    """
    settled = all(_is_settled(value) for name, value in group.items() if name != "params")
    if not (settled and _is_pure(_rule_of(optimizer))):
        return None
    open_names = [n for n, value in group.items() if type(value) is float and n not in FLAGS]
    while True:
        script = Script()
        step_count: Any = script.step_count()
        quantities = {name: script.quantity(name) for name in open_names}
        tape = _read(optimizer, launch.names, step_count, {**group, **quantities})
        if not script.refused:
            break
        if "step" in script.refused:
            return None
        open_names = [name for name in open_names if name not in script.refused]
    if tape is None:
        return None
    formulas = Formulas(optimizer, group, open_names, tape, script)
    run = launch.code[: 1 + NUMBERS * launch.record.length]
    code = array("d", [0.0, *tape.numbers])
    agree = formulas.compute(code, run[0]) and code.tobytes() == run.tobytes()
    return formulas if agree else None


def _read(
    optimizer: Optimizer, names: tuple[str, ...], step: Any, hyperparameters: dict[str, Any]
) -> Tape | None:
    tape = Tape(names)
    try:
        kept = ("param", "grad", *optimizer.state_names(hyperparameters))
        tape.read(optimizer, step, hyperparameters)
    except Exception:  # noqa: BLE001 - whatever it is, reading at every step meets it where it counts
        return None
    return tape if kept == names else None


def _rule_of(optimizer: Optimizer) -> Any:
    return None if "update" in optimizer.__dict__ else type(optimizer).update


def _is_pure(rule: Any) -> bool:
    """Tell whether a rule itself is declared pure, and not one that it wraps.

    ``type`` tells a quantity from a number; a rule that asks it is read at every step.
    """
    code: Any = getattr(rule, "__code__", None)
    is_declared = code is not None and getattr(rule, "declared_pure", None) is rule
    return is_declared and "type" not in code.co_names


def _is_settled(value: Any) -> bool:
    """Tell whether a value stays what it is as long as it is the same object."""
    if type(value) is tuple:
        return all(map(_is_settled, value))
    return type(value) in _SETTLED
