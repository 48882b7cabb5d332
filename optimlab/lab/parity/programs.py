"""Programs drawn at random, each from its number: tensors, groups, gradients, schedules, loads."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from optimlab.lab.lockstep.scenario import Call, Layout, TensorSpec
from optimlab.lab.parity.events import EVENTS, THOROUGH_EVENTS, Event

PROGRAM = "program "
#: The names of those that a thorough check tries.
PROGRAMS = tuple(f"{PROGRAM}{number}" for number in range(24))

_SIZES = (1, 2, 3, 5, 8, 17, 33, 64)
_CALLS = (
    *(("scale_lr", (factor,)) for factor in (0.0, 0.1, 0.5, 3.0)),
    *(("set_option", ("lr", value)) for value in (0.0, 0.001, 0.02)),
    *(("set_option", ("weight_decay", value)) for value in (0.0, 0.01, 0.3, 1.5)),
    *(("set_option", ("betas", value)) for value in ((0.5, 0.99), (0.97, 0.9999))),
    *(("set_option", ("alpha", 0.8)), ("set_option", ("momentum", 0.97))),
    *(("set_option", ("eps", 1e-6)), ("zero_grad", (True,)), ("zero_grad", (False,))),
    *(("register_hooks", ()), ("reload", ()), ("load_anew", ()), ("deepcopy", ()), ("pickle", ())),
)


def event_of(name: str) -> Event:
    """Return what happens, by its name."""
    if name.startswith(PROGRAM):
        return _drawn(int(name.removeprefix(PROGRAM)))
    return EVENTS.get(name) or THOROUGH_EVENTS[name]


@lru_cache(maxsize=len(PROGRAMS))
def _drawn(number: int) -> Event:
    dice = random.Random(number)
    steps = dice.choice((4, 9, 20, 45))
    in_place = dice.random() < 0.3
    groups = dice.choice((1, 2, 4, 7))
    count = max(groups, dice.choice((1, 3, 8, 36)))
    calls = [Call(dice.randint(2, steps), *dice.choice(_CALLS)) for _ in range(dice.randint(0, 8))]
    tensors = (TensorSpec((9,)), *(_tensor(dice, groups, in_place) for _ in range(count)))
    changes: dict[str, Any] = {
        "tensors": tensors,
        "steps": steps,
        "calls": tuple(sorted(calls, key=lambda call: call.before)),
        "group_added_at": dice.randint(2, 7),
        "lr_changed_at": dice.choice((0, 3)),
        "gradients_in_place": in_place,
        "gradient_scale": dice.choice((0, 0, 0, -60, 30)),
        "threads": dice.choice((1, 1, 2)),
        "named": dice.random() < 0.2,
    }
    return Event(changes)


def _tensor(dice: random.Random, groups: int, in_place: bool) -> TensorSpec:
    shape = tuple(dice.choice(_SIZES[: 8 - dimensions]) for dimensions in range(dice.randint(0, 5)))
    layouts: tuple[Layout, ...] = ("contiguous", "contiguous", "transposed", "every second")
    of_gradients: tuple[Layout, ...] = (
        *layouts,
        "unaligned",
        "contiguous" if in_place else "expanded",
    )
    return TensorSpec(
        shape,
        layout=dice.choice(layouts),
        gradient_layout=dice.choice(of_gradients),
        gradients=dice.choice(("always", "always", "sometimes", "late", "never")),
        group=dice.randrange(groups),
    )
