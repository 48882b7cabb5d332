"""A number that is not known yet, for reading a rule once in place of at every step."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn


class UndeterminedError(Exception):
    """A rule did something with a quantity that only a number can answer."""


class Quantity:
    """A hyperparameter or step count of any value: arithmetic on it is written down.

    To the rule it is a float (``isinstance`` says so). What would let the rule go another way for
    another value, a comparison or a conversion, is refused and remembered.

    Args:
        text: an expression that Python can compute.
        sources: the names of what it depends on.
        refused: where the sources go when something is refused.
    """

    __slots__ = ("_refused", "_sources", "text")

    def __init__(self, text: str, sources: frozenset[str], refused: set[str]) -> None:
        self.text = text
        self._sources = sources
        self._refused = refused

    @property
    def __class__(self) -> type[float]:  # type: ignore[override]
        return float

    def __neg__(self) -> Quantity:
        return Quantity(f"(-{self.text})", self._sources, self._refused)

    def __getattr__(self, name: str) -> NoReturn:
        self.refuse()

    def refuse(self, *_: Any) -> NoReturn:
        """Refuse to be anything but a quantity.

        Raises:
            UndeterminedError: always.
        """
        self._refused.update(self._sources)
        raise UndeterminedError

    def combined(self, pattern: str, other: Any) -> Quantity:
        """Write an operation with another number down."""
        sources = self._sources
        if type(other) is Quantity:
            sources |= other._sources
            text = other.text
        elif type(other) in (float, int) and isfinite(other):
            text = f"({other!r})"
        else:
            self.refuse()
        return Quantity(f"({pattern.format(self.text, text)})", sources, self._refused)


def _with(pattern: str) -> Callable[[Quantity, Any], Quantity]:
    return lambda self, other: self.combined(pattern, other)


_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}
_REFUSED = (
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "hash", "str", "repr", "format", "reduce_ex"),
    *("float", "int", "index", "complex", "trunc", "floor", "ceil", "round", "abs", "pos"),
    *("mod", "rmod", "floordiv", "rfloordiv", "divmod", "rdivmod", "matmul", "rmatmul"),
)
for _name, _sign in _OPERATORS.items():
    setattr(Quantity, f"__{_name}__", _with(f"{{0}} {_sign} {{1}}"))
    setattr(Quantity, f"__r{_name}__", _with(f"{{1}} {_sign} {{0}}"))
for _name in _REFUSED:
    setattr(Quantity, f"__{_name}__", Quantity.refuse)
