"""A short number that stands for all the bits of a value."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.compare.integers import without_payloads


def digest(value: Any) -> str:
    """Return the SHA-256 of a value: 64 hexadecimal digits, the same for the same bits.

    Args:
        value: tensors (dtype, shape and elements count, where they are does not), numbers, strings,
            ``None``, and dicts, lists and tuples of these. As in all comparisons here, any NaN is
            like any other, and -0.0 is not 0.0.
    """
    hasher = hashlib.sha256()
    _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        _feed_tensor(hasher, value)
    elif isinstance(value, Mapping):
        hasher.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            hasher.update(f"{key!r}:".encode())
            _feed(hasher, item)
    elif isinstance(value, list | tuple):
        hasher.update(f"{type(value).__name__} {len(value)};".encode())
        for item in value:
            _feed(hasher, item)
    elif isinstance(value, float):
        hasher.update(b"float" + struct.pack(">d", value if value == value else float("nan")))
    else:
        hasher.update(f"{type(value).__name__} {value!r};".encode())


def _feed_tensor(hasher: Any, tensor: Tensor) -> None:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    hasher.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    integers = without_payloads(tensor).cpu().contiguous()
    hasher.update(integers.view(-1).view(torch.uint8).numpy().tobytes())
