"""A number that is not known yet, for reading a rule once in place of at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NoReturn, cast


class UndeterminedError(Exception):
    """A rule did something with a quantity that only a number can answer."""


class Script:
    """The arithmetic on quantities, operation by operation, in the order of the rule.

    Also what the rule does not use in the end is computed, because it may be an error.

    Attributes:
        refused: names of quantities that only a number could take the place of.
    """

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self._lines: list[str] = []

    def step_count(self) -> Quantity:
        """Make the quantity of the step count, which the function takes as an argument."""
        return Quantity(self, "step", frozenset({"step"}))

    def quantity(self, name: str) -> Quantity:
        """Make the quantity of a hyperparameter, which the function takes from the group."""
        return self._define(f"group[{name!r}]", frozenset({name}))

    def write(self, expression: str, sources: frozenset[str]) -> Quantity:
        """Write an operation down."""
        return self._define(expression, sources)

    def _define(self, expression: str, sources: frozenset[str]) -> Quantity:
        result = Quantity(self, f"value{len(self._lines)}", sources)
        self._lines.append(f"{result.name} = {expression}")
        return result

    def compiled(self, results: Mapping[int, Quantity]) -> Callable[[Any, float, Any], None]:
        """Return a function that writes results, and the step, into an array.

        Args:
            results: each with its place in the array.
        """
        stores = [f"code[{place}] = {result.name}" for place, result in results.items()]
        lines = ["def compute(code, step, group):", "code[0] = step", *self._lines, *stores]
        defined: dict[str, Any] = {}
        exec("\n    ".join(lines), defined)
        return cast(Callable[[Any, float, Any], None], defined.pop("compute"))


def _with(pattern: str) -> Callable[[Quantity, Any], Quantity]:
    return lambda quantity, other: quantity.combined(pattern, other)


class Quantity:
    """A hyperparameter or step count of any value: arithmetic on it is written down.

    To the rule it is a float (``isinstance`` says so). What would let the rule go another way for
    another value, a comparison or a conversion, is refused and remembered.

    Args:
        script: where operations are written down.
        name: what the script calls it.
        sources: the quantities that it depends on.
    """

    __slots__ = ("_script", "_sources", "name")

    def __init__(self, script: Script, name: str, sources: frozenset[str]) -> None:
        self._script = script
        self.name = name
        self._sources = sources

    def combined(self, pattern: str, other: Any) -> Quantity:
        """Write an operation with another number down."""
        sources = self._sources
        if type(other) is Quantity:
            sources |= other._sources
            operand = other.name
        elif type(other) in (float, int) and isfinite(other):
            operand = f"({other!r})"
        else:
            self.refuse()
        return self._script.write(pattern.format(self.name, operand), sources)

    def refuse(self, *_: Any) -> NoReturn:
        """Refuse to be anything but a quantity.

        Raises:
            UndeterminedError: always.
        """
        self._script.refused.update(self._sources)
        raise UndeterminedError

    __add__, __radd__ = _with("{0} + {1}"), _with("{1} + {0}")
    __sub__, __rsub__ = _with("{0} - {1}"), _with("{1} - {0}")
    __mul__, __rmul__ = _with("{0} * {1}"), _with("{1} * {0}")
    __truediv__, __rtruediv__ = _with("{0} / {1}"), _with("{1} / {0}")
    __pow__, __rpow__ = _with("{0} ** {1}"), _with("{1} ** {0}")

    def __neg__(self) -> Quantity:
        return self._script.write(f"-{self.name}", self._sources)

    @property  # type: ignore[misc]
    def __class__(self) -> type[float]:  # type: ignore[override]
        return float

    def __getattr__(self, name: str) -> NoReturn:
        self.refuse()


for _name in (
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "hash", "str", "repr", "format", "reduce_ex"),
    *("float", "int", "index", "complex", "trunc", "floor", "ceil", "round", "abs", "pos"),
    *("mod", "rmod", "floordiv", "rfloordiv", "divmod", "rdivmod", "matmul", "rmatmul"),
):
    setattr(Quantity, f"__{_name}__", Quantity.refuse)
