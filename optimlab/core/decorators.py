"""What a rule may declare of itself, with a decorator above its ``update``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

_P = ParamSpec("_P")
_R = TypeVar("_R")


def pure(update: Callable[_P, _R]) -> Callable[_P, _R]:
    """Declare that an update rule depends on its arguments alone, and changes nothing else.

    Such a rule need not be run anew for the numbers of each step, which saves some microseconds.
    A rule that looks at attributes of the optimizer, the time or a random number is not pure, and
    neither is one that asks for the ``type()`` of a hyperparameter, rather than ``isinstance``.
    """
    cast(Any, update).declared_pure = update  # itself: functools.wraps copies attributes
    return update


def unequal_steps(update: Callable[_P, _R]) -> Callable[_P, _R]:
    """Declare that an update rule can be read on a list of tensors of unequal step counts.

    It gets a step count that ``base**step`` or :func:`optimlab.values.read_step` reads, and must
    not compare or convert it: on lists it is one number for each tensor
    (:class:`optimlab.values.Numbers`).
    Where the rule makes state itself, some of the tensors may have it and others not
    (:class:`optimlab.values.PartialState`). For a rule without this declaration lists are divided,
    so that each has one step count, which is a float, and either all of its state or none.
    """
    cast(Any, update).declared_unequal = update  # itself: functools.wraps copies attributes
    return update


def is_declared(update: Any, declaration: str) -> bool:
    """Tell whether a rule itself is declared ``pure`` or ``unequal``, and not one that it wraps."""
    return update is not None and getattr(update, f"declared_{declaration}", None) is update
