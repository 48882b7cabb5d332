"""What the kernel asks Python and torch, and what it compares with: the tables that guards.c reads.

Between two steps anything may have happened to a tensor: other memory, another shape, another
dtype. Asking each of thousands of tensors from Python takes longer than the step itself. torch
publishes, for other libraries, a C function that describes a tensor without owning it
(``Tensor.__dlpack_c_exchange_api__``, https://dmlc.github.io/dlpack); the kernel calls it on
tensor after tensor and compares the answers with what was written down when the step was cached.
In the same way it asks Python whether parameters and state are still the same objects, through
functions of its stable ABI (https://docs.python.org/3/c-api/stable.html).
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Container, Iterable
from itertools import compress, repeat
from typing import Any

import torch
from torch import Tensor

_CAPSULE = "dlpack_exchange_api"
_MAJOR_VERSION = 1  # within which the table only grows
_GRAD = "grad"

_ANYTHING = 1  # in place of the address of a value, which is never so small


class _Table(ctypes.Structure):
    """The beginning of ``DLPackExchangeAPI`` in dlpack.h."""

    _FUNCTIONS = ("allocate", "managed_from_object", "managed_to_object", "describe")
    _fields_ = [
        *(("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p)),
        *zip(_FUNCTIONS, repeat(ctypes.c_void_p)),
    ]


_FUNCTIONS = (
    *("PyObject_GetAttr", "PyObject_Type", "Py_DecRef", "PyDict_GetItemWithError", "PyDict_Next"),
    *("PyList_Size", "PyList_GetItem", "PyObject_CallFunctionObjArgs", "PyErr_Clear"),
)
_OBJECTS: tuple[object, ...] = (_GRAD, Tensor.is_neg, Tensor, torch.nn.Parameter, None, False)


class _Python(ctypes.Structure):
    """The structure ``Python`` of guards.c, field by field."""

    _fields_ = [
        *zip((*_FUNCTIONS, "describe"), repeat(ctypes.c_void_p)),
        *zip(map("object_{}".format, range(len(_OBJECTS))), repeat(ctypes.c_void_p)),
    ]


class _IdentityGuard(ctypes.Structure):
    """A list or a dict and what it held, field by field as in guards.c."""

    _fields_ = [
        ("object", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("count", ctypes.c_long),
        ("is_dict", ctypes.c_long),
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


@functools.cache
def python() -> ctypes.Structure:
    """Return the addresses of the functions and objects that the kernel asks."""
    functions = (getattr(ctypes.pythonapi, name) for name in _FUNCTIONS)
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
    return _Python(*addresses, describer(), *map(id, _OBJECTS))


class IdentityGuards:
    """Lists and dicts that must hold the same objects, in the same order, at the next step.

    Args:
        collections: each with the names whose values have to stay, too; ``None`` for all values.

    Attributes:
        records: the same for the kernel; they keep alive whatever they have the address of.
    """

    def __init__(
        self, collections: Iterable[tuple[list[Any] | dict[Any, Any], Container[Any] | None]]
    ) -> None:
        self._held: list[Any] = []  # must not be freed, or its address could come again
        records = [self._record(collection, fixed) for collection, fixed in collections]
        self.records = (_IdentityGuard * len(records))(*records)
        self.records.held = self._held  # type: ignore[attr-defined]

    def _record(
        self, collection: list[Any] | dict[Any, Any], fixed: Container[Any] | None
    ) -> _IdentityGuard:
        is_dict = isinstance(collection, dict)
        values = list(collection.values() if isinstance(collection, dict) else collection)
        names = list(collection) if is_dict else [None] * len(values)
        stay = [fixed is None or name in fixed for name in names]
        kept = [
            id(value) if stays else _ANYTHING for value, stays in zip(values, stay, strict=True)
        ]
        arrays = array("q", map(id, names)), array("q", kept)
        # Not the values that may change: they would be kept alive for nothing.
        self._held.append((collection, arrays, names, list(compress(values, stay))))
        return _IdentityGuard(id(collection), *map(address_of, arrays), len(values), is_dict)


def address_of(numbers: array[Any]) -> int:
    """Return the address of an array."""
    return numbers.buffer_info()[0]
