"""Actions of saving and loading, and what people do to an optimizer by hand."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from copy import deepcopy

import torch

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import laid_out
from random_programs.machine import Machine
from random_programs.options import OPTIONS
from random_programs.sides import Options, Side
from random_programs.table import action


@action(3)
def resume(machine: Machine) -> None:
    way = machine.random.choice(["as it is", "copied", "through a file", "into this instance"])

    def resumed(side: Side) -> None:
        saved = side.optimizer.state_dict()
        if way == "copied":
            saved = clone(saved)
        elif way == "through a file":
            saved = _through_a_file(saved)
        if way != "into this instance":
            machine.construct(side)
        side.optimizer.load_state_dict(saved)

    _load(machine, f"resume from a state dict {way}", resumed)


def _through_a_file(saved: Options) -> Options:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    loaded: Options = torch.load(file, weights_only=True)
    return loaded


def _load(machine: Machine, what: str, load: Callable[[Side], None]) -> bool:
    """Load on both sides; come back if they refuse, and tell whether they did not."""
    refused = machine.both(what, load) is not None
    if refused:
        machine.recover()
    return not refused


@action(4)
def resume_from_one_of_the_two(machine: Machine) -> None:
    source = machine.random.choice(machine.sides)
    saved = source.optimizer.state_dict()
    # torch goes on with the very tensors it loads. With its own it may, for ours are to be copies.
    for_theirs = saved if source is machine.theirs else clone(saved)

    def resumed(side: Side) -> None:
        machine.construct(side)
        side.optimizer.load_state_dict(saved if side is machine.ours else for_theirs)

    _load(machine, f"both resume from the state dict of {source.library.__name__}", resumed)


@action(1)
def resume_in_another_dtype(machine: Machine) -> None:
    if any(param.is_complex() for param in machine.ours.params):
        return
    dtype = machine.random.choice([torch.float32, torch.float64, torch.bfloat16])

    def resumed(side: Side) -> None:
        saved = clone(side.optimizer.state_dict())
        for i, param in enumerate(side.params):
            side.params[i] = torch.empty_like(param, dtype=dtype).copy_(param.detach())
            side.params[i].requires_grad_(param.requires_grad)
        machine.construct(side)
        side.optimizer.load_state_dict(saved)

    _load(machine, f"resume with parameters of {dtype}", resumed)
    machine.gradients = []  # of the old dtype


@action(2)
def load_a_damaged_state_dict(machine: Machine) -> None:
    damage = machine.random.choice(list(_DAMAGES))

    def load(side: Side) -> None:
        saved = clone(side.optimizer.state_dict())
        _DAMAGES[damage](saved)
        side.optimizer.load_state_dict(saved)

    with machine.detour():
        if _load(machine, f"load a state dict {damage}", load):
            machine.gradients = machine.new_gradients()
            machine.step("step from it")


def _held(saved: Options) -> list[Options]:
    return [held for held in saved["state"].values() if isinstance(held, dict)]


_DAMAGES: dict[str, Callable[[Options], object]] = {
    "without its state": lambda saved: saved.pop("state"),
    "without its groups": lambda saved: saved.pop("param_groups"),
    "with a group more": lambda saved: saved["param_groups"].append({"params": []}),
    "with a group less": lambda saved: saved["param_groups"].pop(),
    "with a parameter less": lambda saved: saved["param_groups"][-1]["params"].pop(),
    "with a group without parameters": lambda saved: saved["param_groups"][0].pop("params"),
    "with empty state": lambda saved: saved["state"].clear(),
    "without the last state tensors": lambda saved: [
        held.popitem() for held in _held(saved) if held
    ],
    "without step": lambda saved: [held.pop("step", None) for held in _held(saved)],
    "with numbers for step": lambda saved: [
        held.update(step=float(held["step"])) for held in _held(saved) if "step" in held
    ],
    "without newer options": lambda saved: [
        group.pop(name, None)
        for group in saved["param_groups"]
        for name in ("foreach", "maximize", "fused", "differentiable")
    ],
    "with state of other things": lambda saved: saved["state"].update(
        {"note": [1, 2], 77: torch.ones(2), 99: {"a": 1}}
    ),
}


@action(1)
def load_the_state_dict_of_another_optimizer(machine: Machine) -> None:
    other = machine.random.choice([name for name in OPTIONS if name != machine.name])
    options = {"momentum": 0.9} if other in {"SGD", "RMSprop"} else {}

    def load(side: Side) -> None:
        params = [param.detach().clone().requires_grad_() for param in side.params]
        groups = [{"params": [params[i] for i in group.members]} for group in machine.groups]
        foreign = getattr(side.library, other)(groups, **options)
        for param in params:
            param.grad = param.detach().clone()
        foreign.step()
        side.optimizer.load_state_dict(clone(foreign.state_dict()))

    with machine.detour():
        if _load(machine, f"load a state dict of {other}", load):
            machine.gradients = machine.new_gradients()
            machine.step("step from it")


@action(2)
def duplicate(machine: Machine) -> None:
    way = machine.random.choice(["deepcopy", "pickle"])

    def duplicated(side: Side) -> None:
        pair = side.params, side.optimizer
        copy = deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
        side.params[:], side.optimizer = copy

    _load(machine, way, duplicated)


@action(3)
def edit_the_state(machine: Machine) -> None:
    state = machine.ours.optimizer.state
    index = machine.random.choice([i for group in machine.groups for i in group.members])
    param = machine.ours.params[index]
    name = machine.random.choice(list(state.get(param) or ["seen"]))
    way = machine.random.choice(list(_EDITS)) if state.get(param) else "replaced"
    if way == "a number" and name != "step":
        way = "replaced"  # torch's message has the values in it
    value = torch.tensor(7.0) if name == "step" else machine.values(param.shape, param.dtype)
    value = value if value.is_complex() else value.abs()

    def edit(side: Side) -> None:
        _EDITS[way](side.optimizer.state[side.params[index]], name, value)

    machine.both(f"state {name!r} of parameter {index} {way}", edit)
    # With a gradient, so that the step fails if this state is unfit, and it is forgotten again; and
    # as the only one, because torch looks for all faults of one parameter after the other.
    gradients = machine.new_gradients(but_one_for=index)
    machine.gradients = [grad if i == index else None for i, grad in enumerate(gradients)]
    machine.step("step with edited state")


_EDITS: dict[str, Callable[[Options, str, torch.Tensor], object]] = {
    "replaced": lambda state, name, value: state.update({name: value.clone()}),
    "transposed": lambda state, name, value: state.update(
        {name: laid_out(state[name], "transposed") if value.dim() > 1 else state[name].clone()}
    ),
    "deleted": lambda state, name, value: state.pop(name),
    "and all others deleted": lambda state, name, value: state.clear(),
    "a number": lambda state, name, value: state.update({name: 5.0}),
}


@action(2)
def set_data(machine: Machine) -> None:
    index = machine.random.randrange(len(machine.ours.params))
    param = machine.ours.params[index]
    dtype = param.dtype
    if machine.chance(0.3) and not dtype.is_complex:
        dtype = machine.random.choice([torch.float32, torch.float64, torch.bfloat16])
    value = laid_out(machine.values(param.shape, dtype), machine.layout(param.shape))

    def assign(side: Side) -> None:
        side.params[index].grad = None
        side.params[index].data = clone(value)

    machine.both(f"new data of {dtype} for parameter {index}", assign)
    machine.gradients = machine.new_gradients()
    machine.step("step with new data")


@action(1)
def change_the_default_dtype(machine: Machine) -> None:
    is_double = torch.get_default_dtype() is torch.float64
    torch.set_default_dtype(torch.float32 if is_double else torch.float64)
    machine.log.append(f"default dtype {torch.get_default_dtype()}")
