"""The parts of a run, and how to put one of them into another run."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from optimlab.lab.resume.contract import Run
from optimlab.lab.resume.outcome import Cause

How: TypeAlias = Literal["state_dict", "generator", "tensor", "value"]
Randomness: TypeAlias = dict[str, Any]

_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((Optimizer,), "optimizer state"),
    ((LRScheduler, ReduceLROnPlateau), "scheduler"),
    ((nn.Module,), "model"),
    ((torch.amp.GradScaler,), "gradient scaler"),
    ((torch.Generator, random.Random), "random numbers"),
)


@dataclass(frozen=True)
class Part:
    """A part of a run as it was when the run was saved.

    Attributes:
        name: the attribute.
        cause: what it means if this part is what was not restored.
        how: how it is put into another run.
        content: its state, pickled.
    """

    name: str
    cause: Cause
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
    """Take the state of every attribute of a run.

    Returns:
        The parts, and the names of those that cannot be taken out, such as iterators.
    """
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
            parts.append(Part(name, Cause(_kind(value), where), how, content))
    return parts, out_of_reach


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
    found: Randomness = {
        "Python's random": random.getstate(),
        "NumPy's global generator": np.random.get_state(),  # noqa: NPY002 - the global one
        "torch's CPU generator": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["torch's CUDA generators"] = torch.cuda.get_rng_state_all()
    return found


def set_randomness(states: Randomness) -> None:
    """Set the generators that are named, and no others."""
    for name, state in states.items():
        match name:
            case "Python's random":
                random.setstate(state)
            case "NumPy's global generator":
                np.random.set_state(state)  # noqa: NPY002 - the global one
            case "torch's CPU generator":
                torch.set_rng_state(state)
            case _:
                torch.cuda.set_rng_state_all(state)


def generators(states: Randomness) -> Iterator[tuple[Cause, Randomness]]:
    """Yield the generators one by one."""
    for name, state in states.items():
        yield Cause("random numbers", name), {name: state}
