"""One side of a random program, what it is made from, and what is kept of its errors."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

from beside import unnoticed
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import snapshot
from optimlab.lab.lockstep.clone import clone

Options: TypeAlias = dict[str, Any]
Gradients: TypeAlias = list[Tensor | None]


class Diverged(AssertionError):  # noqa: N818 - it reads as what happened
    """The two sides of a random program differ."""


class OtherError(Diverged):
    """Both sides raised, but not the same."""


@dataclass
class Side:
    """One of the two optimizers, with parameters of its own."""

    library: ModuleType
    params: list[Tensor] = field(default_factory=list)
    optimizer: Optimizer = field(init=False)

    def seen(self) -> Options:
        """Lay out everything that can be seen of this side but gradients, which torch overwrites.

        A parameter is its value here, as in a copy of what was seen.
        """
        with unnoticed(self.optimizer):
            return {
                **snapshot(self.optimizer, self.params),
                "parameters": [param.detach() for param in self.params],
                "printed": repr(self.optimizer),
            }


@dataclass
class Group:
    """A parameter group, as it is given to a constructor: its parameters and its own options."""

    members: list[int]
    options: Options = field(default_factory=dict)
    named: bool = False

    def of(self, side: Side) -> Options:
        """Return the group as one side's dict."""
        params: list[Any] = [side.params[i] for i in self.members]
        if self.named:
            params = [(f"tensor{i}", side.params[i]) for i in self.members]
        return {"params": params, **clone(self.options)}


@dataclass(frozen=True)
class Raised:
    """An error, without what cannot be equal: its traceback.

    Attributes:
        type: of the error.
        message: its text.
        in_rule: whether it came from an operation of the rule, when a step was no longer refused
            but under way.
    """

    type: type[Exception]
    message: str
    in_rule: bool = field(compare=False)

    def __str__(self) -> str:
        return f"{self.type.__name__}: {self.message}"


@dataclass
class Tally:
    """What was done.

    Attributes:
        actions: by name.
        errors: that both sides raised, by type.
        steps: that both sides completed.
        elements: of parameters at the end.
        finite: how many of them are neither infinite nor NaN.
    """

    actions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    elements: int = 0
    finite: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.actions + other.actions,
            self.errors + other.errors,
            self.steps + other.steps,
            self.elements + other.elements,
            self.finite + other.finite,
        )


def give(side: Side, gradients: Gradients) -> None:
    """Give every parameter of one side a copy of its gradient."""
    for param, grad in zip(side.params, gradients, strict=True):
        param.grad = None if grad is None else clone(grad)


def attempt(action: Callable[[Side], Any], side: Side) -> tuple[Any, Raised | None]:
    try:
        result = action(side)
    except Exception as error:  # noqa: BLE001 - whatever is raised is compared
        frames = traceback.walk_tb(error.__traceback__)
        in_rule = any(frame.f_code.co_name == "execute" for frame, _ in frames)
        return None, Raised(type(error), str(error), in_rule)
    return result, None
