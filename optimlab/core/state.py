"""What a rule keeps of each parameter, declared: what its tensors are called and how they begin.

An optimizer has one declaration, in the order in which the state stands in a checkpoint::

    state_spec = StateSpec(Count(), Like("exp_avg"), Like("max_exp_avg_sq", when="amsgrad"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.core import devices
from optimlab.core.groups import ParamGroup

When: TypeAlias = str | Callable[[ParamGroup], Any] | None


@dataclass(frozen=True)
class Count:
    """The number of steps that a parameter has made, a tensor called ``step``.

    It lives on the CPU, because launching a kernel to count costs more than counting, unless a
    captured graph or a fused kernel must count by itself.

    Args:
        device: where it lives otherwise; ``None`` for torch's default device.
        read_after: the entry behind which torch looks for it; by default behind all others.
    """

    device: str | None = "cpu"
    read_after: str = ""

    def start(self, param: Tensor, *, capturable: object, fused: object) -> Tensor:
        """Return the count of a parameter before its first step."""
        dtype = devices.step_dtype(fused=bool(fused))
        if capturable or fused:
            return torch.zeros((), dtype=dtype, device=param.device)
        # A constant, whose value is known also where tensors are fake.
        return torch.tensor(0.0, dtype=dtype, device=self.device)


@dataclass(frozen=True)
class Like:
    """A tensor of the parameter's shape, dtype, device and strides.

    Args:
        name: what it is called.
        when: the hyperparameter with which it is kept, or a function of the group that tells; by
            default it is always kept.
        fill: the number of which it is full at the beginning, or the hyperparameter that says.
    """

    name: str
    _: KW_ONLY
    when: When = None
    fill: float | str = 0

    def start(self, param: Tensor, group: ParamGroup) -> Tensor:
        """Return the tensor before the first step of a parameter."""
        fill: float = group[self.fill] if isinstance(self.fill, str) else self.fill
        if fill == 0:
            return torch.zeros_like(param, memory_format=torch.preserve_format)
        return torch.full_like(param, fill, memory_format=torch.preserve_format)


@dataclass(frozen=True)
class First:
    """A tensor that the rule itself makes at a parameter's first step.

    Args:
        name: what it is called.
        when: as of :class:`Like`.
    """

    name: str
    _: KW_ONLY
    when: When = None


class StateSpec:
    """The state that a rule keeps of each parameter.

    Args:
        entries: its tensors, in the order in which they are made: the count first, if there is
            one. What the rule itself makes stands alone.

    Attributes:
        count: the step count, if there is one.
        tensors: the other entries.
        made_by_rule: whether the rule itself makes the state at a parameter's first step.

    Raises:
        ValueError: for a count behind something else, a name twice, or state of which the rule
            makes only a part.
    """

    count: Count | None
    tensors: tuple[Like | First, ...]
    made_by_rule: bool

    def __init__(self, *entries: Count | Like | First) -> None:
        self.count = next((entry for entry in entries if isinstance(entry, Count)), None)
        self.tensors = tuple(entry for entry in entries if not isinstance(entry, Count))
        self.made_by_rule = any(isinstance(entry, First) for entry in self.tensors)
        if any(isinstance(entry, Count) for entry in entries[1:]):
            raise ValueError("the step count is declared first, and once")
        if len({entry.name for entry in self.tensors} - {"step"}) < len(self.tensors):
            raise ValueError("each tensor needs a name of its own, other than 'step'")
        if self.made_by_rule and not all(isinstance(entry, First) for entry in entries):
            raise ValueError("a rule that makes state itself makes all of it: First, and no other")
        self._made: list[tuple[str, When]] = [(entry.name, entry.when) for entry in self.tensors]
        self._read = list(self._made)
        if self.count is not None:
            names = [name for name, _ in self._made]
            after = self.count.read_after
            self._read.insert(1 + names.index(after) if after else len(names), ("step", None))

    def __repr__(self) -> str:
        entries = [*([] if self.count is None else [self.count]), *self.tensors]
        return f"StateSpec({', '.join(map(repr, entries))})"

    @property
    def conditions(self) -> Sequence[Callable[..., Any]]:
        """The functions that decide what is kept; hyperparameters by name are no functions."""
        return [entry.when for entry in self.tensors if callable(entry.when)]

    def names(self, group: ParamGroup) -> tuple[str, ...]:
        """Return what is kept with these hyperparameters, besides the step count."""
        return _kept(self._made, group)

    def reads(self, group: ParamGroup) -> tuple[str, ...]:
        """Return what a step reads, in the order in which a step of torch's would miss it."""
        return _kept(self._read, group)

    def start(
        self, param: Tensor, group: ParamGroup, *, capturable: object = None, fused: object = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Make the state of a parameter before its first step, tensor by tensor.

        Args:
            param: the parameter.
            group: the hyperparameters.
            capturable: whether the step count has to stay on the parameter's device, unread.
            fused: whether a fused kernel counts.
        """
        if self.count is not None:
            yield "step", self.count.start(param, capturable=capturable, fused=fused)
        names = self.names(group)
        for entry in self.tensors:
            if isinstance(entry, Like) and entry.name in names:
                yield entry.name, entry.start(param, group)


def _kept(entries: Sequence[tuple[str, When]], group: ParamGroup) -> tuple[str, ...]:
    names = []
    for name, when in entries:  # a loop, because it runs for each parameter of each step
        if when is None or (group[when] if isinstance(when, str) else when(group)):
            names.append(name)
    return tuple(names)
