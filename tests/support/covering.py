"""Choosing few cases of the table, for the tests, that still meet every pair of what there is.

What is chosen holds, of every optimizer,

* every pair of an implementation, a dtype, an event and the values of all options, defaults too;
* every value of an option of the grid, and every event, in every implementation and dtype;
* every implementation, every dtype and every event with every size and layout of a tensor, every
  way to resume, and parameters with and without names.

The cases are taken in their order, each that has something of this that none before it had.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeAlias

import torch

from optimlab.lab.parity.cases import Case
from optimlab.lab.parity.configurations import printed

#: A property of a case and its value, such as ``("dtype", "float32")`` or ``("lr", "0.0")``.
Fact: TypeAlias = tuple[str, Hashable]


def facts(case: Case) -> tuple[Fact, ...]:
    """Say how a case is set: implementation, dtype and event, then options, defaults too."""
    options = {**dict.fromkeys(case.row.grid, "default")}
    options |= {name: printed(value) for name, value in case.options.items()}
    where = ("implementation", case.implementation), ("dtype", case.dtype), ("event", case.event)
    return (*where, *sorted(options.items()))


def happenings(case: Case) -> Iterator[Fact]:
    """Say what else is in a case: chosen by its name, not by hand."""
    scenario = case.scenario
    yield "resume", scenario.resume
    yield "named", scenario.named
    yield "differentiated at its end", len(scenario.backward_after) > 1
    for spec in scenario.tensors:
        yield "size", torch.Size(spec.shape).numel()
        yield "layout", (spec.layout, spec.gradient_layout)


def together(case: Case) -> set[tuple[Hashable, ...]]:
    """Return everything of a case that at least one chosen case has to have."""
    settings = facts(case)
    where, options = settings[:3], settings[3:]
    found = {*itertools.combinations(settings, 2)}
    found |= {*itertools.product(where, happenings(case))}
    in_cell = [where[2], *(option for option in options if option[0] in case.row.grid)]
    return {(case.row.name, *each) for each in found | {(*where[:2], each) for each in in_cell}}


def covering(cases: Iterable[Case]) -> list[Case]:
    """Choose the cases of which each has something that none before it had."""
    met: set[tuple[Hashable, ...]] = set()
    chosen = []
    for case in cases:
        if not (new := together(case)) <= met:
            met |= new
            chosen.append(case)
    return chosen
