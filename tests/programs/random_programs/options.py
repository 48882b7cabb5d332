"""What random programs choose from: dtypes, hyperparameters and flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from random_programs.machine import Machine
from random_programs.sides import Group, Options

PALETTES = (
    (torch.float32,),
    (torch.float32,),
    (torch.float64,),
    (torch.bfloat16,),
    (torch.float16,),
    (torch.complex64,),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.complex64, torch.float64, torch.float16),
)

_LR = (
    *(0.1, 0.01, 0.001, 0.3, 0.0, 1),
    *(torch.tensor(0.02), torch.tensor([0.02]), torch.tensor(0.05, dtype=torch.float64)),
    torch.tensor(0.03, requires_grad=True),
)
_DECAY = (0, 0.0, 0.1, 0.01, 10.0)
_EPS = (1e-8, 1e-3, 0.0, 1)
_FLAG = (False, True)
_SELDOM = (False, False, False, True)
_FOREACH = (None, True, False, True, False)
_FUSED = (None, None, False, True)
_BETAS = (
    *((0.9, 0.999), (0.5, 0.5), (0.0, 0.0), (0.4, 0.99)),
    (torch.tensor(0.9), torch.tensor(0.99)),
    (torch.tensor([0.4]), torch.tensor([0.99])),
)
_ADAM: Options = {
    "lr": _LR,
    "betas": _BETAS,
    "eps": _EPS,
    "weight_decay": _DECAY,
    "amsgrad": _FLAG,
    "maximize": _FLAG,
    "foreach": _FOREACH,
    "capturable": _SELDOM,
    "differentiable": _SELDOM,
    "fused": _FUSED,
}

#: Values of each option that is accepted by itself, by optimizer.
OPTIONS: Mapping[str, Options] = {
    "SGD": {
        "lr": _LR,
        "momentum": (0, 0.9, 0.5, 0.9, 1),
        "dampening": (0, 0, 0.1, 1.0),
        "weight_decay": (*_DECAY, torch.tensor(0.1)),
        "nesterov": _FLAG,
        "maximize": _FLAG,
        "foreach": _FOREACH,
        "differentiable": _SELDOM,
        "fused": _FUSED,
    },
    "Adam": {**_ADAM, "decoupled_weight_decay": _FLAG},
    "AdamW": _ADAM,
    "RMSprop": {
        "lr": _LR,
        "alpha": (0.99, 0.9, 0.5, 0.0, 1.0),
        "eps": _EPS,
        "weight_decay": _DECAY,
        "momentum": (0, 0.9, 0.5),
        "centered": _FLAG,
        "capturable": _SELDOM,
        "foreach": _FOREACH,
        "maximize": _FLAG,
        "differentiable": _SELDOM,
    },
}

#: Values that a constructor refuses, and options that some or all do not have.
INVALID: Mapping[str, tuple[Any, ...]] = {
    "lr": (-0.1, float("nan"), torch.tensor([0.1, 0.1]), "0.1"),
    "betas": ((1.0, 0.9), (0.9, -0.1), (0.9, torch.tensor(0.9)), (0, 0), (0.9,), None),
    "eps": (-1.0,),
    "alpha": (-0.1,),
    "momentum": (-0.5, float("nan")),
    "weight_decay": (-1, None),
    "no_such_option": (1,),
}


#: Values that no hyperparameter should have.
ODD = (
    *(np.array(0.05), np.float64(0.05), np.float32(0.05), np.array([0.05])),
    *(2**53 + 1, 2**64, 1152921573326323713, 10**400, True, -0.0, -0.5, 1.5),
    *("0.1", None, 1j, [0.1], float("nan"), float("inf")),
    *(torch.tensor([0.1, 0.2]), torch.tensor(1), torch.tensor([[0.05]])),
)


def flags(name: str) -> list[str]:
    """Return the options of an optimizer that are on or off."""
    return [option for option, values in OPTIONS[name].items() if values[0] is False]


def some_options(machine: Machine, share: float) -> Options:
    """Draw values for a share of the options."""
    return {
        name: machine.random.choice(values)
        for name, values in OPTIONS[machine.name].items()
        if machine.chance(share)
    }


def without_graph(machine: Machine, options: Options) -> Options:
    """Let no gradient be recorded with respect to `lr`.

    The state would become part of the graph, which ends where it is copied or saved: what is loaded
    is a leaf, and a leaf cannot be changed in place while autograd records.
    """
    lr = options.get("lr")
    if machine.options.get("differentiable") and isinstance(lr, torch.Tensor):
        return {**options, "lr": lr.detach()}
    return options


def new_group(machine: Machine, *, named: bool) -> Group:
    """Draw a parameter group: new parameters, and options of its own."""
    members = [machine.new_param() for _ in range(machine.random.randint(1, 3))]
    # A repeated parameter is accepted, with a warning. But torch's foreach Nesterov momentum, which
    # writes to gradients, then adds to the same gradient twice.
    if machine.name != "SGD" and machine.chance(0.05):
        members.append(machine.random.choice(members))
    return Group(members, without_graph(machine, some_options(machine, 0.15)), named)
