"""The fourth reading of a rule: encoded for the kernel, again at every step.

A :class:`Tape` records like :class:`optimlab.program.Recorder`, but writes six numbers for each
instruction (operation, result, three operands, one scalar) and nothing else. The rule is read anew
at every step, so that whatever Python computes from hyperparameters and step count is always right;
that costs a few microseconds for all tensors together.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from math import isinf
from typing import TYPE_CHECKING, Any

from optimlab.native.quantity import Quantity
from optimlab.program import Recorder, Symbol

if TYPE_CHECKING:
    from optimlab.optimizer import Optimizer


class Operation(enum.IntEnum):
    """The instructions of the kernel; the numbers are those of ``program.h``."""

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

LARGEST_FLOAT = 3.4028234663852886e38

LARGEST_EXACT = 1 << 53
"""Up to here every integer is a float64."""

WEIGHT_OF_ONE = 1e-7
"""Within this of 1, a weight of ``lerp`` may be 1 in float32: ``end - (end - start) * (1 - 1)``."""

TEMPORARIES = 8
MOST_INPUTS = 16
MOST_INSTRUCTIONS = 64


class NotServedError(Exception):
    """A rule does something that the kernel has no instruction for."""


class Slot(Symbol):
    """A symbol that knows the number of its register, and encodes its operations itself."""

    __slots__ = ("number", "tape")

    def __init__(self, tape: Tape, number: int) -> None:
        super().__init__(tape)
        self.tape = tape
        self.number = number

    def lerp_(self, end: Any, weight: Any) -> Slot:
        if isinstance(weight, float | int) and abs(weight - 1) < WEIGHT_OF_ONE:
            raise NotServedError("the sign of a zero depends on its place in ATen")
        return self.tape.encode(_LERP, True, self, end.number, self.number, weight)


class Tape(Recorder):
    """Encodes the instructions of a rule while symbols run through it.

    Attributes:
        numbers: the program so far.
        open: the places of numbers that are not known yet, and what they are computed from.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(listed=False)
        self.slots = {name: Slot(self, i) for i, name in enumerate(names)}
        self.numbers: list[float] = []
        self.open: list[tuple[int, Quantity]] = []
        self._inputs = self._registers = len(names)

    @property
    def used(self) -> list[float]:
        """The instructions that the program takes, in its order."""
        return self.numbers[::NUMBERS]

    def fits(self) -> bool:
        """Tell whether the kernel has the room for the program and its registers."""
        return (
            len(self.numbers) <= MOST_INSTRUCTIONS * NUMBERS
            and self._registers - self._inputs <= TEMPORARIES
            and self._inputs <= MOST_INPUTS
        )

    def write(self, operation: str, *operands: Any, **keywords: Any) -> Symbol:
        """Refuse an operation that no method of :class:`Slot` encodes.

        Raises:
            NotServedError: always.
        """
        raise NotServedError(f"the kernel has no {operation}")

    def encode(self, code: int, in_place: bool, a: Slot, b: int, c: int, scalar: Any) -> Slot:
        """Encode an instruction and return the slot of its result.

        Args:
            code: the instruction's number, see :class:`Operation`.
            in_place: whether it writes to ``a`` rather than to a new register.
            a: the first operand.
            b: the register of the second.
            c: the register of the third.
            scalar: its number.

        Raises:
            NotServedError: if the scalar is a tensor, or none that torch takes everywhere.
        """
        if type(scalar) is Quantity:
            self.open.append((len(self.numbers) + NUMBERS - 1, scalar))
            scalar = 0.0
        elif abs(_number(scalar)) > LARGEST_FLOAT and not isinf(scalar):
            raise NotServedError("torch refuses some numbers that float32 cannot hold")
        result = a
        if not in_place:
            result = Slot(self, self._registers)
            self._registers += 1
        self.numbers += (code, result.number, a.number, b, c, scalar)
        return result

    def read(self, optimizer: Optimizer, step: float, group: dict[str, Any]) -> None:
        """Let the rule run through; see :func:`read`."""
        state: dict[str, Any] = dict(self.slots)
        param, grad = state.pop("param"), state.pop("grad")
        optimizer.update(param, grad, state, step, group)
        self.slots = {}  # they hold the tape: a cycle that only the garbage collector would find


def read(optimizer: Optimizer, names: tuple[str, ...], step: float, group: dict[str, Any]) -> Tape:
    """Read a rule for one step.

    Args:
        optimizer: whose rule it is.
        names: the registers: ``param``, ``grad`` and state names.
        step: the step count.
        group: the hyperparameters.

    Raises:
        NotServedError: if the kernel does not know an operation, or a scalar is a tensor.
    """
    tape = Tape(names)
    tape.read(optimizer, step, group)
    return tape


def _number(scalar: Any) -> Any:
    """Return a scalar, if the kernel has the number that torch would make of it.

    Raises:
        NotServedError: for anything but a number, and for integers that a float64 cannot hold.
    """
    if not isinstance(scalar, float | int) or isinstance(scalar, bool):
        raise NotServedError("a hyperparameter is a tensor, or no number")
    if isinstance(scalar, int) and abs(scalar) > LARGEST_EXACT:
        raise NotServedError("torch rounds an integer to the dtype of the tensor, and once only")
    return scalar


def _of_one(operation: Operation, *, in_place: bool) -> Callable[..., Slot]:
    code = int(operation)

    def method(self: Slot) -> Slot:
        number = self.number
        return self.tape.encode(code, in_place, self, number, number, 0.0)

    return method


def _of_two(
    operation: Operation | None, with_scalar: Operation, *, in_place: bool, sign: int = 1
) -> Callable[..., Slot]:
    """Encode one instruction if the second operand is a register, another if it is a scalar."""
    code, code_with_scalar = operation and int(operation), int(with_scalar)

    def method(self: Slot, other: Any, *, alpha: Any = 1) -> Slot:
        number = self.number
        if type(other) is not Slot:
            scalar = other if sign > 0 else -_number(other)
            return self.tape.encode(code_with_scalar, in_place, self, number, number, scalar)
        if code is None:
            raise NotServedError("the kernel subtracts scalars only")
        return self.tape.encode(code, in_place, self, other.number, number, alpha)

    return method


def _of_three(operation: Operation, *, in_place: bool) -> Callable[..., Slot]:
    code = int(operation)

    def method(self: Slot, b: Slot, c: Slot, *, value: Any = 1) -> Slot:
        return self.tape.encode(code, in_place, self, b.number, c.number, value)

    return method


def _maximum(self: Slot, other: Slot) -> Slot:
    return self.tape.encode(int(Operation.MAXIMUM), True, self, other.number, self.number, 0.0)


def _square(self: Slot) -> Slot:
    number = self.number
    return self.tape.encode(int(Operation.MULTIPLY), False, self, number, number, 0.0)


_LERP = int(Operation.LERP)
_METHODS = {
    "__neg__": _of_one(Operation.NEGATE, in_place=False),
    "neg_": _of_one(Operation.NEGATE, in_place=True),
    "abs": _of_one(Operation.ABSOLUTE, in_place=False),
    "sign": _of_one(Operation.SIGN, in_place=False),
    "sign_": _of_one(Operation.SIGN, in_place=True),
    "sqrt": _of_one(Operation.SQUARE_ROOT, in_place=False),
    "sqrt_": _of_one(Operation.SQUARE_ROOT, in_place=True),
    "reciprocal_": _of_one(Operation.RECIPROCAL, in_place=True),
    "clone": _of_one(Operation.COPY, in_place=False),
    "square": _square,
    "add": _of_two(Operation.ADD_SCALED, Operation.ADD_SCALAR, in_place=False),
    "add_": _of_two(Operation.ADD_SCALED, Operation.ADD_SCALAR, in_place=True),
    "sub_": _of_two(None, Operation.ADD_SCALAR, in_place=True, sign=-1),
    "mul": _of_two(Operation.MULTIPLY, Operation.MULTIPLY_SCALAR, in_place=False),
    "mul_": _of_two(Operation.MULTIPLY, Operation.MULTIPLY_SCALAR, in_place=True),
    "div": _of_two(Operation.DIVIDE, Operation.DIVIDE_SCALAR, in_place=False),
    "div_": _of_two(Operation.DIVIDE, Operation.DIVIDE_SCALAR, in_place=True),
    "divide_": _of_two(None, Operation.DIVIDE_SCALAR, in_place=True),
    "addcmul": _of_three(Operation.ADD_PRODUCT, in_place=False),
    "addcmul_": _of_three(Operation.ADD_PRODUCT, in_place=True),
    "addcdiv_": _of_three(Operation.ADD_QUOTIENT, in_place=True),
    "maximum_": _maximum,
}
for _name, _method in _METHODS.items():
    setattr(Slot, _name, _method)
