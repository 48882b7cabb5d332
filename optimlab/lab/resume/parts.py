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

from optimlab.lab.compare.bits import Mismatch, same_bits
from optimlab.lab.compare.diff import Diff, Path, path_name
from optimlab.lab.findings import Finding, error
from optimlab.lab.resume.run import Run

_NARROWER = (torch.bfloat16, torch.float16, torch.float32)

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

    def apart(self, run: Run) -> str:
        """Say what of this part another run does not have, by key and value."""
        now, then = _seen(getattr(run, self.name, None)), _seen(pickle.loads(self.content))
        try:
            found = Diff().differences(now, then)
            values = {path: (_at(now, path), _at(then, path), how) for path, how in found if path}
        except Exception:  # noqa: BLE001 - values of any class are compared here
            return ""
        said = {path[-1]: _said(path, *each) for path, each in reversed(values.items())}
        return "; ".join([text for text in reversed(said.values()) if text][:3])


def _seen(value: Any) -> Any:
    """Return what is to be compared of a part, or of its state."""
    state = _state(value)[1]
    return vars(state) if hasattr(state, "__dict__") and not isinstance(state, Tensor) else state


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _said(path: Path, now: Any, then: Any, mismatch: Mismatch) -> str:
    at = next((n for n in range(len(path) - 1, 0, -1) if isinstance(path[n - 1], str)), 0)
    at = len(path) - 1 if isinstance(path[-1], str) else max(at - 1, 0)
    where = path_name(path[at:])
    outer = f" ({path_name(path[:at])})" if at else ""
    sizes = [len(side) if isinstance(side, list | tuple | dict) else 0 for side in (now, then)]
    if mismatch.what in ("keys", "length") and sizes[0] != sizes[1]:
        return f"{where} has {sizes[0]} entries instead of {sizes[1]}{outer}"
    if isinstance(now, Tensor) and isinstance(then, Tensor):
        rounded = lost(now, then)
        if rounded:
            return f"{where} {rounded}{outer}"
        now, then = mismatch.ours, mismatch.theirs
    plain = (bool, int, float, str, torch.dtype, tuple, type(None))
    if not (isinstance(now, plain) and isinstance(then, plain)):
        return ""
    return f"{where} {now} instead of {then}{outer}"


def lost(loaded: Any, saved: Any) -> str:
    """Say how a tensor came back with fewer bits, if it did."""
    if not (isinstance(loaded, Tensor) and isinstance(saved, Tensor)):
        return ""
    if loaded.shape != saved.shape or not (loaded.is_floating_point() and saved.numel()):
        return ""
    if loaded.dtype != saved.dtype:
        return f"was {saved.dtype} and came back as {loaded.dtype}"
    if same_bits(loaded, saved):
        return ""
    for narrow in _NARROWER:
        rounded = saved.to(narrow).to(saved.dtype)
        if narrow.itemsize < saved.dtype.itemsize and same_bits(loaded, rounded):
            return f"came back rounded to {narrow}"
    return ""


def miswired(run: Run) -> list[Finding]:
    """Find schedules that drive another optimizer than the run's."""
    own = {id(value) for value in vars(run).values() if isinstance(value, Optimizer)}
    found = []
    waiting = [(f"run.{name}", value) for name, value in vars(run).items()]
    seen: set[int] = set()
    while own and waiting:
        where, value = waiting.pop(0)
        if isinstance(value, list | tuple):
            waiting += [(f"{where}[{index}]", item) for index, item in enumerate(value)]
        if not isinstance(value, LRScheduler) or id(value) in seen:
            continue
        seen.add(id(value))
        if id(value.optimizer) not in own:
            what = "drives another optimizer, which nothing else has, and the run's lr stands still"
            advice = "save the state_dict() of the inner schedule, not the schedule."
            found.append(error("scheduler", f"{where} ({type(value).__name__})", what, advice))
        waiting += [(f"{where}.{name}", inner) for name, inner in vars(value).items()]
    return found


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
