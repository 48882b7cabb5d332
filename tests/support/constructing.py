"""Optimizers of both libraries, constructed with hyperparameters that they take or refuse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from actions import LIBRARIES, leaf
from beside import Options, Pair, raised

from optimlab.lab.lockstep.clone import clone

NAN = float("nan")
Values: TypeAlias = Mapping[str, tuple[Any, ...]]

ACCEPTED: tuple[Options, ...] = (
    {},
    *({"lr": lr} for lr in (1, True, -0.0, float("inf"))),
    *({"lr": torch.full(shape, 0.01)} for shape in ((), (1,), (1, 1))),
    {"weight_decay": torch.tensor(0.1)},
    {"maximize": True},
    {"foreach": True},
    {"differentiable": True},
)
"""What every optimizer takes."""

INVALID: Values = {
    "lr": (-1e-9, NAN, torch.tensor([0.1, 0.1]), torch.tensor(-1.0), torch.tensor([]), "1", None),
    "weight_decay": (-1, NAN, torch.tensor(-1.0), "1"),
    "foreach": (True,),
    "maximize": (True,),
    "differentiable": (True,),
    "no_such_option": (1,),
}
"""What none takes, or not together with all others."""


def same_once_constructed(name: str, options: Options) -> None:
    """Compare defaults, groups with the order of keys, repr and more."""
    pair = Pair(name, **options)
    assert pair.comparison.values > 50
    assert list(pair.ours.optimizer.defaults) == list(pair.theirs.optimizer.defaults)


def same_errors(name: str, invalid: Values, *, params: bool) -> set[Any]:
    """Compare the errors of constructions: the first check decides.

    Args:
        name: the class.
        invalid: each value is tried by itself, and every two together.
        params: whether there are parameters; ``None`` is given otherwise.

    Returns:
        The errors that there were, and ``None`` if some succeeded.
    """
    found = set()
    for options in _one_or_two(invalid):
        ours, theirs = (
            raised(lambda: getattr(each, name)([leaf(2)] if params else None, **clone(options)))  # noqa: B023
            for each in LIBRARIES
        )
        assert ours == theirs, options
        found.add(theirs)
    return found


def _one_or_two(invalid: Values) -> Iterator[Options]:
    single = [{key: value} for key, values in invalid.items() for value in values]
    yield from single
    for first, second in itertools.combinations(single, 2):
        if first.keys() != second.keys():
            yield {**first, **second}
