"""What the names in a checkpoint's pickle stand for: tensors, containers, NumPy's numbers."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats.pickled import Functions, Placeholder

_SAFE_DTYPE = re.compile(r"[<>|=]?[biufc?][0-9]*")

#: Elements that a tensor may have beyond those of its memory, such as by expanding it.
_EXPANDED = 1 << 20


class Storage:
    """The memory of tensors: bytes, and the type of the elements for which they were saved."""

    def __init__(self, untyped: torch.UntypedStorage, dtype: torch.dtype) -> None:
        self.untyped, self.dtype = untyped, dtype


def tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    dtype: Any = None,
) -> Tensor:
    """Return a view of memory, which must not reach beyond it nor be far larger than it."""
    dtype = dtype if isinstance(dtype, torch.dtype) else storage.dtype
    held = storage.untyped.nbytes() // dtype.itemsize
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or min((*size, *stride, offset), default=0) < 0:
        raise CheckpointError(f"a tensor has shape {size} and strides {stride}")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel and last >= held:
        raise CheckpointError(f"a tensor of shape {size} reaches beyond the {held} elements it has")
    if numel > held + _EXPANDED:
        what = f"a tensor of shape {size} is expanded from {held} elements"
        raise CheckpointError(f"{what}: save a clone() of it")
    if storage.untyped.device.type == "meta":
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")
    made = torch.empty(0, dtype=dtype)
    made.set_(storage.untyped, offset, size, stride)
    return made.requires_grad_(bool(requires_grad) and made.is_floating_point())


def _parameter(data: Any, requires_grad: bool = True, *_: Any) -> Any:
    return nn.Parameter(data, requires_grad) if isinstance(data, Tensor) else data


def _meta_tensor(dtype: torch.dtype, size: Any, stride: Any, *_: Any) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def _np_dtype(name: str, *_: Any) -> Any:
    if not (isinstance(name, str) and _SAFE_DTYPE.fullmatch(name)):
        return Placeholder("numpy.dtype")
    return np.dtype(name, copy=True)


def _build(made: Any, state: Any) -> None:
    """Give an array its elements, and nothing to anything else."""
    if isinstance(made, np.dtype) and isinstance(state, tuple) and ">" in state[1:2]:
        raise CheckpointError("a NumPy array has its bytes in the other order")
    if isinstance(made, np.ndarray):
        _, shape, dtype, order, raw = state
        if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes):
            raise CheckpointError("a NumPy array holds objects")
        if min(shape, default=0) < 0 or len(raw) != dtype.itemsize * math.prod(shape):
            raise CheckpointError(f"a NumPy array of shape {shape} has {len(raw)} bytes")
        state = (1, tuple(shape), dtype, bool(order), raw)
        made.__setstate__(state)


def _np_scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes | str):
        return Placeholder("numpy.scalar")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype, count=1)[0].item()


def _np_array(*_: Any) -> Any:
    return np.empty(0)


def _np_frombuffer(raw: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    if not isinstance(dtype, np.dtype):
        return Placeholder("numpy.ndarray")
    return np.frombuffer(bytearray(raw), dtype).reshape(
        tuple(shape), order="F" if order == "F" else "C"
    )


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(*args: Any) -> Any:
        if all(isinstance(arg, list | tuple | dict | set | frozenset | bytes) for arg in args):
            return kind(*args)
        return Placeholder(f"builtins.{getattr(kind, '__name__', kind)}", args)

    return make


def _encode(text: str, encoding: str = "latin1") -> Any:
    return text.encode("latin1") if encoding == "latin1" else Placeholder("_codecs.encode")


def _default_dict(*args: Any) -> dict[Any, Any]:
    return dict(args[1]) if len(args) > 1 and isinstance(args[1], dict) else {}


FUNCTIONS: Functions = {
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": lambda *args: tensor(*args[:5]),
    "torch._utils._rebuild_tensor_v3": lambda s, o, n, st, grad, _, dtype, *__: tensor(
        s, o, n, st, grad, dtype
    ),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch.Size": lambda size=(): torch.Size(size),
    "torch.device": lambda kind, *_: torch.device(str(kind).partition(":")[0]),
    "collections.OrderedDict": _container(OrderedDict),
    "collections.defaultdict": _default_dict,
    "collections.Counter": _container(dict),
    "_codecs.encode": _encode,
    "numpy.dtype": _np_dtype,
    "BUILD": _build,
    **{
        f"{module}.{name}": _container(kind)
        for module in ("builtins", "__builtin__")
        for name, kind in {"set": set, "frozenset": frozenset, "list": list, "tuple": tuple}.items()
    },
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray.scalar", _np_scalar),
            ("multiarray._reconstruct", _np_array),
            ("numeric._frombuffer", _np_frombuffer),
        )
    },
}

_STORAGES = {  # the names of storages, which say of which dtype their tensors are
    "Byte": torch.uint8,
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Bool": torch.bool,
    "BFloat16": torch.bfloat16,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}
VALUES: Mapping[str, Any] = {
    **{
        f"torch.{name}": each for name, each in vars(torch).items() if isinstance(each, torch.dtype)
    },
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}
