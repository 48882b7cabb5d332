"""A number that is not known yet, for reading a rule once in place of at every step."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn


class UndeterminedError(Exception):
    """A rule did something with a quantity that only a number can answer."""


def _with(pattern: str) -> Callable[[Quantity, Any], Quantity]:
    return lambda quantity, other: quantity.combined(pattern, other)


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

    def refuse(self, *_: Any) -> NoReturn:
        """Refuse to be anything but a quantity.

        Raises:
            UndeterminedError: always.
        """
        self._refused.update(self._sources)
        raise UndeterminedError

    __add__, __radd__ = _with("{0} + {1}"), _with("{1} + {0}")
    __sub__, __rsub__ = _with("{0} - {1}"), _with("{1} - {0}")
    __mul__, __rmul__ = _with("{0} * {1}"), _with("{1} * {0}")
    __truediv__, __rtruediv__ = _with("{0} / {1}"), _with("{1} / {0}")
    __pow__, __rpow__ = _with("{0} ** {1}"), _with("{1} ** {0}")

    def __neg__(self) -> Quantity:
        return Quantity(f"(-{self.text})", self._sources, self._refused)

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
