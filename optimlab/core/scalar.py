"""Numbers that remember how they were computed, and under which conditions they are right.

An update rule computes two kinds of things: tensors, and the numbers in between, such as
``lr / (1 - beta1**step)``. While a rule is traced, tensors are symbols of ``program.py``, and
hyperparameters and the step count are :class:`SymbolicScalar` values: they have the value that they
have, and write down what is done with them.

* **Arithmetic** gives another symbolic scalar: an expression of hyperparameters and step count.
* **A comparison** gives its answer, and leaves a *guard*: the trace is right as long as the answer
  stays the same. ``if weight_decay != 0`` so becomes part of the trace.
* **A conversion** (``int``, ``math.sqrt``, an index, a format) needs the value itself: the guard
  says that it has to stay.

What was traced once is then good for all steps and hyperparameters for which the guards hold, and
:meth:`Scalars.compiled` computes its numbers for them: by the very operations of Python that the
rule did, in their order, those whose result was not used among them, because they may be errors.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias, cast

from torch import Tensor

Compute: TypeAlias = Callable[[Any, Mapping[str, Any]], bool]
"""Writes the numbers of a program into an array; ``False`` if a guard does not hold."""

LONGEST_TEXT = 400
"""In characters; an expression whose text is longer is shown as the number that it is."""

_ATOM = 9


class Scalars:
    """What was done with the scalars of a trace, line by line in the order of the rule."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._loads: list[tuple[list[str], list[str]]] = []  # what takes registers from the group
        self._fixed: dict[str, Any] = {}  # hyperparameters that are not floats
        self._used: set[str] = set()

    def group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return a parameter group with symbols in place of its numbers.

        The members of a tuple are called by its singular: ``betas`` gives ``beta1`` and ``beta2``.
        """
        return {
            name: value if name == "params" else self._hyperparameter(name, value)
            for name, value in group.items()
        }

    def step_count(self, value: float) -> SymbolicScalar:
        """Return the symbol of the step count."""
        return SymbolicScalar(self, value, "step", "step", _ATOM)

    def _hyperparameter(self, name: str, value: Any) -> Any:
        is_tuple = type(value) is tuple
        members = value if is_tuple else (value,)
        first = sum(len(registers) for registers, _ in self._loads)
        registers = [f"h{first + i}" for i in range(len(members))]
        target, source = ", ".join(registers), f"group[{name!r}]"
        load = [f"{target} = {source}"]
        if is_tuple:
            kind = f"type(values) is tuple and len(values) == {len(value)}"
            load = [f"values = {source}", f"if not ({kind}): return False", f"{target}, = values"]
        if set(map(type, members)) == {float}:
            kinds = " and ".join(f"type({register}) is float" for register in registers)
            load.append(f"if not ({kinds}): return False")
        else:
            self._fixed[name] = value
        self._loads.append((registers, load))
        stem = name.removesuffix("s")
        symbols = tuple(
            SymbolicScalar(self, member, register, f"{stem}{i}" if is_tuple else name, _ATOM)
            if type(member) in (float, int)
            else member
            for i, (member, register) in enumerate(zip(members, registers, strict=True), start=1)
        )
        return symbols if is_tuple else symbols[0]

    def register(self, number: Any) -> str:
        """Return what a number is called in the lines."""
        if type(number) is not SymbolicScalar:
            return f"({number!r})"
        self._used.add(number.register)
        return number.register

    def write(self, value: Any, expression: str, text: str, precedence: int) -> SymbolicScalar:
        """Write an operation down and return the symbol of its result."""
        register = f"x{len(self._lines)}"
        self._lines.append(f"{register} = {expression}")
        return SymbolicScalar(self, value, register, text, precedence)

    def guard(self, condition: str) -> None:
        """Write down what has to be true for the trace to be right."""
        line = f"if not ({condition}): return False"
        if line not in self._lines:  # the same comparison again, as rules do
            self._lines.append(line)

    def compiled(
        self, numbers: Iterable[tuple[int, SymbolicScalar]], guarded: Container[str] = ()
    ) -> Compute:
        """Compile a function that writes numbers into an array, at whose beginning the step stands.

        Args:
            numbers: each with its place in the array.
            guarded: hyperparameters that somebody else guards.

        Returns:
            A function of the array and the parameter group. It returns whether the guards hold, and
            raises what the rule's own arithmetic raises. Hyperparameters must be floats, or tuples
            of floats, where they were, and anything else the same object as before.
        """
        fixed = [name for name in self._fixed if name not in guarded]
        same = [f"if group[{name!r}] is not f{i}: return False" for i, name in enumerate(fixed)]
        stores = [f"code[{place}] = {self.register(number)}" for place, number in numbers]
        used = (load for registers, load in self._loads if not self._used.isdisjoint(registers))
        loads = [*chain.from_iterable(used), "step = code[0]"]
        lines = [*same, *loads, *self._lines, *stores, "return True"]
        defined: dict[str, Any] = {"inf": math.inf, "nan": math.nan}
        defined.update({f"f{i}": self._fixed[name] for i, name in enumerate(fixed)})
        exec("\n    ".join(["def compute(code, group):", *lines]), defined)
        return cast(Compute, defined.pop("compute"))


class SymbolicScalar:
    """A float or an int that remembers its expression; to a rule it is the number.

    Args:
        scalars: where operations and guards are written down.
        value: the number.
        register: what it is called there.
        text: its expression, in the names of hyperparameters.
        precedence: how tightly the outermost operator of the text binds.
    """

    __slots__ = ("precedence", "register", "scalars", "text", "value")

    def __init__(
        self, scalars: Scalars, value: Any, register: str, text: str, precedence: int
    ) -> None:
        self.scalars = scalars
        self.value = value
        self.register = register
        self.text = text
        self.precedence = precedence

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        self.scalars.register(self)  # a rule that asks depends on the kind of number
        return type(self.value)

    def pinned(self) -> Any:
        """Return the value itself; the trace is right only as long as it stays."""
        value, register = self.value, self.scalars.register(self)
        is_float = type(value) is float  # of which 0.0 and -0.0 are equal, and NaN is not
        same = f"{register}.hex() == {value.hex()!r}" if is_float else f"{register} == {value!r}"
        self.scalars.guard(same)
        return value

    def tested(self, symbol: str, other: Any) -> Any:
        """Compare with another number; the trace is right only as long as the answer stays."""
        if type(other) is not SymbolicScalar and type(other) not in (float, int):
            return _COMPARISONS[symbol](self.pinned(), other)
        answer = _COMPARISONS[symbol](self.value, value_of(other))
        register = self.scalars.register
        self.scalars.guard(f"({register(self)} {symbol} {register(other)}) is {answer}")
        return answer

    def combined(self, symbol: str, other: Any, *, reflected: bool) -> Any:
        """Write an operation with another number down."""
        function, precedence = _ARITHMETIC[symbol]
        if type(other) is not SymbolicScalar and type(other) not in (float, int):
            if not isinstance(other, float | int | Tensor):
                return NotImplemented
            own = self.pinned()  # the result is a tensor, or a number of another kind
            return function(other, own) if reflected else function(own, other)
        a, b = (other, self) if reflected else (self, other)
        try:
            value = function(value_of(a), value_of(b))
        except ArithmeticError:
            value = None
        if type(value) not in (float, int):  # a complex number, or an error, which a rule may catch
            return function(*(n.pinned() if type(n) is SymbolicScalar else n for n in (a, b)))
        # a - (b - c) and a / (b / c) need their parentheses, and so does (a ** b) ** c.
        of_power = symbol == "**"
        left, right = (precedence + 1, precedence) if of_power else (precedence, precedence + 1)
        space = "" if of_power else " "
        text = f"{_text(a, left)}{space}{symbol}{space}{_text(b, right)}"
        if len(text) > LONGEST_TEXT:
            text, precedence = repr(value), _ATOM
        register = self.scalars.register
        expression = f"{register(a)} {symbol} {register(b)}"
        return self.scalars.write(value, expression, text, precedence)

    def __bool__(self) -> bool:
        return bool(self.tested("!=", 0))

    def __neg__(self) -> SymbolicScalar:
        expression, text = f"-{self.scalars.register(self)}", f"-{_text(self, 3)}"
        return self.scalars.write(-self.value, expression, text, 3)

    def __abs__(self) -> SymbolicScalar:
        expression, text = f"abs({self.scalars.register(self)})", f"abs({self.text})"
        return self.scalars.write(abs(self.value), expression, text, _ATOM)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pinned(), name)


def value_of(number: Any) -> Any:
    """Return the number that a symbolic scalar stands for; anything else is returned as it is."""
    return number.value if type(number) is SymbolicScalar else number


def is_symbolic(number: object) -> bool:
    """Tell whether a number remembers its expression."""
    return type(number) is SymbolicScalar


def _text(number: Any, precedence: int) -> str:
    if type(number) is not SymbolicScalar:
        return repr(number)
    return number.text if number.precedence >= precedence else f"({number.text})"


_ARITHMETIC: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "+": (operator.add, 1),
    "-": (operator.sub, 1),
    "*": (operator.mul, 2),
    "/": (operator.truediv, 2),
    "//": (operator.floordiv, 2),
    "%": (operator.mod, 2),
    "**": (operator.pow, 4),
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NEEDS_THE_VALUE = (
    *("hash", "str", "repr", "format", "reduce_ex", "float", "int", "index", "complex"),
    *("trunc", "floor", "ceil", "round", "pos", "divmod", "rdivmod"),
)


def _operator(symbol: str, *, reflected: bool) -> Callable[[SymbolicScalar, Any], Any]:
    return lambda self, other: self.combined(symbol, other, reflected=reflected)


def _comparison(symbol: str) -> Callable[[SymbolicScalar, Any], Any]:
    return lambda self, other: self.tested(symbol, other)


def _by_value(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.pinned(), name)(*others)


for _symbol, (_function, _) in _ARITHMETIC.items():
    setattr(SymbolicScalar, f"__{_function.__name__}__", _operator(_symbol, reflected=False))
    setattr(SymbolicScalar, f"__r{_function.__name__}__", _operator(_symbol, reflected=True))
for _symbol, _function in _COMPARISONS.items():
    setattr(SymbolicScalar, f"__{_function.__name__}__", _comparison(_symbol))
for _name in _NEEDS_THE_VALUE:
    setattr(SymbolicScalar, f"__{_name}__", _by_value(f"__{_name}__"))
