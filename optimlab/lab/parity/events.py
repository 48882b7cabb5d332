"""What can happen in a configuration besides plain steps: fields of the scenario, by a name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.lockstep.scenario import Scenario, TensorSpec


@dataclass(frozen=True)
class ZeroGradients(Scenario):
    """Gradients that are zero in every element, at every other step from the first on."""

    def gradients(self, step: int) -> Iterator[Tensor | None]:
        """Make the gradients of one step, in the order of the parameters."""
        for grad in super().gradients(step):
            if grad is not None and step % 2 == 1:
                yield torch.zeros_like(grad).requires_grad_(self.differentiable)
            else:
                yield grad


@dataclass(frozen=True)
class NonfiniteGradients(Scenario):
    """Gradients with an infinite element, of either sign, at some steps, and a NaN at others."""

    def gradients(self, step: int) -> Iterator[Tensor | None]:
        """Make the gradients of one step, in the order of the parameters."""
        for index, grad in enumerate(super().gradients(step)):
            value = _NOT_FINITE.get((step + index) % 6)
            if grad is None or value is None or not grad.numel():
                yield grad
                continue
            changed = grad.detach().clone()
            changed.view(-1)[(7 * step) % changed.numel()] = value
            yield changed.requires_grad_(self.differentiable)


@dataclass(frozen=True)
class Closures(Scenario):
    """Every step is given a closure, which sets the gradients and returns a loss."""


_NOT_FINITE = {3: math.inf, 4: -math.inf, 5: math.nan}


@dataclass(frozen=True)
class Event:
    """What a configuration may have besides its options."""

    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of the scenario
    kind: type[Scenario] = Scenario
    dtypes: tuple[str, ...] = ()  # columns of the table that have it
    size: int = 0  # elements of one more tensor, which threads share


#: The events of the table.
TABLE_EVENTS: Mapping[str, Event] = MappingProxyType(
    {
        "": Event(),
        "sparse gradients": Event({"sparse": True}, dtypes=("float32",)),
        "scaled gradients": Event({"unscale": True}, dtypes=("bfloat16", "float32")),
        "float64 by default": Event({"default_dtype": torch.float64}, dtypes=("float32",)),
        "32769 elements": Event(
            {"threads": None}, dtypes=("bfloat16", "float32", "float64"), size=32_769
        ),
        "300001 elements": Event({"threads": None}, dtypes=("float32",), size=300_001),
    }
)

SMALL = (TensorSpec((33,)), TensorSpec((5, 3)), TensorSpec((17, 31)))
_NONE = (
    TensorSpec((33,), gradients="sometimes"),
    TensorSpec((5, 3), gradients="late"),
    TensorSpec((7,), gradients="never"),
    TensorSpec((9,)),
)
_LAYOUTS = (
    TensorSpec((5, 3), layout="transposed"),
    TensorSpec((3, 4), layout="every second", gradient_layout="transposed"),
    TensorSpec((2, 3, 3, 5), layout="channels last", gradient_layout="channels last"),
    TensorSpec((31,), gradient_layout="every second"),
    TensorSpec((4, 3), gradient_layout="transposed"),
)
_EMPTY = (TensorSpec((0,)), TensorSpec((0, 3)), TensorSpec(()), TensorSpec((1,)), TensorSpec((9,)))
_GROUPS = (TensorSpec((33,)), TensorSpec((5, 3), group=1), TensorSpec((9,), group=1))
# Above 32,768 elements torch splits the work among threads, and other code may branch, too.
_LARGE = (TensorSpec((33_001,)), TensorSpec((5, 3)))
_ADDED = (TensorSpec((33,)), TensorSpec((5, 3), group=2))
_ALL = (*SMALL[:1], *_NONE, *_LAYOUTS, *_EMPTY, *_GROUPS[1:], *_ADDED[1:])

PLAIN = "plain"
CROSSED = "state_dict of the other"

#: The events in which :func:`optimlab.parity.check` compares any two.
EVENTS: Mapping[str, Event] = MappingProxyType(
    {
        PLAIN: Event(),
        "gradients of None": Event({"tensors": _NONE}),
        "zero gradients": Event(kind=ZeroGradients),
        "NaN and infinite gradients": Event(kind=NonfiniteGradients),
        "closure": Event(kind=Closures),
        "large tensor": Event({"tensors": _LARGE, "steps": 4}),
        "not contiguous": Event({"tensors": _LAYOUTS}),
        "empty tensors": Event({"tensors": _EMPTY}),
        "two groups": Event({"tensors": _GROUPS}),
        "group added": Event({"tensors": _ADDED}),
        "lr changed": Event({"lr_changed_at": 10}),
        "named parameters": Event({"named": True}),
        "state_dict loaded": Event({"resume": "from own checkpoint"}),
        CROSSED: Event({"resume": "from the other's checkpoint"}),
        "all at once": Event(
            {"tensors": _ALL, "lr_changed_at": 10, "resume": "from own checkpoint"}
        ),
    }
)
FEW_EVENTS = (PLAIN, "all at once")
QUICK_EVENTS = (*FEW_EVENTS, "closure", "NaN and infinite gradients", "large tensor")
