"""Actions of training: steps, changed hyperparameters and added parameter groups."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.lab.lockstep.clone import clone
from random_programs.machine import Machine
from random_programs.options import OPTIONS, flags, new_group, without_graph
from random_programs.sides import Group, Side, give
from random_programs.table import action


@action(14)
def step(machine: Machine) -> None:
    machine.gradients = machine.new_gradients()
    machine.step()


@action(4)
def step_with_the_same_gradients(machine: Machine) -> None:
    if len(machine.gradients) == len(machine.ours.params):
        machine.gradients = machine.without_excluded(machine.gradients)
        machine.step("step with the same gradients")


@action(2)
def step_with_a_closure(machine: Machine) -> None:
    machine.gradients = machine.new_gradients()
    later = machine.new_gradients()
    fails = machine.chance(0.2)

    def closure(side: Side) -> float:
        assert torch.is_grad_enabled()
        give(side, later)
        if fails:
            raise ArithmeticError("no loss")
        return 0.25

    machine.step(
        "step with a closure",
        closure=lambda side: partial(closure, side),
        leaves_gradients_alone=False,  # the closure sets others
    )


@action(2)
def step_with_scaled_gradients(machine: Machine) -> None:
    scale = machine.random.choice([None, 1024.0])
    # Fused SGD that skips its first step leaves uninitialised memory in torch's momentum buffer.
    overflow = machine.random.choice([None, 0.0] if machine.name == "SGD" else [None, 0.0, 1.0])
    machine.gradients = machine.new_gradients()

    def tell(side: Side) -> None:
        for name, value in (("grad_scale", scale), ("found_inf", overflow)):
            setattr(side.optimizer, name, None if value is None else torch.tensor(value))

    what = f"step with grad_scale={scale}, found_inf={overflow}"
    # The kernel takes the scale out of the gradients, in place.
    machine.step(what, before=tell, leaves_gradients_alone=scale is None)
    if scale is not None:
        machine.both("look at gradients", lambda side: [param.grad for param in side.params])
    for side in machine.sides:
        vars(side.optimizer).pop("grad_scale", None)
        vars(side.optimizer).pop("found_inf", None)


@action(1)
def step_with_a_sparse_gradient(machine: Machine) -> None:
    machine.gradients = machine.new_gradients()
    # The first: torch looks at one parameter after the other, and might find another fault first.
    first = next((i for i, grad in enumerate(machine.gradients) if grad is not None), 0)
    machine.gradients[first] = machine.sparse(machine.ours.params[first])
    machine.step("step with a sparse gradient")


@action(2)
def zero_grad(machine: Machine) -> None:
    set_to_none = machine.chance(0.4)

    def zero(side: Side) -> list[Tensor | None]:
        side.optimizer.zero_grad(set_to_none)
        return [param.grad for param in side.params]

    if machine.both(f"zero_grad({set_to_none})", zero) is None and not set_to_none:
        machine.gradients = [clone(param.grad) for param in machine.ours.params]
        machine.step("step with zero gradients")


@action(7)
def change_a_hyperparameter(machine: Machine) -> None:
    names = set(OPTIONS[machine.name]) - set(flags(machine.name))
    _change(machine, machine.random.choice(sorted(names)))


@action(4)
def flip_a_flag(machine: Machine) -> None:
    _change(machine, machine.random.choice(flags(machine.name)))
    machine.gradients = machine.new_gradients()
    machine.step("step with the flag flipped")  # which goes back if it cannot be


def _change(machine: Machine, name: str) -> None:
    index = machine.random.randrange(len(machine.groups))
    options = {name: machine.random.choice(OPTIONS[machine.name][name])}
    options = without_graph(machine, options)

    def change(side: Side) -> None:
        side.optimizer.param_groups[index].update(clone(options))

    machine.both(f"groups[{index}].update({options})", change)


@action(2)
def fill_tensor_learning_rates(machine: Machine) -> None:
    factor = machine.random.choice([0.5, 0.1, 2.0])

    def fill(side: Side) -> None:
        learning_rates = [group["lr"] for group in side.optimizer.param_groups]
        for lr in {id(lr): lr for lr in learning_rates if isinstance(lr, Tensor)}.values():
            lr.detach().mul_(factor)

    machine.both(f"every tensor lr times {factor}", fill)


@action(3)
def add_a_group(machine: Machine) -> None:
    group = new_group(machine, named=machine.groups[0].named)

    def add(side: Side) -> None:
        side.optimizer.add_param_group(group.of(side))

    if machine.both(f"add {group}", add) is None:
        machine.groups.append(group)


@action(2)
def add_an_invalid_group(machine: Machine) -> None:
    group = new_group(machine, named=machine.groups[0].named)
    taken = machine.random.choice(machine.groups[0].members)
    way = machine.random.choice(list(_INVALID_GROUPS))

    def add(side: Side) -> None:
        given = _INVALID_GROUPS[way](side, group, side.params[taken])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # raised like the error it is to become
            side.optimizer.add_param_group(given)

    if machine.both(f"add a group: {way}", add) is None:
        machine.recover()  # a tensor that is no leaf may be added where steps are differentiable


def _with_params(params: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    return {**group, "params": params}


_Invalid: TypeAlias = Callable[[Side, Group, Tensor], Any]
_INVALID_GROUPS: dict[str, _Invalid] = {
    "a set": lambda side, group, _: _with_params({side.params[-1]}, group.of(side)),
    "with a number": lambda side, group, _: _with_params([side.params[-1], 1.5], group.of(side)),
    "no leaf": lambda side, group, _: _with_params(side.params[-1] * 2, group.of(side)),
    "not iterable": lambda side, group, _: _with_params(3, group.of(side)),
    "only some named": lambda side, group, _: _with_params(
        [side.params[-1], ("a", side.params[-1])], group.of(side)
    ),
    "a parameter of another": lambda side, group, taken: _with_params(taken, group.of(side)),
    "a parameter twice": lambda side, group, _: _with_params(
        group.of(side)["params"] * 2, group.of(side)
    ),
    "with names unlike the others": lambda side, group, _: Group(
        group.members, group.options, not group.named
    ).of(side),
    "no dict": lambda side, group, _: [side.params[-1]],
    "without parameters": lambda side, group, _: {"lr": 0.1},
}
