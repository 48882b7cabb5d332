"""The third reading of a rule: recorded as a program instead of carried out.

An update rule applied to :class:`Symbol` values writes its operations down. The result, a
:class:`Program`, is a short list of instructions (operation, operands, scalars) that can be

* printed: the rule with the numbers of one step and the formulas that they came from;
* run by :meth:`Program.run` with torch's own operations, to the bits of the rule itself;
* handed to any other machine that knows these operations and no optimizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeAlias

from torch import Tensor

from optimlab.core import values
from optimlab.core.scalar import Scalars, is_symbolic, value_of
from optimlab.core.tensor_list import Scalar, TensorList

Value: TypeAlias = Tensor | TensorList
"""What a program runs on: single tensors for a for-loop program, lists for a foreach one."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation of a program.

    Attributes:
        operation: the name of a ``Tensor`` method (``"lerp_"``), of a function of
            ``optimlab.core.values`` (``"maximum_"``, ``"as_real"``) or of a fused kernel of torch.
        result: the register written; the first operand's own if the operation is in place.
        operands: registers by name (``str``) and positional scalars.
        keywords: scalars given by keyword, such as ``alpha`` and ``value``.
    """

    operation: str
    result: str
    operands: tuple[str | Scalar | None, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_place(self) -> bool:
        """Whether the result overwrites the first operand."""
        return self.result == self.operands[0]

    def __str__(self) -> str:
        first, *rest = [_shown(operand) for operand in self.operands]
        rest += [f"{name}={_shown(value)}" for name, value in self.keywords.items()]
        if self.operation in _PREFIX_OPERATORS:
            code = _PREFIX_OPERATORS[self.operation].format(first, *rest)
        elif self.operation in _FUNCTIONS or self.operation.startswith("_fused_"):
            code = f"{self.operation}({', '.join([first, *rest])})"
        else:
            code = f"{first}.{self.operation}({', '.join(rest)})"
        return code if self.in_place else f"{self.result} = {code}"

    def formulas(self) -> list[str]:
        """Return the formulas behind the instruction's numbers, in order."""
        scalars = [*self.operands, *self.keywords.values()]
        return [scalar.text for scalar in scalars if is_symbolic(scalar)]


_PREFIX_OPERATORS = {
    "__neg__": "-{}",
    "__rpow__": "{1} ** {0}",
    "__rsub__": "{1} - {0}",
    "__rtruediv__": "{1} / {0}",
    "__truediv__": "{} / {}",
    "__mul__": "{} * {}",
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "as_real": values.as_real,
    "maximum_": values.maximum_,
    "divide_": values.divide_,
}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return repr(float(value_of(value))) if is_symbolic(value) else repr(value)


def _carry_out(instruction: Instruction, operands: Sequence[Any], keywords: Any) -> Any:
    if instruction.operation.startswith("_fused_"):
        return values.fused_kernel(instruction.operation, *operands, **keywords)
    function = _FUNCTIONS.get(instruction.operation)
    if function is None:
        function = getattr(type(operands[0]), instruction.operation)
    return function(*operands, **keywords)


@dataclass(frozen=True)
class Program:
    """The recorded instructions of one step of an update rule.

    Attributes:
        title: what was recorded.
        inputs: registers that hold tensors at the start: ``param``, ``grad``, state names, and
            ``step`` where the step count is a tensor.
        instructions: the operations, in order.
        outputs: ``param`` and state names, each with the register that holds it at the end.
        listed: whether this is torch's foreach arithmetic (``torch._foreach_*`` on lists)
            rather than the for-loop's.
    """

    title: str
    inputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    outputs: Mapping[str, str]
    listed: bool = False

    def run(self, inputs: Mapping[str, Value]) -> dict[str, Value]:
        """Carry the program out with torch's operations: the reference interpreter.

        Args:
            inputs: a tensor for each name in :attr:`inputs`, or a
                :class:`~optimlab.values.TensorList` for each if the program is :attr:`listed`.
                ``param`` and state are updated in place.

        Returns:
            dict: the tensors of :attr:`outputs` after the step.

        Raises:
            KeyError: if an input is missing.
        """
        registers: dict[str, Any] = {name: inputs[name] for name in self.inputs}
        for instruction in self.instructions:
            operands = [
                registers[operand] if isinstance(operand, str) else value_of(operand)
                for operand in instruction.operands
            ]
            keywords = {name: value_of(value) for name, value in instruction.keywords.items()}
            registers[instruction.result] = _carry_out(instruction, operands, keywords)
        return {name: registers[register] for name, register in self.outputs.items()}

    def __str__(self) -> str:
        lines = [str(instruction) for instruction in self.instructions]
        notes = [", ".join(instruction.formulas()) for instruction in self.instructions]
        width = max((len(line) for line in lines), default=0)
        body = [
            f"    {line:<{width}}  # {note}" if note else f"    {line}"
            for line, note in zip(lines, notes, strict=True)
        ]
        return "\n".join([f"{self.title}: {', '.join(self.inputs)}", *body])


class Recorder:
    """Collects the instructions of a rule while symbols run through it.

    Args:
        listed: whether the rule is to take the arithmetic of torch's foreach implementation.
        named: whether what the rule calls its intermediate values is of interest.

    Attributes:
        inputs: the symbols that hold tensors from the start.
        lines: operation, result, operands and keywords of each instruction.
        scalars: what is done with the numbers in between.
    """

    def __init__(self, *, listed: bool, named: bool = True) -> None:
        self.listed = listed
        self.inputs: list[Symbol] = []
        self.lines: list[tuple[str, Symbol, tuple[Any, ...], dict[str, Any]]] = []
        self.scalars = Scalars()
        self._named = named
        self._frames: dict[int, FrameType] = {}

    def input(self, name: str, *, is_complex: bool = False) -> Symbol:
        """Make a symbol that holds a tensor from the start of the program."""
        symbol = Symbol(self, name, is_complex=is_complex)
        self.inputs.append(symbol)
        return symbol

    def write(self, operation: str, *operands: Any, **keywords: Any) -> Symbol:
        """Write an operation down and return the symbol of its result."""
        first: Symbol = operands[0]
        in_place = operation.endswith("_") and not operation.endswith("__")
        is_complex = first.is_complex and operation != "as_real"
        result = first if in_place else Symbol(self, is_complex=is_complex)
        self.lines.append((operation, result, operands, keywords))
        if self._named:
            self._remember_names(sys._getframe(2))
        return result

    def _remember_names(self, frame: FrameType | None) -> None:
        # A frame keeps its local variables for as long as somebody holds it, so what the rule
        # called its intermediate values can be read once it has finished.
        while frame is not None and frame.f_globals["__name__"] in {__name__, values.__name__}:
            frame = frame.f_back
        if frame is not None:
            self._frames.setdefault(id(frame), frame)

    def program(self, title: str, outputs: Mapping[str, Symbol]) -> Program:
        """Name the registers and return the finished program."""
        names = self._register_names()

        def shown(value: Any) -> Any:
            return names[value] if isinstance(value, Symbol) else value

        return Program(
            title=title,
            inputs=tuple(names[symbol] for symbol in self.inputs),
            instructions=tuple(
                Instruction(
                    operation,
                    names[result],
                    tuple(shown(operand) for operand in operands),
                    {n: shown(value) for n, value in keywords.items() if not _is_default(n, value)},
                )
                for operation, result, operands, keywords in self.lines
            ),
            outputs={name: names[symbol] for name, symbol in outputs.items()},
            listed=self.listed,
        )

    def _register_names(self) -> dict[Symbol, str]:
        wanted = {symbol: symbol.name for symbol in self.inputs}
        for frame in self._frames.values():
            for name, value in frame.f_locals.items():
                if isinstance(value, Symbol):
                    wanted.setdefault(value, name)
        names: dict[Symbol, str] = {}
        taken: set[str] = set()
        results = [result for _, result, _, _ in self.lines]
        for symbol in [*self.inputs, *results]:
            if symbol not in names:
                names[symbol] = _unused(wanted.get(symbol, "value"), taken)
        return names


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


class Symbol:
    """Stands for a tensor of any size while a rule is recorded.

    The operations are those of :class:`~optimlab.values.TensorList`, and the operators that
    rules use on tensor step counts.

    Attributes:
        recorder: where operations are written down.
        name: of an input.
        is_complex: whether the rule has still to view it as pairs of real numbers.
    """

    __slots__ = ("is_complex", "name", "recorder")

    def __init__(self, recorder: Recorder, name: str = "", *, is_complex: bool = False) -> None:
        self.recorder = recorder
        self.name = name
        self.is_complex = is_complex

    def as_real(self) -> Symbol:
        return self.recorder.write("as_real", self) if self.is_complex else self

    def detach(self) -> Symbol:
        return self

    # One operand.

    def __neg__(self) -> Symbol:
        return self.recorder.write("__neg__", self)

    def neg_(self) -> Symbol:
        return self.recorder.write("neg_", self)

    def sqrt(self) -> Symbol:
        return self.recorder.write("sqrt", self)

    def sqrt_(self) -> Symbol:
        return self.recorder.write("sqrt_", self)

    def reciprocal_(self) -> Symbol:
        return self.recorder.write("reciprocal_", self)

    def abs(self) -> Symbol:
        return self.recorder.write("abs", self)

    def sign(self) -> Symbol:
        return self.recorder.write("sign", self)

    def sign_(self) -> Symbol:
        return self.recorder.write("sign_", self)

    def square(self) -> Symbol:
        return self.recorder.write("square", self)

    def clone(self) -> Symbol:
        return self.recorder.write("clone", self)

    # Two operands.

    def add(self, other: Symbol, *, alpha: Scalar = 1) -> Symbol:
        return self.recorder.write("add", self, other, alpha=alpha)

    def add_(self, other: Symbol | Scalar, *, alpha: Scalar = 1) -> Symbol:
        return self.recorder.write("add_", self, other, alpha=alpha)

    def sub_(self, other: Scalar) -> Symbol:
        return self.recorder.write("sub_", self, other)

    def mul(self, other: Symbol | Scalar) -> Symbol:
        return self.recorder.write("mul", self, other)

    def mul_(self, other: Symbol | Scalar) -> Symbol:
        return self.recorder.write("mul_", self, other)

    def div(self, other: Symbol | Scalar) -> Symbol:
        return self.recorder.write("div", self, other)

    def div_(self, other: Symbol | Scalar) -> Symbol:
        return self.recorder.write("div_", self, other)

    def divide_(self, other: Scalar) -> Symbol:
        return self.recorder.write("divide_", self, other)

    def maximum_(self, other: Symbol) -> Symbol:
        return self.recorder.write("maximum_", self, other)

    def __mul__(self, other: Symbol | Scalar) -> Symbol:
        return self.recorder.write("__mul__", self, other)

    def __truediv__(self, other: Symbol | Scalar) -> Symbol:
        return self.recorder.write("__truediv__", self, other)

    def __rsub__(self, other: Scalar) -> Symbol:
        return self.recorder.write("__rsub__", self, other)

    def __rtruediv__(self, other: Scalar) -> Symbol:
        return self.recorder.write("__rtruediv__", self, other)

    def __rpow__(self, base: Scalar) -> Symbol:
        return self.recorder.write("__rpow__", self, base)

    # Three operands.

    def lerp_(self, end: Symbol, weight: Scalar) -> Symbol:
        return self.recorder.write("lerp_", self, end, weight)

    def addcmul(self, a: Symbol, b: Symbol, *, value: float = 1) -> Symbol:
        return self.recorder.write("addcmul", self, a, b, value=value)

    def addcmul_(self, a: Symbol, b: Symbol, *, value: Scalar = 1) -> Symbol:
        return self.recorder.write("addcmul_", self, a, b, value=value)

    def addcdiv_(self, a: Symbol, b: Symbol, *, value: Scalar = 1) -> Symbol:
        return self.recorder.write("addcdiv_", self, a, b, value=value)


def _is_default(name: str, value: Any) -> bool:
    """Tell whether a keyword was not given; a formula that happens to equal 1 was."""
    return name in ("alpha", "value") and type(value) is int and value == 1
