"""Looking at every tensor of a step in one call, through DLPack's table of functions.

Between two steps anything may have happened to a tensor: other memory, another shape, another
dtype. Asking each of thousands of tensors from Python takes longer than the step itself. torch
publishes, for other libraries, a C function that describes a tensor without owning it
(``Tensor.__dlpack_c_exchange_api__``, https://dmlc.github.io/dlpack); the machine calls it on
tensor after tensor and compares the answers with what was written down when the step was planned.
In the same way it asks Python whether parameters and state are still the same objects, through
functions of its stable ABI (https://docs.python.org/3/c-api/stable.html).
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

if TYPE_CHECKING:
    from optimlab.native.library import Machine
    from optimlab.native.plan import Part

LINE = 64
"""How many bytes a processor fetches at a time."""

LINES_OF_A_TENSOR = 3
"""How many of them torch's own object behind a tensor takes, about."""

_CAPSULE = "dlpack_exchange_api"
_MAJOR_VERSION = 1  # within which the table only grows
_GRAD = "grad"
_is_neg = Tensor.is_neg


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


class _Python(ctypes.Structure):
    """The functions of Python that :c:func:`optimlab_look` calls, field by field as in look.c."""

    _fields_ = [
        ("PyObject_GetAttr", ctypes.c_void_p),
        ("PyObject_Type", ctypes.c_void_p),
        ("Py_DecRef", ctypes.c_void_p),
        ("PyDict_GetItemWithError", ctypes.c_void_p),
        ("PyDict_Next", ctypes.c_void_p),
        ("PyList_Size", ctypes.c_void_p),
        ("PyList_GetItem", ctypes.c_void_p),
        ("PyList_SetItem", ctypes.c_void_p),
    ]


class _Collection(ctypes.Structure):
    """A list or a dict and what it held, field by field as in look.c."""

    _fields_ = [
        ("object", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("count", ctypes.c_long),
        ("is_dict", ctypes.c_long),
    ]


class Look(ctypes.Structure):
    """What :c:func:`optimlab_look` of ``look.c`` looks at, field by field as there."""

    _fields_ = [
        ("python", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("tensor_type", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p),
        ("tensors", ctypes.c_void_p),
        ("held", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("layouts", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("step_pointers", ctypes.c_void_p),
        ("begins", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("ahead", ctypes.c_void_p),
        ("count", ctypes.c_long),
        ("stride", ctypes.c_long),
        ("states", ctypes.c_long),
        ("steps", ctypes.c_long),
        ("bits", ctypes.c_long),
        ("step_bits", ctypes.c_long),
        ("written", ctypes.c_long),
        ("ahead_count", ctypes.c_long),
        ("ahead_each", ctypes.c_long),
        ("is_private", ctypes.c_long),
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
def python() -> _Python:
    """Return the addresses of the functions that the machine calls."""
    functions = (getattr(ctypes.pythonapi, entry[0]) for entry in _Python._fields_)
    return _Python(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))


class Collections:
    """Lists and dicts that must hold the same objects, in the same order, at the next step.

    Args:
        collections: they.
    """

    def __init__(self, collections: Sequence[list[Any] | dict[Any, Any]]) -> None:
        self._all = [(collection, _contents(collection)) for collection in collections]
        self._addresses: list[array[int]] = []

    def stay(self) -> bool:
        """Tell whether they do; :func:`optimlab_stayed` in ``look.c`` does the same."""
        for collection, before in self._all:
            for found, was in zip(_contents(collection), before, strict=True):
                if len(found) != len(was) or not all(map(is_, found, was)):
                    return False
        return True

    @functools.cached_property
    def records(self) -> ctypes.Array[_Collection]:
        """The same for the machine."""
        return (_Collection * len(self._all))(*(self._record(*each) for each in self._all))

    def _record(self, collection: object, contents: tuple[list[Any], list[Any]]) -> _Collection:
        arrays = [array("q", map(id, objects)) for objects in contents]
        self._addresses += arrays
        values, names = map(_start, arrays)
        return _Collection(
            object=id(collection),
            names=names,
            values=values,
            count=len(arrays[0]),
            is_dict=isinstance(collection, dict),
        )


def _contents(collection: list[Any] | dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    """List values and names."""
    if isinstance(collection, dict):
        return list(collection.values()), list(collection)
    return list(collection), []


class Block:
    """Some parameters of a part with all that belongs to them, looked at in one call.

    A part is gone through in blocks because each tensor is touched several times: to fetch the
    gradient, to look, to move its version counter. A block's tensors stay in the cache meanwhile,
    which for thousands of tiny tensors halves the time.

    Args:
        part: the tensors, which the part keeps alive.
        first: where the block begins.
        last: where it ends.

    Attributes:
        grads: the gradients of the coming step, while it lasts.
        written: parameters, state tensors and step counts.
        looked_at: those of them whose version counters move, all or the parameters.
        following: the block that is looked at next.
    """

    def __init__(self, part: Part, first: int, last: int) -> None:
        params = part.params[first:last]
        each = len(part.states) // len(part.params)
        states = part.states[first * each : last * each]
        self.grads: list[Any] = []
        self.written = self.looked_at = [*params, *states]
        self.following: Block | None = None
        of_each = [_members(params, states, each, place) for place in range(len(params))]
        steps = part.steps
        self._names = [*part.names[2:], *(("step",) if steps else ())]
        begins, ends = part.written
        self._arrays = [
            array("q", map(id, chain.from_iterable(of_each))),
            array("q", map(id, part.held[first:last])),
            array("q", map(id, self._names)),
            array("q", chain.from_iterable(map(_layout, params))),
        ]
        tensors, held, names, layouts = map(_start, self._arrays)
        self.look = Look(
            python=ctypes.addressof(python()),
            describe=describer(),
            grad=id(_GRAD),
            tensor_type=id(Tensor),
            tensors=tensors,
            held=held,
            names=names,
            layouts=layouts,
            pointers=_start(part.table) + first * part.table.itemsize,
            step_pointers=_start(part.step_addresses) + first * part.table.itemsize,
            begins=_start(begins),
            ends=_start(ends),
            count=len(params),
            stride=len(part.params),
            states=len(part.names) - 2,
            steps=bool(steps),
            bits=_bits(part.dtype),
            step_bits=_bits(steps[0].dtype) if steps else 0,
            written=len(begins),
            is_private=-1,
        )

    def set_private(self, is_private: bool) -> None:
        """Look at parameters and gradients only, or at everything."""
        self.look.is_private = is_private
        self.looked_at = self.written[: self.look.count] if is_private else self.written
        if self.following is not None:
            self._fetch_ahead(self.following, is_private)

    def _fetch_ahead(self, following: Block, is_private: bool) -> None:
        """While this block is looked at, let the processor fetch what the next one is made of."""
        count = following.look.count
        params, states = following.written[:count], following.written[count:]
        each = len(states) // count
        self._ahead = array("q")
        for place in range(count):
            param, *others = _members(params, states, each, place)
            for tensor in [param] if is_private else [param, *others]:
                self._ahead.extend(_places(tensor))
            if self.look.steps:
                self._ahead.append(others[-1].data_ptr())
        self.look.ahead = _start(self._ahead)
        self.look.ahead_count, self.look.ahead_each = count, len(self._ahead) // count

    def take_up(self, machine: Machine, is_private: bool) -> float:
        """Take up the gradients of a step, look at all tensors, and move their version counters.

        Args:
            machine: the library.
            is_private: whether state need not be looked at.

        Returns:
            The step count that all tensors have, or -1 if anything is not as it should be. The
            counters have been moved, and the gradients are held, unless it is -1.
        """
        if self.look.is_private != is_private:
            self.set_private(is_private)
        self.grads = [None] * self.look.count
        self.look.gradients = id(self.grads)
        try:
            step = machine.look(self.look)
        except (BufferError, RuntimeError):  # a sparse gradient, for one, has no address
            step = -1.0
        if step < 0 or any(map(_is_neg, self.grads)) or any(map(_is_neg, self.looked_at)):
            self.grads = []
            return -1.0
        # Autograd must notice that what it saved for a backward pass will no longer be there.
        # Now, because the tensors are at hand, in the cache.
        increment_version(self.looked_at)
        return step

    def undo(self) -> None:
        """Move the version counters back, and let go of the gradients."""
        self.grads = []
        for tensor in self.looked_at:  # one by one, because views of one tensor share a counter
            version = (tensor._version - 1,)
            torch._C._autograd._unsafe_set_version_counter((tensor,), version)


def _members(
    params: Sequence[Tensor], states: Sequence[Tensor], each: int, place: int
) -> list[Tensor]:
    """Return a parameter with its state tensors and step count."""
    return [params[place], *states[place * each : (place + 1) * each]]


def _places(tensor: Tensor) -> Iterable[int]:
    """List about where a tensor is: Python's object, torch's object, and that of its memory."""
    yield id(tensor)
    for line in range(LINES_OF_A_TENSOR):
        yield tensor._cdata + line * LINE
    yield tensor.untyped_storage()._cdata


def _start(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


def _layout(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.dim(), *tensor.shape, *tensor.stride())


def _bits(dtype: torch.dtype) -> int:
    return dtype.itemsize * 8
