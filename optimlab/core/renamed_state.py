"""The names by which rules declared their state before ``state_spec``; they work for one release.

A subclass of :class:`optimlab.Optimizer` that defines ``update`` becomes a subclass of
:class:`optimlab.Rule`, and what a class says of its state in the old way is asked in the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optimlab.core.groups import ParamGroup
from optimlab.core.state import Count, StateSpec
from optimlab.renamed import warn

OLD_STATE = (
    *("state_names", "init_state", "init_step", "reading_order"),
    *("counts_steps", "rule_makes_state", "step_device"),
)
"""What ``state_spec`` has taken the place of."""

OLD_NAMES = {
    "collect": "_collect",
    "collect_member": "_collect_member",
    "foreach_by_default": "_foreach_by_default",
    "prefers_foreach": "_prefers_foreach",
}
"""What a subclass may define by its old name."""

_rules: list[Any] = []


def take_over(rule: type) -> None:
    """Make a class the one below which :func:`adopt` puts older subclasses."""
    _rules.append(rule)


def adopt(cls: Any) -> None:
    """Let a class that declares itself in the old way be one that declares itself in the new."""
    if not _rules:
        return
    (rule,) = _rules
    if "update" in vars(cls) and not issubclass(cls, rule):
        warn(f"{cls.__qualname__} is derived from Optimizer; derive a rule from optimlab.Rule")
        cls.__bases__ = tuple(rule if base is rule.__base__ else base for base in cls.__bases__)
        cls.state_spec = StateSpec(Count())  # which was the default
        super(cls, cls).__init_subclass__()  # which comes back here
        return
    if old := [name for name in OLD_STATE if name in vars(cls)]:
        warn(f"{cls.__qualname__} defines {', '.join(old)}; declare state_spec")
        cls._spec_before = cls.state_spec
        cls.state_spec = property(_OldState)
        if not issubclass(cls, OldMethods):
            cls.__bases__ = (*cls.__bases__, OldMethods)
    for name in OLD_NAMES.keys() & vars(cls).keys():
        warn(f"{cls.__qualname__} defines {name}; it is called {OLD_NAMES[name]}")
        setattr(cls, OLD_NAMES[name], vars(cls)[name])


def old_attribute(optimizer: Any, name: str) -> Any:
    """Return what an optimizer had by an old name.

    Raises:
        AttributeError: if it is none.
    """
    if name in OLD_STATE:
        warn(f"{type(optimizer).__name__}.{name} is old; ask state_spec")
        return vars(OldMethods)[name].__get__(optimizer)
    if name in OLD_NAMES:
        warn(f"{type(optimizer).__name__}.{name} is old; it is called {OLD_NAMES[name]}")
        return getattr(optimizer, OLD_NAMES[name])
    raise AttributeError(f"{type(optimizer).__name__!r} object has no attribute {name!r}")


class OldMethods:
    """What ``super()`` finds in a class that declares its state in the old way."""

    _spec_before: Any
    _flag: Callable[[ParamGroup, str], Any]

    counts_steps = property(lambda self: _before(self).count is not None)
    rule_makes_state = property(lambda self: _before(self).made_by_rule)
    step_device = property(lambda self: (_before(self).count or Count()).device)

    def state_names(self, group: ParamGroup) -> tuple[str, ...]:
        return _before(self).names(group)

    def init_state(self, param: Tensor, group: ParamGroup) -> dict[str, Tensor]:
        return {name: torch.zeros_like(param) for name in self.state_names(group)}

    def init_step(self, param: Tensor, group: ParamGroup) -> Tensor:
        capturable, fused = self._flag(group, "capturable"), self._flag(group, "fused")
        return Count(self.step_device).start(param, capturable=capturable, fused=fused)

    def reading_order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        behind = (_before(self).count or Count()).read_after
        place = 1 + names.index(behind) if behind in names else len(names)
        return *names[:place], "step", *names[place:]


def _before(optimizer: Any) -> StateSpec:
    """Return the declaration that an optimizer's class has inherited."""
    found = getattr(optimizer, "_spec_before", None) or optimizer.state_spec
    assert isinstance(found, StateSpec)
    return found


class _OldState(StateSpec):
    """The state of an optimizer whose class declares it in the old way."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(*[Count()] * bool(optimizer.counts_steps))
        self.made_by_rule = bool(optimizer.rule_makes_state)
        self._of = optimizer

    @property
    def conditions(self) -> Sequence[Callable[..., Any]]:
        return [type(self._of).state_names]

    def names(self, group: ParamGroup) -> tuple[str, ...]:
        names: tuple[str, ...] = self._of.state_names(group)
        return names

    def reads(self, group: ParamGroup) -> tuple[str, ...]:
        names = self.names(group)
        return names if self.count is None else tuple(self._of.reading_order(names))

    def start(
        self, param: Tensor, group: ParamGroup, *, capturable: object = None, fused: object = None
    ) -> Iterator[tuple[str, Tensor]]:
        if self.count is not None:
            yield "step", self._of.init_step(param, group)
        yield from self._of.init_state(param, group).items()
