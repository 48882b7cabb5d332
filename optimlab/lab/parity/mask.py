"""Comparing optimizers whose state and parameter groups are not laid out alike.

Two optimizers can make the same steps and still differ in what they keep: other names, another
type, an option that only one has. Were such a key compared at each step, it would be the first
difference everywhere and hide all others. So a :class:`Mask` leaves keys out of what is compared,
and notes of which form each key is, so that what was left out is told once, by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.lockstep import drive
from optimlab.lab.lockstep.outcome import Outcome
from optimlab.lab.lockstep.replica import Make, Replica
from optimlab.lab.lockstep.scenario import Scenario
from optimlab.lab.parity.events import Closures

Kind: TypeAlias = Literal["state", "option", "saved", "beginning"]
Key: TypeAlias = tuple[Kind, str]

ABSENT = "absent"
BEGINNING: Key = ("beginning", "state")
"""When a parameter gets its state: some optimizers make it with themselves, others when needed."""


@dataclass
class Mask:
    """What is compared of one optimizer, and what there was."""

    hidden: frozenset[Key] = frozenset()  # what is not compared
    names: Mapping[str, str] = field(default_factory=dict)  # of state that is shown under another
    gradients: bool = False  # whether what a step leaves in the gradients is compared, too
    # Of which types, dtypes and shapes each key was, hidden or not.
    forms: dict[Key, set[str]] = field(default_factory=dict)
    _layouts: set[frozenset[str]] = field(default_factory=set)

    def apply(
        self, seen: dict[str, Any], params: Sequence[Tensor], moved: set[int]
    ) -> dict[str, Any]:
        """Return what is compared of a snapshot; `moved` are those that had a gradient by now."""
        saved = seen["state_dict"]
        packed = [number for group in seen["param_groups"] for number in group["params"]]
        for entries in (*seen["param_groups"], seen["defaults"]):
            self._layouts.add(frozenset(entries))
            for name, value in entries.items():
                self._note(("option", name), type(value).__name__)
        for number, entries in seen["state"].items():
            self._note_state(number, entries, params, moved)
        for entries in saved["state"].values():
            for name, value in entries.items() if isinstance(entries, dict) else ():
                self._note(("saved", self.names.get(name, name)), type(value).__name__)
        return {
            **seen,
            "param_groups": [*map(self._options, seen["param_groups"])],
            "defaults": self._options(seen["defaults"]),
            "shared tensors": [*map(self._options, seen["shared tensors"])],
            "state": self._state(seen["state"], "state", lambda number: number in moved),
            "state_dict": {
                **saved,
                "state": self._state(
                    saved["state"], "saved", lambda index: _at(packed, index) in moved
                ),
                "param_groups": [*map(self._options, saved["param_groups"])],
            },
        }

    def form(self, key: Key) -> str:
        """Say of which forms a key was."""
        found = set(self.forms.get(key, {ABSENT}))
        if key[0] == "option" and not all(key[1] in names for names in self._layouts):
            found.add(ABSENT)
        return " or ".join(sorted(found))

    def _options(self, entries: dict[str, Any]) -> dict[str, Any]:
        shown = (name for name in sorted(entries) if ("option", name) not in self.hidden)
        return {name: entries[name] for name in shown}

    def _state(
        self, state: dict[Any, Any], kind: Kind, has_moved: Callable[[Any], bool]
    ) -> dict[Any, Any]:
        """Show state in one order; where the two do not begin it at the same time, once both do."""
        keys = sorted(state, key=_order)
        if BEGINNING not in self.hidden:
            return {key: self._entries(state[key], kind) for key in keys}
        begun = {k: self._entries(state[k], kind) for k in keys if state[k] and has_moved(k)}
        return {key: entries for key, entries in begun.items() if entries != {}}

    def _entries(self, entries: Any, kind: Kind) -> Any:
        if not isinstance(entries, dict):
            return entries
        named = {self.names.get(name, name): value for name, value in entries.items()}
        return {
            name: named[name]
            for name in sorted(named, key=str)
            if not {("state", name), (kind, name)} & self.hidden
        }

    def _note_state(
        self, number: Any, entries: Any, params: Sequence[Tensor], moved: set[int]
    ) -> None:
        if not (isinstance(number, int) and isinstance(entries, dict)):
            return
        began = "in the first step" if number in moved else "before the first step"
        self._note(BEGINNING, began if entries else "empty")
        param = params[number]
        for name, value in entries.items() if param.dim() else ():  # a scalar's steps are alike it
            self._note(("state", self.names.get(name, name)), _form(value, param))

    def _note(self, key: Key, form: str) -> None:
        self.forms.setdefault(key, set()).add(form)


class MaskedReplica(Replica):
    """A replica of which no more is compared than a mask shows."""

    def __init__(self, make: Make, scenario: Scenario, mask: Mask) -> None:
        closures = isinstance(scenario, Closures)
        super().__init__(partial(self._closing, make) if closures else make, scenario)
        self._mask = mask
        self._closed: dict[str, Any] = {}
        self._held: set[int] = set()
        self._moved: set[int] = set()

    def snapshot(self) -> None:
        """Lay out in ``seen`` what the mask shows."""
        super().snapshot()
        stepped = {i for i, grad in enumerate(self.given) if grad is not None}
        self._moved |= stepped & self._held  # as of before this event
        self._held = {i for group in self.seen["param_groups"] for i in group["params"]}
        shown = self._mask.apply(self.seen, self.params, self._moved)
        self.seen = {**shown, "gradients left": self._gradients_left(), **self._closed}

    def _closing(self, make: Make, groups: list[dict[str, Any]]) -> Optimizer:
        """Make an optimizer whose ``step()`` is always called with a closure."""
        optimizer = make(groups)
        optimizer.step = partial(self._step, optimizer.step)  # type: ignore[assignment,method-assign]
        return optimizer

    def _step(self, step: Callable[..., Any]) -> None:
        """Take the gradients away, and let a closure set them."""
        gradients = [param.grad for param in self.params]
        modes: list[bool] = []

        def closure() -> Tensor:
            modes.append(torch.is_grad_enabled())
            for param, grad in zip(self.params, gradients, strict=True):
                param.grad = grad
            return torch.tensor(0.5)

        for param in self.params:
            param.grad = None
        loss = step(closure)
        self._closed = {"gradient mode in the closure": modes, "loss returned": loss}

    def _gradients_left(self) -> dict[int, Tensor | None]:
        """Return what is in the gradients, to be compared, and put back what was given."""
        if not (self._mask.gradients and self.given):
            return {}
        left = dict(enumerate(param.grad for param in self.params))
        for param, grad in zip(self.params, self.given, strict=True):
            param.grad = clone(grad)
        return left


@dataclass(frozen=True)
class Masked:
    """What came of a comparison under two masks."""

    outcome: Outcome
    forms: Mapping[Key, tuple[str, str]]  # of each key, in mine and in the reference

    @property
    def differing(self) -> frozenset[Key]:
        """The keys that only one side has, or that are of another form there."""
        return frozenset(key for key, (mine, theirs) in self.forms.items() if mine != theirs)


def compare_masked(
    make_mine: Make, make_theirs: Make, scenario: Scenario, mine: Mask, theirs: Mask
) -> Masked:
    """Put two optimizers through a scenario and compare what the masks show of them."""
    outcome = drive(
        lambda: (
            MaskedReplica(make_mine, scenario, mine),
            MaskedReplica(make_theirs, scenario, theirs),
        ),
        scenario,
    )
    keys = [*theirs.forms, *(key for key in mine.forms if key not in theirs.forms)]
    return Masked(outcome, {key: (mine.form(key), theirs.form(key)) for key in keys})


def _at(numbers: Sequence[int], index: Any) -> int | None:
    return numbers[index] if isinstance(index, int) and index < len(numbers) else None


def _order(key: Any) -> tuple[int, str]:
    """Sort numbers of parameters by their value, and anything else behind them."""
    return (key, "") if isinstance(key, int) else (sys.maxsize, str(key))


def _form(value: Any, param: Tensor) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    dtype = str(value.dtype).removeprefix("torch.")
    if value.dim() == 0:
        return f"{dtype} scalar"
    if (value.dtype, value.shape) == (param.dtype, param.shape):
        return "like the parameter"
    return dtype if value.shape == param.shape else f"{dtype} of another shape"
