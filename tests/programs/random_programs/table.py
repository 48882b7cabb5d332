"""The table of actions, which the modules beside it fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from random_programs.machine import Machine

Action: TypeAlias = Callable[[Machine], object]

#: Each action by its name, with its weight: how often it is drawn.
ACTIONS: dict[str, tuple[int, Action]] = {}


def action(weight: int) -> Callable[[Action], Action]:
    """Enter a function into the table."""

    def enter(function: Action) -> Action:
        ACTIONS[function.__name__] = weight, function
        return function

    return enter
