"""State that nobody else can reach has not changed, and need not be looked at.

To change where a state tensor lies, or to put another in its place, one has to get hold of it
first. Outside of a step there are two ways to do so: to ask for ``optimizer.state``, which the
optimizer notices (the state has *escaped*), or to have kept something from an earlier time, which
shows in the counts of references. Where there is neither, the optimizer *owns* its state, and a
step looks at parameters and gradients only; for thousands of small tensors that halves its time.
The first step after somebody has asked looks at everything, and moves the version counters of all
state.

What is counted, for each state tensor and step count: references to the tensor, weak references,
references to its storage, and tensors that share the storage, whose size they could change; also
references to the dicts that hold them.

References are counted *before* a step that looks at everything, and from the outside to the inside:
the dict of all state, the dict of each parameter, tensors, storages. Other threads run in between.
Who has a tensor while tensors are counted is noticed. Who lets go of it before has changed it
before, which the step then sees. Who has nothing while its owner is counted can get nothing later
without asking the optimizer.
"""

from __future__ import annotations

import functools
from sys import getrefcount
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

import torch
from torch import Tensor

if TYPE_CHECKING:
    from optimlab.native.step_cache import CachedStep

# Who has an object besides the list with which it is counted here.
_HOLDERS_OF_A_TENSOR = 2  # its dict, and what lists the tensors that a step writes
_HOLDERS_OF_A_DICT = 2  # the dict of all state, and its identity guard
_HOLDERS_OF_ALL_STATE = 3  # the optimizer, the cached step, and its identity guard

_LONGEST_PAUSE = 64


class Ownership:
    """Whether an optimizer owns its state, found out as seldom as needed.

    Attributes:
        holds: whether nobody else can reach the state.
    """

    __slots__ = ("_pause", "_waited", "holds")

    def __init__(self) -> None:
        self.holds = False
        self._waited, self._pause = 0, 1

    def note_escape(self) -> None:
        """End ownership, because somebody has asked for the state.

        The coming step does not count references, which would be in vain at every step if they ask
        before each; the one after it may.
        """
        self.holds = False
        self._waited = -1

    def recheck(self, cached: CachedStep) -> bool:
        """Find out before a step that looks at everything, unless that was in vain lately."""
        self._waited += 1
        if self._waited < self._pause:
            return False
        self._waited = 0
        found = is_owned(cached)
        self._pause = 1 if found else min(2 * self._pause, _LONGEST_PAUSE)
        return found


def is_owned(cached: CachedStep) -> bool:
    """Tell whether nobody but the optimizer has any of its state."""
    # No name of a function may stand for what is counted: it would count as well.
    return (
        counts_tell()
        and _are_held_by([cached.state], _HOLDERS_OF_ALL_STATE)
        and all(_are_held_by(launch.state_dicts, _HOLDERS_OF_A_DICT) for launch in cached.launches)
        and all(_belong_to_nobody_else(launch.states) for launch in cached.launches)
    )


def _belong_to_nobody_else(states: list[Tensor]) -> bool:
    return (
        _are_held_by(states, _HOLDERS_OF_A_TENSOR)
        and not any(map(getweakrefcount, states))
        and _have_storage_alone(states)
    )


def _are_held_by(objects: list[Any], others: int) -> bool:
    """Tell whether so many others hold each object besides the list in which it comes."""
    return set(map(getrefcount, objects)) <= {_in_one_list() + others}


def _have_storage_alone(tensors: list[Tensor]) -> bool:
    """Tell whether nobody else has the memory of each tensor, such as a view or a NumPy array."""
    return set(_owners_of_storage(tensors)) <= {_owners_of_storage_of_one()}


def _owners_of_storage(tensors: list[Tensor]) -> list[tuple[int, int, int]]:
    storages = [tensor.untyped_storage() for tensor in tensors]
    uses = [torch._C._storage_Use_Count(storage._cdata) for storage in storages]
    weak = map(getweakrefcount, storages)
    return list(zip(map(getrefcount, storages), weak, uses, strict=True))


@functools.cache
def _in_one_list() -> int:
    """Return what Python counts for an object in one list, while it is counted in this way."""
    return next(map(getrefcount, [object()]))


@functools.cache
def _owners_of_storage_of_one() -> tuple[int, int, int]:
    """Return what Python and torch count for the storage of one tensor, while it is asked for."""
    (owners,) = _owners_of_storage([torch.zeros(1, device="cpu")])
    return owners


@functools.cache
def counts_tell() -> bool:
    """Tell whether the counts of this Python and this torch show all who have a tensor.

    A computation graph or a view that keeps a tensor keeps Python's object, too, from torch 2.10
    on; without the lock of the interpreter, Python's counts are estimates.
    """
    if not hasattr(torch._C, "_storage_Use_Count"):
        return False
    tensors = [torch.zeros(2, device="cpu")]
    if not (_are_held_by(tensors, 0) and _have_storage_alone(tensors)):
        return False
    with torch.enable_grad():
        graph = (tensors[0] * torch.ones(2, requires_grad=True, device="cpu")).sum()
    seen_in_graph = not _are_held_by(tensors, 0)
    del graph
    view = tensors[0].detach()
    seen_through_view = not _have_storage_alone(tensors)
    del view
    return seen_in_graph and seen_through_view
