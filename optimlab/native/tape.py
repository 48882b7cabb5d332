"""The fourth reading of a rule: encoded for the native machine, again at every step.

A :class:`Tape` records like :class:`optimlab.program.Recorder`, but writes six numbers for each
instruction (operation, result, three operands, one scalar) and nothing else. The rule is read anew
at every step, so that whatever Python computes from hyperparameters and step count is always right;
that costs a few microseconds for all tensors together.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from optimlab.program import Recorder, Symbol

if TYPE_CHECKING:
    from optimlab.optimizer import Optimizer


class Operation(enum.IntEnum):
    """The instructions of the machine; the numbers are those of ``machine.c``."""

    COPY = 0
    NEGATE = 1
    ABSOLUTE = 2
    SIGN = 3
    SQUARE_ROOT = 4
    RECIPROCAL = 5
    ADD_SCALED = 6
    ADD_SCALAR = 7
    MULTIPLY_SCALAR = 8
    MULTIPLY = 9
    DIVIDE_SCALAR = 10
    DIVIDE = 11
    LERP = 12
    ADD_PRODUCT = 13
    ADD_QUOTIENT = 14
    MAXIMUM = 15


NUMBERS = 6
"""How many numbers encode an instruction."""

WEIGHT_OF_ONE = 1e-7
"""Within this of 1, a weight of ``lerp`` may be 1 in float32: ``end - (end - start) * (1 - 1)``."""

TEMPORARIES = 8
MOST_INPUTS = 16
MOST_INSTRUCTIONS = 64


class NotServedError(Exception):
    """A rule does something that the machine has no instruction for."""


class Slot(Symbol):
    """A symbol that knows the number of its register."""

    __slots__ = ("number",)

    def __init__(self, tape: Tape, number: int) -> None:
        super().__init__(tape)
        self.number = number


class Tape(Recorder):
    """Encodes the instructions of a rule while symbols run through it.

    Attributes:
        numbers: the program so far.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(listed=False)
        self.slots = {name: Slot(self, i) for i, name in enumerate(names)}
        self.numbers: list[float] = []
        self._registers = len(names)

    @property
    def used(self) -> frozenset[int]:
        """The instructions that the program takes."""
        return frozenset(map(int, self.numbers[::NUMBERS]))

    def fits(self) -> bool:
        """Tell whether the machine has the room for the program and its registers."""
        return (
            len(self.numbers) <= MOST_INSTRUCTIONS * NUMBERS
            and self._registers - len(self.slots) <= TEMPORARIES
            and len(self.slots) <= MOST_INPUTS
        )

    def write(self, operation: str, *operands: Any, **keywords: Any) -> Symbol:
        """Encode an operation and return the symbol of its result.

        Raises:
            NotServedError: if the machine does not know the operation, or a scalar is a tensor.
        """
        kind = _KINDS.get(operation)
        if kind is None:
            raise NotServedError(f"the machine has no {operation}")
        code, in_place = kind
        first = operands[0]
        result = first
        if not in_place:
            result = Slot(self, self._registers)
            self._registers += 1
        a = b = c = first.number
        scalar = 0.0
        if len(operands) > 1:
            second = operands[1]
            if type(second) is Slot:
                b = second.number
                if code == _ADD:
                    code, scalar = Operation.ADD_SCALED, keywords["alpha"]
                elif code == _MULTIPLY:
                    code = Operation.MULTIPLY
                elif code == _DIVIDE:
                    code = Operation.DIVIDE
                elif code == Operation.LERP:
                    scalar = operands[2]
                    if isinstance(scalar, float) and abs(scalar - 1) < WEIGHT_OF_ONE:
                        raise NotServedError("the sign of a zero depends on its place in ATen")
                elif code != Operation.MAXIMUM:
                    c, scalar = operands[2].number, keywords["value"]
            else:
                scalar = -second if code == _SUBTRACT else second
                code = _WITH_SCALAR[code]
        elif operation == "square":
            code = Operation.MULTIPLY
        if not isinstance(scalar, float | int):
            raise NotServedError("a hyperparameter is a tensor")
        self.numbers += (code, result.number, a, b, c, scalar)
        return result  # type: ignore[no-any-return]


def read(optimizer: Optimizer, names: tuple[str, ...], step: float, group: dict[str, Any]) -> Tape:
    """Read a rule for one step.

    Args:
        optimizer: whose rule it is.
        names: the registers: ``param``, ``grad`` and state names.
        step: the step count.
        group: the hyperparameters.

    Raises:
        NotServedError: if the machine does not know an operation, or a scalar is a tensor.
    """
    tape = Tape(names)
    state: dict[str, Any] = dict(tape.slots)
    param, grad = state.pop("param"), state.pop("grad")
    optimizer.update(param, grad, state, step, group)
    return tape


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE = 100, 101, 102, 103  # decided by what the second operand is
_WITH_SCALAR = {
    _ADD: Operation.ADD_SCALAR,
    _SUBTRACT: Operation.ADD_SCALAR,
    _MULTIPLY: Operation.MULTIPLY_SCALAR,
    _DIVIDE: Operation.DIVIDE_SCALAR,
}
_KINDS: dict[str, tuple[int, bool]] = {
    "__neg__": (Operation.NEGATE, False),
    "neg_": (Operation.NEGATE, True),
    "abs": (Operation.ABSOLUTE, False),
    "sign": (Operation.SIGN, False),
    "sign_": (Operation.SIGN, True),
    "sqrt": (Operation.SQUARE_ROOT, False),
    "sqrt_": (Operation.SQUARE_ROOT, True),
    "square": (Operation.MULTIPLY, False),
    "reciprocal_": (Operation.RECIPROCAL, True),
    "clone": (Operation.COPY, False),
    "add": (_ADD, False),
    "add_": (_ADD, True),
    "sub_": (_SUBTRACT, True),
    "mul": (_MULTIPLY, False),
    "mul_": (_MULTIPLY, True),
    "div": (_DIVIDE, False),
    "div_": (_DIVIDE, True),
    "divide_": (_DIVIDE, True),
    "lerp_": (Operation.LERP, True),
    "addcmul": (Operation.ADD_PRODUCT, False),
    "addcmul_": (Operation.ADD_PRODUCT, True),
    "addcdiv_": (Operation.ADD_QUOTIENT, True),
    "maximum_": (Operation.MAXIMUM, True),
}
_KINDS = {name: (int(code), in_place) for name, (code, in_place) in _KINDS.items()}
