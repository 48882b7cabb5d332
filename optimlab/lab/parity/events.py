"""What can happen in a configuration besides plain steps: fields of the scenario, by a name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.lockstep.scenario import Call, Scenario, TensorSpec


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

    @property
    def loads(self) -> bool:
        """Whether a state dict is loaded on the way."""
        return "resume" in self.changes or self._calls("reload", "load_anew")

    @property
    def copies(self) -> bool:
        """Whether the optimizer is copied on the way."""
        return self._calls("deepcopy", "pickle")

    @property
    def long(self) -> bool:
        """Whether it takes many steps, which autograd would have to remember."""
        return int(self.changes.get("steps", 0)) > 50

    def _calls(self, *names: str) -> bool:
        return any(call.name in names for call in self.changes.get("calls", ()))


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

_SHAPES = (
    TensorSpec((2, 1, 3, 2, 2)),
    TensorSpec((1, 7)),
    TensorSpec((3, 1, 2)),
    TensorSpec((2,) * 6),
)
_GRADIENTS = tuple(
    TensorSpec(shape, gradient_layout=layout)
    for shape in ((33,), (5, 3))
    for layout in ("expanded", "unaligned")
)
_FIVE_GROUPS = tuple(
    TensorSpec(shape, group=i) for i in (0, 1, 3, 4, 5) for shape in ((9,), (5, 3))
)
_SCHEDULE = (
    *(Call(3, "scale_lr", (3.0,)), Call(5, "set_option", ("lr", 0.0))),
    *(Call(6, "set_option", ("lr", 0.02)), Call(8, "set_option", ("weight_decay", 0.2))),
    *(Call(9, "set_option", ("betas", (0.7, 0.95))), Call(9, "set_option", ("alpha", 0.7))),
    *(Call(9, "set_option", ("rho", 0.8)), Call(10, "set_option", ("momentum", 0.5))),
    *(Call(11, "scale_lr", (0.5,)), Call(13, "set_option", ("weight_decay", 0.0))),
    Call(14, "set_option", ("eps", 1e-4)),
)

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
        "five dimensions": Event({"tensors": _SHAPES, "steps": 5}),
        "expanded and unaligned gradients": Event({"tensors": _GRADIENTS, "steps": 5}),
        "gradients in place": Event({"gradients_in_place": True, "steps": 5}),
        "sparse gradients": Event({"sparse": True, "steps": 6}),
        "tiny gradients": Event({"gradient_scale": -80, "steps": 6}),
        "large gradients": Event({"gradient_scale": 50, "steps": 6}),
        "five groups": Event({"tensors": _FIVE_GROUPS, "steps": 5}),
        "40 tensors": Event({"tensors": (TensorSpec((3,)),) * 40, "steps": 3}),
        "40 steps": Event({"tensors": SMALL[:2], "steps": 40}),
        "two threads": Event({"threads": 2, "steps": 4}),
        "schedules": Event({"calls": _SCHEDULE, "steps": 16}),
        "zero_grad": Event(
            {"calls": (Call(2, "zero_grad", (True,)), Call(4, "zero_grad", (False,))), "steps": 4}
        ),
        "hooks": Event({"calls": (Call(1, "register_hooks"), Call(4, "reload")), "steps": 5}),
        "deepcopy": Event({"calls": (Call(1, "deepcopy"), Call(4, "deepcopy")), "steps": 6}),
        "pickle": Event({"calls": (Call(3, "pickle"),), "steps": 5}),
        "loaded three times": Event(
            {"calls": (Call(3, "load_anew"), Call(5, "reload"), Call(7, "load_anew")), "steps": 8}
        ),
        "all at once": Event(
            {"tensors": _ALL, "lr_changed_at": 10, "resume": "from own checkpoint"}
        ),
    }
)

#: What a thorough check tries beside them: what takes size, number or length.
THOROUGH_EVENTS: Mapping[str, Event] = MappingProxyType(
    {
        "70001 elements": Event({"tensors": (TensorSpec((70_001,)),), "steps": 4}),
        "1100001 elements": Event({"tensors": (TensorSpec((1_100_001,)),), "steps": 2}),
        "250 steps": Event({"tensors": SMALL[:2], "steps": 250}),
        "1000 steps": Event({"tensors": (TensorSpec((9,)),), "steps": 1000}),
        "300 tensors": Event({"tensors": (TensorSpec((3,)),) * 300, "steps": 2}),
        "12 groups": Event(
            {"tensors": tuple(TensorSpec((9,), group=i) for i in range(12)), "steps": 9}
        ),
    }
)
FEW_EVENTS = (PLAIN, "all at once")
QUICK_EVENTS = (*FEW_EVENTS, "closure", "NaN and infinite gradients", "large tensor")
