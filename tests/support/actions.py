"""What is done to both sides of a `Pair`, and to classes of both libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import pytest
import torch
from beside import WAYS, Options, Pair, Side, assert_equal, raised
from torch import nn

import optimlab
from optimlab.lab.lockstep.clone import clone

Change: TypeAlias = Callable[[Side], object]

LIBRARIES = (optimlab, torch.optim)
FOREACH: Options = {"foreach": True}
FUSED = ("SGD", "Adam", "AdamW")
"""The optimizers for which torch has a fused kernel."""

asked = pytest.mark.parametrize(("name", "way"), [way for way in WAYS if way.values[1]])
"""Each optimizer with each implementation that can be asked for; the default is one of them."""


def step(side: Side) -> Any:
    """Take a step."""
    return side.optimizer.step()


def leaf(*shape: int) -> nn.Parameter:
    """Make a parameter."""
    return nn.Parameter(torch.ones(shape))


def taken(name: str, options: Options) -> Options:
    """Leave out the options that an optimizer does not have."""
    known = getattr(torch.optim, name)([torch.ones(1)]).defaults
    return {key: value for key, value in options.items() if key in known}


def in_group(index: int = -1, **options: Any) -> Change:
    """Set entries of a group, by default of the last one."""
    return lambda side: side.optimizer.param_groups[index].update(clone(options))


def scaled(**tensors: float | None) -> Change:
    """Tell the optimizer what a GradScaler tells a fused one."""

    def tell(side: Side) -> None:
        for name, value in tensors.items():
            setattr(side.optimizer, name, None if value is None else torch.tensor(value))

    return tell


def same_outcome(pair: Pair, action: Change = step) -> bool:
    """Do the same to both sides; compare the error if there is one, and what is left if not.

    Returns:
        Whether both succeeded.
    """
    before = clone(pair.ours.seen())
    ours, theirs = (raised(partial(action, side)) for side in pair.sides)
    assert ours == theirs
    if ours is None:
        pair.compare()
        return True
    # What the checks find leaves everything as it was; what ATen finds, as torch leaves it.
    left = pair.ours.seen()
    try:
        assert_equal(left, before)
    except pytest.fail.Exception:
        pair.compare()
    return False
