"""What a run has to offer so that its resumption can be proved."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.compare.digest import digest
from optimlab.lab.importing import import_named


class Run(Protocol):
    """A training run: what is trained, where it is, and how to go on.

    What :meth:`state_dict` leaves out is what a resumption loses, so write it as the program under
    test does. Keep the parts of the run (model, optimizer, scheduler, data) as attributes: that is
    how a part that was not restored is found.
    """

    def step(self) -> object:
        """Take one step of the training, with everything that belongs to it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the program saves; it goes through ``torch.save``."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Continue from what :meth:`state_dict` returned, in a run that was just made."""

    def tensors(self) -> Mapping[str, Any]:
        """Name everything that has to have the same bits: tensors, numbers, nested dicts of them.

        Parameters and buffers, optimizer state, the loss, the current lr: what is not named here is
        not compared.
        """


MakeRun: TypeAlias = "Callable[[], Run] | str"
Digests: TypeAlias = dict[str, str]

_PLAIN = (torch.Tensor, bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def maker(make_run: MakeRun) -> Callable[[], Run]:
    """Return the function that makes runs; a string names it as ``module:function``."""
    made: Callable[[], Run] = import_named(make_run) if isinstance(make_run, str) else make_run
    return made


def check_travels(make_run: MakeRun) -> None:
    """Refuse what a new process could not import: a lambda, or a function within another one."""
    try:
        pickle.dumps(make_run)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            "make_run has to reach a new process: give a function at the top of a module, a "
            f"functools.partial of one, or 'module:function' ({error})"
        ) from error


def named(run: Run) -> dict[str, Any]:
    """Return what a run names, modules and optimizers as state dicts, arrays as tensors.

    Raises:
        NothingCompared: if it names nothing.
        TypeError: if it names something whose bits cannot be compared.
    """
    found = {name: _comparable(value, name) for name, value in run.tensors().items()}
    if not found:
        raise NothingCompared("tensors() names nothing, so that no difference could be found")
    return found


def _comparable(value: Any, name: str) -> Any:
    if isinstance(value, nn.Module | Optimizer):
        value = value.state_dict()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _comparable(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_comparable(item, name) for item in value])
    if value is None or isinstance(value, _PLAIN):
        return value
    kind = type(value).__name__
    raise TypeError(
        f"tensors() names {name}, a {kind}, whose bits cannot be compared: name its parts"
    )


def digests(run: Run) -> Digests:
    """Return a short number for the bits of each thing that the run names."""
    return {name: digest(value) for name, value in named(run).items()}
