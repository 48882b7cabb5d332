"""From a trace to bytecode: six numbers for each instruction of the kernel.

The numbers are an opcode, the registers of the result and of three operands, and a scalar. What the
kernel has no instruction for is refused, and executed by ATen.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from optimlab.core.program import LARGEST_EXACT, Recorder, Symbol
from optimlab.core.scalar import SymbolicScalar, value_of


class Opcode(enum.IntEnum):
    """The instructions of the kernel; the numbers are those of program.h."""

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


INSTRUCTION_SIZE = 6
"""How many numbers encode an instruction."""

LARGEST_FLOAT = 3.4028234663852886e38

WEIGHT_OF_ONE = 1e-7
"""Within this of 1, a weight of ``lerp`` may be 1 in float32: ``end - (end - start) * (1 - 1)``."""

TEMPORARIES = 8
MOST_INPUTS = 16
MOST_INSTRUCTIONS = 64

# By operation, without its trailing underscore, and number of tensors.
_WITHOUT_SCALAR = {
    ("__neg__", 1): Opcode.NEGATE,
    ("neg", 1): Opcode.NEGATE,
    ("abs", 1): Opcode.ABSOLUTE,
    ("sign", 1): Opcode.SIGN,
    ("sqrt", 1): Opcode.SQUARE_ROOT,
    ("reciprocal", 1): Opcode.RECIPROCAL,
    ("clone", 1): Opcode.COPY,
    ("square", 1): Opcode.MULTIPLY,
    ("mul", 2): Opcode.MULTIPLY,
    ("div", 2): Opcode.DIVIDE,
    ("maximum", 2): Opcode.MAXIMUM,
}
_WITH_SCALAR = {
    ("add", 1): Opcode.ADD_SCALAR,
    ("sub", 1): Opcode.ADD_SCALAR,  # of the scalar's negative
    ("mul", 1): Opcode.MULTIPLY_SCALAR,
    ("div", 1): Opcode.DIVIDE_SCALAR,
    ("divide", 1): Opcode.DIVIDE_SCALAR,
    ("add", 2): Opcode.ADD_SCALED,
    ("lerp", 2): Opcode.LERP,
    ("addcmul", 3): Opcode.ADD_PRODUCT,
    ("addcdiv", 3): Opcode.ADD_QUOTIENT,
}
SCALED = frozenset(_WITH_SCALAR.values())
"""The instructions that take a scalar."""

_NEEDS_A_NUMBER = (Opcode.ADD_SCALAR, Opcode.MULTIPLY_SCALAR, Opcode.DIVIDE_SCALAR, Opcode.LERP)
_LERP = Opcode.LERP
_ENCODED = {
    (name + end, tensors): (opcode, table is _WITH_SCALAR)
    for table in (_WITHOUT_SCALAR, _WITH_SCALAR)
    for (name, tensors), opcode in table.items()
    for end in ("", "_")
}


class NotServedError(Exception):
    """A rule does something that the kernel has no instruction for."""


@dataclass(frozen=True, slots=True)
class Bytecode:
    """An encoded trace.

    Attributes:
        numbers: six for each instruction.
        symbolic: the places of scalars that depend on hyperparameters or the step count.
    """

    numbers: list[float]
    symbolic: list[tuple[int, SymbolicScalar]]

    @property
    def opcodes(self) -> Sequence[float]:
        """The instructions that the program takes, in its order."""
        return self.numbers[::INSTRUCTION_SIZE]


def assemble(recorder: Recorder) -> Bytecode:
    """Encode a trace.

    Raises:
        NotServedError: if the kernel does not know an operation or has no room for the program, or
            a scalar is a tensor.
    """
    registers = {symbol: place for place, symbol in enumerate(recorder.inputs)}
    numbers: list[float] = []
    symbolic: list[tuple[int, SymbolicScalar]] = []
    for operation, result, given, keywords in recorder.lines:
        operands = (*given, *keywords.values()) if keywords else given
        tensors = [registers[each] for each in operands if type(each) is Symbol]
        opcode, is_scaled = _ENCODED.get((operation, len(tensors)), (None, False))
        if opcode is None or len(operands) - len(tensors) > is_scaled:
            raise NotServedError(f"the kernel has no {operation}")
        scalar = _scalar(opcode, operation, operands[len(tensors) :]) if is_scaled else 0.0
        first = tensors[0]
        tensors += (first, first)  # in place of the operands that it lacks
        numbers += (opcode, registers.setdefault(result, len(registers)), *tensors[:3])
        if type(scalar) is SymbolicScalar:
            symbolic.append((len(numbers), scalar))
            scalar = scalar.value
        numbers.append(scalar)
    inputs = len(recorder.inputs)
    if (
        len(numbers) > MOST_INSTRUCTIONS * INSTRUCTION_SIZE
        or len(registers) - inputs > TEMPORARIES
        or inputs > MOST_INPUTS
    ):
        raise NotServedError("the kernel has no room for so many instructions or tensors")
    return Bytecode(numbers, symbolic)


def _scalar(opcode: Opcode, operation: str, given: tuple[Any, ...]) -> Any:
    """Return the scalar of an operation, which comes last; most have 1 by default."""
    if not given:
        if opcode in _NEEDS_A_NUMBER:
            raise NotServedError(f"{operation} needs a number")
        return 1.0
    (scalar,) = given
    value = value_of(scalar)
    if type(value) is not float:
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise NotServedError("a hyperparameter is a tensor, or no number")
        if isinstance(value, int) and abs(scalar) > LARGEST_EXACT:
            raise NotServedError("torch rounds an integer to the tensor's dtype, and once only")
    if abs(value) > LARGEST_FLOAT and not isinf(value):
        raise NotServedError("torch refuses some numbers that float32 cannot hold")
    if opcode is _LERP and abs(scalar - 1) < WEIGHT_OF_ONE:
        raise NotServedError("the sign of a zero depends on its place in ATen")
    return -scalar if operation.startswith("sub") else scalar
