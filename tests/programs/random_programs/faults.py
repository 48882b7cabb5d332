"""Actions that nobody should take: shared memory, missing entries, odd numbers, errors."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeAlias

import torch

from optimlab.lab.lockstep.clone import clone
from random_programs.machine import Machine
from random_programs.options import ODD, OPTIONS
from random_programs.sides import OtherError, Side, give
from random_programs.table import action

Mend: TypeAlias = Callable[[], object]


@action(2)
def share_memory(machine: Machine) -> None:
    params = machine.ours.params
    first = machine.random.randrange(len(params))
    alike = [
        i
        for i, param in enumerate(params)
        if i != first and (param.shape, param.dtype) == (params[first].shape, params[first].dtype)
    ]

    def share(side: Side) -> None:
        for i in alike:
            side.params[i].grad = None
            side.params[i].data = side.params[first].data

    machine.both(f"parameters {alike} in the memory of parameter {first}", share)
    for _ in range(2):
        machine.gradients = machine.new_gradients()
        machine.step("step with shared memory")


@action(2)
def ask_for_foreach_and_fused(machine: Machine) -> None:
    index = machine.random.randrange(len(machine.groups))

    def ask(side: Side) -> None:
        side.optimizer.param_groups[index].update(foreach=True, fused=True)

    with machine.detour():
        machine.both(f"groups[{index}] with foreach and fused", ask)
        machine.gradients = machine.new_gradients()
        machine.step()


@action(3)
def edit_the_entries(machine: Machine) -> None:
    index = machine.random.randrange(len(machine.groups))
    keys = machine.random.sample(sorted(OPTIONS[machine.name]), k=machine.random.choice([1, 1, 2]))
    of_defaults = machine.chance(0.3)
    added = machine.chance(0.4)

    def edit(side: Side) -> None:
        optimizer = side.optimizer
        entries = optimizer.defaults if of_defaults else optimizer.param_groups[index]
        if added:
            entries["mine"] = 1
            return
        for key in keys:
            entries.pop(key, None)

    what = "defaults" if of_defaults else f"groups[{index}]"
    with machine.detour():
        machine.both(f"{what} with an entry more" if added else f"{what} without {keys}", edit)
        for _ in range(2):
            machine.gradients = machine.new_gradients()
            machine.step("step with edited entries")


@action(3)
def set_an_odd_hyperparameter(machine: Machine) -> None:
    index = machine.random.randrange(len(machine.groups))
    numbers = [name for name, values in OPTIONS[machine.name].items() if values[0] not in _FLAGS]
    name = machine.random.choice(numbers)
    value: Any = machine.random.choice(ODD)
    if name == "betas" and machine.chance(0.8):
        value = machine.random.choice([(value, 0.9), (0.9, value), (0.9, 0.9, value)])

    def change(side: Side) -> None:
        side.optimizer.param_groups[index][name] = deepcopy(value)

    with machine.detour():
        machine.both(f"groups[{index}][{name!r}] = {value!r}", change)
        machine.gradients = machine.new_gradients()
        machine.step("step with an odd number")


_FLAGS = (None, False)

_COUNTS = {
    "of two elements": torch.tensor([3.0, 3.0]),
    "of one dimension": torch.tensor([3.0]),
    "in double precision": torch.tensor(3.0, dtype=torch.float64),
    "in half precision": torch.tensor(3.0, dtype=torch.bfloat16),
    "whole": torch.tensor(3),
    "complex": torch.tensor(3.0 + 1j),
    "negative": torch.tensor(-5.0),
    "before the first": torch.tensor(-1.0),
    "between two": torch.tensor(2.5),
    "nan": torch.tensor(float("nan")),
    "that requires a gradient": torch.tensor(3.0, requires_grad=True),
    "a number": 3.0,
}


@action(2)
def set_an_odd_step_count(machine: Machine) -> None:
    index = machine.random.choice([i for group in machine.groups for i in group.members])
    kind = machine.random.choice(list(_COUNTS))

    def change(side: Side) -> None:
        held = side.optimizer.state.get(side.params[index])
        if isinstance(held, dict) and "step" in held:
            held["step"] = deepcopy(_COUNTS[kind])

    with machine.detour():
        machine.both(f"step count of parameter {index} {kind}", change)
        machine.gradients = machine.new_gradients(but_one_for=index)
        machine.step("step with an odd step count")


@action(4)
def fail_under_way_and_go_on(machine: Machine) -> None:
    index = machine.random.choice([i for group in machine.groups for i in group.members])
    fault = machine.random.choice(list(_FAULTS))
    machine.gradients = machine.new_gradients(but_one_for=index)
    mend: list[Mend] = []

    def spoil(side: Side) -> None:
        give(side, machine.gradients)
        mend.append(_FAULTS[fault](side, index))

    present = machine.snapshot()
    machine.both(f"{fault} of parameter {index}", spoil)
    try:
        error = machine.both("step with it", lambda side: side.optimizer.step())
    except OtherError:
        if len(machine.groups) == 1:
            raise
        error = None  # ours has found a fault in another group first
    for each in mend:
        each()
    if error is None or not error.in_rule:
        machine.restore(present)
        return
    machine.gradients = machine.new_gradients()
    machine.step("step after the error")


def _whole_gradient(side: Side, index: int) -> Mend:
    param = side.params[index]
    param.grad_dtype = None
    param.grad = torch.ones(param.shape, dtype=torch.int64)

    def mend() -> None:
        param.grad = None
        param.grad_dtype = param.dtype

    return mend


def _state_of_another_size(side: Side, index: int) -> Mend:
    held = side.optimizer.state.get(side.params[index])
    names = [name for name in held or () if name != "step"]
    fused = any(group.get("fused") for group in side.optimizer.param_groups)
    if not names or fused:  # torch's fused kernels do not look at sizes
        return lambda: None
    assert held is not None
    before = held[names[-1]]
    held[names[-1]] = torch.ones(2, 7, dtype=before.dtype)
    return lambda: held.update({names[-1]: before})


def _odd_option(**options: Any) -> Callable[[Side, int], Mend]:
    def change(side: Side, index: int) -> Mend:
        param = side.params[index]
        (group, *_) = (
            group
            for group in side.optimizer.param_groups
            if any(member is param for member in group["params"])
        )
        known = {key: value for key, value in options.items() if key in group}
        before = {key: group[key] for key in known}
        group.update(clone(known))
        return lambda: group.update(before)

    return change


_FAULTS: dict[str, Callable[[Side, int], Mend]] = {
    "a gradient of whole numbers": _whole_gradient,
    "state of another size": _state_of_another_size,
    "lr that is a string": _odd_option(lr="0.1"),
    "eps or momentum that is a string": _odd_option(eps="0.1", momentum=torch.ones(3, 2, 7)),
    "weight decay that is a string": _odd_option(weight_decay="0.1"),
    "lr of two elements": _odd_option(lr=torch.tensor([0.1, 0.2])),
    "lr that is too large": _odd_option(lr=10**400),
}
