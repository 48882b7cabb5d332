"""Looking at every tensor of a step in one call, through DLPack's table of functions.

Between two steps anything may have happened to a tensor: other memory, another shape, another
dtype. Asking each of thousands of tensors from Python takes longer than the step itself. torch
publishes, for other libraries, a C function that describes a tensor without owning it
(``Tensor.__dlpack_c_exchange_api__``, https://dmlc.github.io/dlpack); the machine calls it on
tensor after tensor and compares the answers with what was written down when the step was planned.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Iterable
from itertools import chain
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from optimlab.native.plan import Part

_CAPSULE = "dlpack_exchange_api"
_MAJOR_VERSION = 1  # within which the table only grows


class _Table(ctypes.Structure):
    """The beginning of ``DLPackExchangeAPI`` in dlpack.h."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("managed_to_object", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),
    ]


class Look(ctypes.Structure):
    """What :c:func:`optimlab_look` of ``look.c`` looks at, field by field as there."""

    _fields_ = [
        ("describe", ctypes.c_void_p),
        ("objects", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("layouts", ctypes.c_void_p),
        ("inputs", ctypes.c_long),
        ("count", ctypes.c_long),
        ("stride", ctypes.c_long),
        ("bits", ctypes.c_long),
        ("steps", ctypes.c_void_p),
        ("step_pointers", ctypes.c_void_p),
        ("step_count", ctypes.c_long),
        ("step_bits", ctypes.c_long),
        ("begins", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("written", ctypes.c_long),
    ]


@functools.cache
def describer() -> int | None:
    """Return the address of torch's function that describes a tensor, if it has one."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = _Table.from_address(pointer_of(capsule, _CAPSULE.encode()))
    return table.describe if table.major == _MAJOR_VERSION else None


class Block:
    """Some parameters of a part with all that belongs to them, looked at in one call.

    A part is gone through in blocks because each tensor is touched several times: to fetch the
    gradient, to look, to move its version counter. A block's tensors stay in the cache meanwhile,
    which for thousands of tiny tensors halves the time.

    Args:
        part: the tensors, which the part keeps alive.
        first: where the block begins.
        last: where it ends.
    """

    def __init__(self, part: Part, first: int, last: int) -> None:
        chosen = slice(first, last)
        self.params = part.params[chosen]
        self.held = part.held[chosen]
        registers = [held[chosen] for held in part.registers()]
        steps = part.steps[chosen]
        each = len(part.states) // len(part.params)
        self.states = part.states[first * each : last * each]
        self.written = [*self.params, *self.states]
        begins, ends = part.written
        names = (*part.names[2:], *(("step",) if steps else ()))
        self._get = itemgetter(*names) if names else None
        objects = [*self.params, *self.params, *chain.from_iterable(registers)]
        self._layouts = array("q", chain.from_iterable(map(_layout, self.params)))
        self._objects = array("q", map(id, objects))
        self._step_objects = array("q", map(id, steps))
        self._gradients: Any = None
        self.look = Look(
            describe=describer(),
            objects=_start(self._objects),
            pointers=_start(part.table) + first * part.table.itemsize,
            layouts=_start(self._layouts),
            inputs=len(part.names),
            count=len(self.params),
            stride=len(part.params),
            bits=_bits(part.dtype),
            steps=_start(self._step_objects),
            step_pointers=_start(part.step_addresses) + first * part.table.itemsize,
            step_count=len(steps),
            step_bits=_bits(steps[0].dtype) if steps else 0,
            begins=_start(begins),
            ends=_start(ends),
            written=len(begins),
        )

    def keeps_its_state(self) -> bool:
        """Tell whether the state dicts hold the same tensors as before."""
        if self._get is None:
            return True
        try:
            found: Iterable[Any] = list(map(self._get, self.held))
        except KeyError:
            return False
        if len(self.states) > len(self.held):  # of a single name, the tensors themselves
            found = chain.from_iterable(found)
        return all(map(is_, found, self.states))

    def forget(self) -> None:
        """Let go of the gradients: their memory is not ours to keep."""
        self._gradients = None

    def take(self, grads: list[Tensor]) -> Look:
        """Point to the gradients of another step."""
        # An array of objects is an array of their addresses.
        self._gradients = np.fromiter(grads, dtype=object, count=len(grads))
        self.look.gradients = self._gradients.__array_interface__["data"][0]
        return self.look


def _start(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


def _layout(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.dim(), *tensor.shape, *tensor.stride())


def _bits(dtype: torch.dtype) -> int:
    return dtype.itemsize * 8
