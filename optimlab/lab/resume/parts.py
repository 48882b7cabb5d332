"""The parts of a run, and how to put one of them into another run."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from optimlab.lab.findings import Finding, error
from optimlab.lab.resume.run import Run

How: TypeAlias = Literal["state_dict", "generator", "tensor", "value"]
Randomness: TypeAlias = dict[str, Any]

_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((Optimizer,), "optimizer state"),
    ((LRScheduler, ReduceLROnPlateau), "scheduler"),
    ((nn.Module,), "model"),
    ((torch.amp.GradScaler,), "gradient scaler"),
    ((torch.Generator, random.Random), "random numbers"),
)

# The generators that a process has from the start: how their states are taken and set.
_GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "Python's random": (random.getstate, random.setstate),
    "NumPy's global generator": (np.random.get_state, np.random.set_state),
    "torch's CPU generator": (torch.get_rng_state, torch.set_rng_state),
    "torch's CUDA generators": (torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all),
}


@dataclass(frozen=True)
class Part:
    """A part of a run as it was when the run was saved: an attribute, its state pickled."""

    name: str
    cause: Finding
    how: How
    content: bytes

    def put_into(self, run: Run) -> None:
        """Put this part's state into a run."""
        state = pickle.loads(self.content)  # which this program has just written
        held = getattr(run, self.name, None)
        if self.how == "state_dict" and held is not None:
            held.load_state_dict(state)
        elif self.how == "generator" and held is not None:
            held.set_state(state)
        elif self.how == "tensor" and isinstance(held, Tensor) and held.shape == state.shape:
            with torch.no_grad():
                held.copy_(state)
        else:
            setattr(run, self.name, state)


def parts_of(run: Run) -> tuple[list[Part], list[str]]:
    """Take every attribute of a run, and the names of those that cannot be taken out."""
    parts: list[Part] = []
    out_of_reach: list[str] = []
    for name, value in vars(run).items():
        how, state = _state(value)
        where = f"run.{name} ({type(value).__name__})"
        try:
            content = pickle.dumps(state)
        except Exception:  # noqa: BLE001 - any object may refuse to be pickled, in any way
            out_of_reach.append(where)
        else:
            parts.append(Part(name, not_restored(_kind(value), where), how, content))
    return parts, out_of_reach


def not_restored(kind: str, where: str) -> Finding:
    """Say that a part is not restored."""
    return error(kind, where, "not restored", "save its state, and load it when resuming.")


def _state(value: Any) -> tuple[How, Any]:
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return "state_dict", copy.deepcopy(value.state_dict())
    if isinstance(value, torch.Generator):
        return "generator", value.get_state()
    if isinstance(value, Tensor):
        return "tensor", value.detach().clone()
    return "value", value


def _kind(value: Any) -> str:
    for types, kind in _KINDS:
        if isinstance(value, types):
            return kind
    # Asked for here, because numpy.random takes long to import.
    return "random numbers" if isinstance(value, np.random.Generator) else "data order or progress"


def randomness() -> Randomness:
    """Return the states of all generators that a process has from the start."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {name: get() for name, (get, _) in _GENERATORS.items() if cuda or "CUDA" not in name}


def set_randomness(states: Randomness) -> None:
    """Set the generators that are named, and no others."""
    for name, state in states.items():
        _GENERATORS[name][1](state)
