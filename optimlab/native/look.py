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
from itertools import chain
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
    """What :c:func:`optimlab_look` of ``machine.c`` looks at, field by field as there."""

    _fields_ = [
        ("describe", ctypes.c_void_p),
        ("objects", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("layouts", ctypes.c_void_p),
        ("inputs", ctypes.c_long),
        ("count", ctypes.c_long),
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


class View:
    """A :class:`Look` at a part, and the arrays that it points into.

    Args:
        part: the tensors, which the part keeps alive.
    """

    def __init__(self, part: Part) -> None:
        objects = [*part.params, *part.grads, *chain.from_iterable(part.registers())]
        begins, ends = part.written
        self.steps = array("q", map(Tensor.data_ptr, part.steps))
        self.begins, self.ends = array("q", begins.tolist()), array("q", ends.tolist())
        self.layouts = array("q", chain.from_iterable(map(_layout, part.params)))
        self.objects = array("q", map(id, objects))
        self.step_objects = array("q", map(id, part.steps))
        self.gradients: Any = None
        self.look = Look(
            describe=describer(),
            objects=_start(self.objects),
            pointers=_start(part.table),
            layouts=_start(self.layouts),
            inputs=len(part.names),
            count=len(part.params),
            bits=_bits(part.dtype),
            steps=_start(self.step_objects),
            step_pointers=_start(self.steps),
            step_count=len(part.steps),
            step_bits=_bits(part.steps[0].dtype) if part.steps else 0,
            begins=_start(self.begins),
            ends=_start(self.ends),
            written=len(self.begins),
        )

    def take(self, grads: list[Tensor]) -> Look:
        """Point to the gradients of another step."""
        # An array of objects is an array of their addresses.
        self.gradients = np.fromiter(grads, dtype=object, count=len(grads))
        self.look.gradients = self.gradients.__array_interface__["data"][0]
        return self.look


def _start(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


def _layout(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.dim(), *tensor.shape, *tensor.stride())


def _bits(dtype: torch.dtype) -> int:
    return dtype.itemsize * 8
