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
from collections.abc import Callable, Sequence
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

from optimlab.native.quantity import Script
from optimlab.native.tape import LARGEST_FLOAT, Tape

if TYPE_CHECKING:
    from optimlab.optimizer import Optimizer

# They choose who carries a rule out, also where the rule itself never asks.
_FLAGS = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})

_SETTLED = frozenset({bool, int, float, str, type(None)})


class Formulas:
    """The program of a rule, with its numbers as formulas.

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
        self._size = len(group)
        self._fixed = _several([name for name in group if name not in open_names])
        self._fixed_values = self._fixed(group)
        self._open = _several(open_names)
        self._open_values = self._open(group)
        self._places = [place for place, _ in tape.open]
        self._compute = script.compiled([quantity for _, quantity in tape.open])
        self._program = array("d", tape.numbers)

    def hold(self, optimizer: Optimizer, group: dict[str, Any]) -> bool:
        """Tell whether all is as it was read, but for the numbers that it was read for.

        Those are taken up for the coming step.
        """
        try:
            self._open_values = self._open(group)
            return (
                group is self._group
                and len(group) == self._size
                and all(map(is_, self._fixed(group), self._fixed_values))
                and all([type(value) is float for value in self._open_values])  # noqa: C419
                and _rule_of(optimizer) is self._rule
            )
        except KeyError:
            return False

    def program(self, step: float) -> array[float] | None:
        """Compute the numbers of a step; ``None`` if the rule has to be read for it."""
        try:
            found = self._compute(step, *self._open_values)
            # Not for infinity and NaN either, about which reading decides.
            if found and not (max(found) <= LARGEST_FLOAT and min(found) >= -LARGEST_FLOAT):
                return None
        except (ArithmeticError, TypeError):  # the rule will raise the error, if it is one
            return None
        program = self._program[:]
        for place, number in zip(self._places, found, strict=True):
            program[place] = number
        return program


def learn(
    optimizer: Optimizer,
    group: dict[str, Any],
    names: tuple[str, ...],
    step: float,
    program: array[float],
) -> Formulas | None:
    """Read a rule on quantities.

    Args:
        optimizer: whose rule it is.
        group: the hyperparameters.
        names: the registers: ``param``, ``grad`` and state names.
        step: a step count.
        program: what reading the rule for that step gives, with which the formulas must agree.

    Returns:
        ``None`` if the rule has to be read at every step: it is not declared pure, the step count
        chooses what it does, or a hyperparameter is of a kind that can change by itself.
    """
    settled = all(_is_settled(value) for name, value in group.items() if name != "params")
    if not (settled and _is_pure(_rule_of(optimizer))):
        return None
    open_names = [n for n, value in group.items() if type(value) is float and n not in _FLAGS]
    while True:
        script = Script()
        step_count: Any = script.quantity("step")
        quantities = {name: script.quantity(name) for name in open_names}
        tape = _read(optimizer, names, step_count, {**group, **quantities})
        if not script.refused:
            break
        if "step" in script.refused:
            return None
        open_names = [name for name in open_names if name not in script.refused]
    if tape is None:
        return None
    formulas = Formulas(optimizer, group, open_names, tape, script)
    computed = formulas.program(step)
    agree = computed is not None and computed.tobytes() == program.tobytes()
    return formulas if agree else None


def _read(
    optimizer: Optimizer, names: tuple[str, ...], step: Any, hyperparameters: dict[str, Any]
) -> Tape | None:
    tape = Tape(names)
    try:
        tape.read(optimizer, step, hyperparameters)
    except Exception:  # noqa: BLE001 - whatever it is, reading at every step meets it where it counts
        return None
    return tape


def _rule_of(optimizer: Optimizer) -> Any:
    return getattr(optimizer.update, "__func__", None)


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


def _several(names: Sequence[str]) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """Return a function that takes several values out of a dict, in a tuple also if it is one."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda group: tuple(group[name] for name in names)
