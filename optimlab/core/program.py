"""The third reading of a rule: traced as a program instead of executed.

An update rule applied to :class:`Symbol` values writes its operations down: that is its trace. The
result, a :class:`Program`, is a short list of instructions (operation, operands, scalars) that can
be

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

LARGEST_EXACT = 1 << 53
"""Up to here every integer is a float64."""

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
    if not is_symbolic(value):
        return repr(value)
    number = value_of(value)
    is_exact = isinstance(number, float) or abs(number) <= LARGEST_EXACT
    return repr(float(number) if is_exact else number)


def _execute(instruction: Instruction, operands: Sequence[Any], keywords: Any) -> Any:
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
            registers[instruction.result] = _execute(instruction, operands, keywords)
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
        self.named = named
        self._frames: dict[int, FrameType] = {}

    def input(self, name: str, *, is_complex: bool = False) -> Symbol:
        """Make a symbol that holds a tensor from the start of the program."""
        symbol = Symbol(self, name, is_complex=is_complex)
        self.inputs.append(symbol)
        return symbol

    def write(self, operation: str, *operands: Any, **keywords: Any) -> Symbol:
        """Write an operation down and return the symbol of its result."""
        return _written(operation)(*operands, **keywords)

    def remember_names(self, frame: FrameType | None) -> None:
        """Note who runs the rule."""
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
                    {name: shown(value) for name, value in keywords.items()},
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
                names[symbol] = unique_name(wanted.get(symbol, "value"), taken)
        return names


def unique_name(wanted: str, taken: set[str]) -> str:
    """Return a name for a register, with a number where others have taken it; take it."""
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def _written(operation: str, *positional: str) -> Callable[..., Symbol]:
    """Return the method of a symbol that writes an operation down."""
    in_place = operation.endswith("_") and not operation.endswith("__")

    def write(self: Symbol, *operands: Any, **keywords: Any) -> Symbol:
        if len(operands) < len(positional):  # they are given by keyword
            names = positional[len(operands) :]
            operands += tuple(keywords.pop(name) for name in names if name in keywords)
        recorder, result = self.recorder, self
        if not in_place:
            result = Symbol(recorder)
            result.is_complex = self.is_complex and operation != "as_real"
        recorder.lines.append((operation, result, (self, *operands), keywords))
        if recorder.named:
            recorder.remember_names(sys._getframe(1))
        return result

    return write


class Symbol:
    """Stands for a tensor of any size while a rule is traced: its methods write themselves down.

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
    __neg__, neg_ = _written("__neg__"), _written("neg_")
    sqrt, sqrt_, reciprocal_ = _written("sqrt"), _written("sqrt_"), _written("reciprocal_")
    abs, sign, sign_ = _written("abs"), _written("sign"), _written("sign_")
    square, clone = _written("square"), _written("clone")
    # Two operands, the second a symbol or a scalar.
    add, add_ = _written("add", "other"), _written("add_", "other")
    sub_, divide_ = _written("sub_", "other"), _written("divide_", "other")
    mul, mul_ = _written("mul", "other"), _written("mul_", "other")
    div, div_ = _written("div", "other"), _written("div_", "other")
    maximum_, __rpow__ = _written("maximum_", "other"), _written("__rpow__")
    __mul__, __truediv__ = _written("__mul__"), _written("__truediv__")
    __rsub__, __rtruediv__ = _written("__rsub__"), _written("__rtruediv__")
    # Three operands.
    lerp_, addcdiv_ = _written("lerp_", "end", "weight"), _written("addcdiv_")
    addcmul, addcmul_ = _written("addcmul"), _written("addcmul_")
