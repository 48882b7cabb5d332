"""What a step is made of: the parameters that take part, with what the rule needs of each.

``Rule.step`` collects one :class:`Batch` per parameter group and hands it over. Those who
carry it out (``execution.py``, ``native/``) see no optimizer, only what :class:`Stepped` names.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from optimlab.core.state import StateSpec


class Execution(enum.Enum):
    """The ways to carry out a rule."""

    FOR_LOOP = "for-loop"
    FOREACH = "foreach"
    FUSED = "fused"


@dataclass(slots=True)
class Member:
    """A parameter that takes part in a step, with what the rule needs of it.

    Attributes:
        param: the parameter.
        grad: its gradient, which is only ever read.
        state: the state tensors that the rule names, without those it has yet to make.
        step: the step count, if the optimizer counts steps.
        is_new: whether its state has still to be made.
    """

    param: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    step: Tensor | None = None
    is_new: bool = False


@dataclass(slots=True)
class Batch:
    """The members of one parameter group, and how their step is carried out.

    Attributes:
        group: the group.
        names: what the rule's state is called.
        members: its parameters with a gradient.
        execution: how the rule is carried out.
        capturable: whether step counts have to stay on their device, unread.
        differentiable: whether autograd differentiates through the step.
        lists: the members by device and dtype, where they are carried out as lists.
    """

    group: dict[str, Any]
    names: tuple[str, ...]
    members: list[Member]
    execution: Execution
    capturable: Any = False
    differentiable: Any = False
    lists: Collection[list[Member]] = field(default=())

    @property
    def steps_stay_tensors(self) -> bool:
        """Whether the rule is given step counts as tensors, whose values it must not read."""
        return bool(self.capturable or self.differentiable or torch.compiler.is_compiling())


@dataclass(frozen=True, slots=True)
class FusedStep:
    """What a fused kernel takes besides hyperparameters.

    Attributes:
        is_first_step: whether no parameter of the group has state yet.
        grad_scale: what ``torch.amp.GradScaler`` multiplied the loss with, or ``None``.
        found_inf: 1 if a scaled gradient overflowed and the step must change nothing, or ``None``.
    """

    is_first_step: bool = False
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def to(self, device: torch.device) -> FusedStep:
        """Return the same with its tensors on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return FusedStep(self.is_first_step, moved(self.grad_scale), moved(self.found_inf))


class Stepped(Protocol):
    """What carrying out a step asks of an optimizer: its rule, and what it keeps."""

    complex_as_real: ClassVar[bool]
    scalars: ClassVar[tuple[str, ...]]
    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> defaultdict[Tensor, Any]: ...
    @property
    def state_spec(self) -> StateSpec: ...
    @property
    def update(self) -> Any: ...
    @property
    def fused_update(self) -> Any: ...
    def check(self, batch: Batch) -> None: ...
