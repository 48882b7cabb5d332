"""From a trace to bytecode: six numbers for each instruction of the kernel.

The numbers are an opcode, the registers of the result and of three operands, and a scalar. What the
kernel has no instruction for is refused, and carried out by ATen.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from typing import TYPE_CHECKING, Any

from optimlab.core.program import Recorder, Symbol
from optimlab.core.scalar import SymbolicScalar, is_symbolic, value_of

if TYPE_CHECKING:
    from optimlab.core.batch import Stepped


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

LARGEST_EXACT = 1 << 53
"""Up to here every integer is a float64."""

WEIGHT_OF_ONE = 1e-7
"""Within this of 1, a weight of ``lerp`` may be 1 in float32: ``end - (end - start) * (1 - 1)``."""

TEMPORARIES = 8
MOST_INPUTS = 16
MOST_INSTRUCTIONS = 64

# An operation without its trailing underscore: with registers only, and with a scalar in place of
# the second operand.
_OF_ONE = {
    "__neg__": Opcode.NEGATE,
    "neg": Opcode.NEGATE,
    "abs": Opcode.ABSOLUTE,
    "sign": Opcode.SIGN,
    "sqrt": Opcode.SQUARE_ROOT,
    "reciprocal": Opcode.RECIPROCAL,
    "clone": Opcode.COPY,
}
_OF_TWO = {
    "add": Opcode.ADD_SCALED,
    "mul": Opcode.MULTIPLY,
    "div": Opcode.DIVIDE,
    "maximum": Opcode.MAXIMUM,
}
_WITH_SCALAR = {
    "add": Opcode.ADD_SCALAR,
    "sub": Opcode.ADD_SCALAR,  # of the scalar's negative
    "mul": Opcode.MULTIPLY_SCALAR,
    "div": Opcode.DIVIDE_SCALAR,
    "divide": Opcode.DIVIDE_SCALAR,
}
_OF_THREE = {"addcmul": Opcode.ADD_PRODUCT, "addcdiv": Opcode.ADD_QUOTIENT}


class NotServedError(Exception):
    """A rule does something that the kernel has no instruction for."""


@dataclass(frozen=True, slots=True)
class Bytecode:
    """An encoded trace.

    Attributes:
        numbers: six for each instruction.
        symbolic: the places of scalars that depend on hyperparameters or the step count.
        registers: how many there are, inputs among them.
        inputs: how many of them are tensors.
    """

    numbers: list[float]
    symbolic: list[tuple[int, SymbolicScalar]]
    registers: int
    inputs: int

    @property
    def opcodes(self) -> Sequence[float]:
        """The instructions that the program takes, in its order."""
        return self.numbers[::INSTRUCTION_SIZE]

    def fits(self) -> bool:
        """Tell whether the kernel has the room for the program and its registers."""
        return (
            len(self.numbers) <= MOST_INSTRUCTIONS * INSTRUCTION_SIZE
            and self.registers - self.inputs <= TEMPORARIES
            and self.inputs <= MOST_INPUTS
        )


def trace(
    optimizer: Stepped,
    names: tuple[str, ...],
    step: float,
    group: dict[str, Any],
    *,
    symbolic: bool = False,
) -> Recorder:
    """Trace a rule for one parameter.

    Args:
        optimizer: whose rule it is.
        names: the registers: ``param``, ``grad`` and state names.
        step: the step count.
        group: the hyperparameters.
        symbolic: whether to trace what is done with the numbers, too.
    """
    recorder = Recorder(listed=False, named=False)
    state: dict[str, Any] = {name: recorder.input(name) for name in names}
    param, grad = state.pop("param"), state.pop("grad")
    if symbolic:
        group = recorder.scalars.group(group)
        count: Any = recorder.scalars.step_count(step)
        optimizer.state_spec.names(group)  # whose choice has to stay, too
        optimizer.update(param, grad, state, count, group)
    else:
        optimizer.update(param, grad, state, step, group)
    return recorder


def assemble(recorder: Recorder) -> Bytecode:
    """Encode a trace.

    Raises:
        NotServedError: if the kernel does not know an operation, or a scalar is a tensor.
    """
    registers = {id(symbol): place for place, symbol in enumerate(recorder.inputs)}
    numbers: list[float] = []
    symbolic: list[tuple[int, SymbolicScalar]] = []
    for operation, result, operands, keywords in recorder.lines:
        opcode, b, c, scalar = _instruction(operation, operands, keywords)
        if is_symbolic(scalar):
            symbolic.append((len(numbers) + INSTRUCTION_SIZE - 1, scalar))
        a = registers[id(operands[0])]
        target = registers.setdefault(id(result), len(registers))
        numbers += (
            opcode,
            target,
            a,
            a if b is None else registers[id(b)],
            a if c is None else registers[id(c)],
            value_of(scalar),
        )
    return Bytecode(numbers, symbolic, len(registers), len(recorder.inputs))


def _instruction(
    operation: str, operands: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Opcode, Symbol | None, Symbol | None, Any]:
    """Return opcode, second and third operand, and scalar of an operation."""
    name = operation if operation.endswith("__") else operation.removesuffix("_")
    match operands:
        case (_,) if name in _OF_ONE:
            return _OF_ONE[name], None, None, 0.0
        case (a,) if name == "square":
            return Opcode.MULTIPLY, a, None, 0.0
        case (_, Symbol() as b) if name in _OF_TWO:
            return _OF_TWO[name], b, None, _number(keywords.get("alpha", 1))
        case (_, scalar) if name in _WITH_SCALAR and not isinstance(scalar, Symbol):
            number = _number(scalar)
            return _WITH_SCALAR[name], None, None, -number if name == "sub" else number
        case (_, Symbol() as end, weight) if name == "lerp":
            if abs(_number(weight) - 1) < WEIGHT_OF_ONE:
                raise NotServedError("the sign of a zero depends on its place in ATen")
            return Opcode.LERP, end, None, weight
        case (_, Symbol() as b, Symbol() as c) if name in _OF_THREE:
            return _OF_THREE[name], b, c, _number(keywords.get("value", 1))
    raise NotServedError(f"the kernel has no {operation}")


def _number(scalar: Any) -> Any:
    """Return a scalar, if the kernel has the number that torch would make of it.

    Raises:
        NotServedError: for anything but a number, for one that torch refuses for float32, and for
            integers that a float64 cannot hold.
    """
    value = value_of(scalar)
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise NotServedError("a hyperparameter is a tensor, or no number")
    if isinstance(value, int) and abs(scalar) > LARGEST_EXACT:
        raise NotServedError("torch rounds an integer to the dtype of the tensor, and once only")
    if abs(value) > LARGEST_FLOAT and not isinf(value):
        raise NotServedError("torch refuses some numbers that float32 cannot hold")
    return scalar


def read(
    optimizer: Stepped, names: tuple[str, ...], step: float, group: dict[str, Any]
) -> Bytecode:
    """Trace a rule for one step, and encode it.

    Raises:
        NotServedError: if the kernel does not know an operation, or a scalar is a tensor.
    """
    return assemble(trace(optimizer, names, step, group))
