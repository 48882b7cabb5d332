"""Random programs: actions applied to an optimizer of optimlab and torch's own in lock step.

Everything that a program does follows from its number. Each action draws from a generator of its
own, seeded by the program's number and the action's place, so that leaving one action out changes
what the others draw as little as possible: :func:`shortest` finds the few that a failure needs.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pytest
import torch
from graphs_on_cpu import let_graphs_be_captured_on_cpu

from random_programs import checkpoints, faults, training
from random_programs.machine import Machine
from random_programs.options import (
    INVALID,
    OPTIONS,
    PALETTES,
    new_group,
    some_options,
    without_graph,
)
from random_programs.sides import Diverged, Tally
from random_programs.table import ACTIONS

__all__ = ["ACTIONS", "Diverged", "Tally", "checkpoints", "faults", "play", "shortest", "training"]

LONGEST = 20


def play(number: int, *, leave_out: Collection[int] = ()) -> Tally:
    """Run one program.

    Args:
        number: of the program.
        leave_out: places of actions that are not to be taken.

    Raises:
        Diverged: where optimlab and torch differ.
    """
    chooser = random.Random(str(number))
    machine = Machine(number, chooser.choice(list(OPTIONS)))
    names, weights = list(ACTIONS), [weight for weight, _ in ACTIONS.values()]
    with _surroundings(graphs_on_cpu=chooser.random() < 0.7):
        _construct(machine)
        actions = chooser.choices(names, weights, k=chooser.randint(6, LONGEST))
        for place, name in enumerate(actions):
            if place not in leave_out:
                machine.random = random.Random(f"{number}, {place}")
                machine.tally.actions[name] += 1
                ACTIONS[name][1](machine)
    for param in machine.ours.params:
        machine.tally.elements += param.numel()
        machine.tally.finite += int(param.detach().isfinite().sum())
    return machine.tally


def _construct(machine: Machine) -> None:
    """Make both optimizers; every now and then from invalid arguments first."""
    for share in (0.35, 0.35, 0.25, 0.1, 0.0):
        machine.options = some_options(machine, share)
        if share and machine.chance(0.15):
            name = machine.random.choice(list(INVALID))
            machine.options[name] = machine.random.choice(INVALID[name])
        machine.options = without_graph(machine, machine.options)
        machine.palette = machine.random.choice(PALETTES)
        named = machine.chance(0.2)
        for side in machine.sides:
            side.params.clear()
        count = machine.random.randint(1, 3)
        machine.groups = [new_group(machine, named=named) for _ in range(count)]
        if machine.both(f"construct with {machine.options}", machine.construct) is None:
            break
    machine.keep()


def shortest(number: int) -> str:
    """Describe where a program fails, without the actions that the failure does not need."""
    leave_out: set[int] = set()
    description = _failure(number, leave_out)
    for place in range(LONGEST):
        failure = _failure(number, leave_out | {place})
        if failure:
            description = failure
            leave_out.add(place)
    return description


def _failure(number: int, leave_out: Collection[int]) -> str:
    try:
        play(number, leave_out=leave_out)
    except Diverged as difference:
        return str(difference)
    return ""


@contextmanager
def _surroundings(*, graphs_on_cpu: bool) -> Iterator[None]:
    """Set what programs change or depend on, and restore it."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small are faster with one
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if graphs_on_cpu:
                let_graphs_be_captured_on_cpu(patch)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
