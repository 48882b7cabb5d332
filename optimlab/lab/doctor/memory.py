"""Tensors that share memory: whoever changes one changes the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

Named: TypeAlias = tuple[str, Tensor]


def overlaps(tensors: Iterable[Named]) -> Iterator[tuple[str, str]]:
    """Yield the names of each pair of neighbours in memory that overlap.

    Args:
        tensors: with their names; what is not dense, or empty, is left out.
    """
    spans: defaultdict[tuple[torch.device, int], list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in tensors:
        if tensor.layout is torch.strided and tensor.numel() and tensor.device.type != "meta":
            start, end = _span(tensor)
            storage = tensor.untyped_storage().data_ptr()
            spans[tensor.device, storage].append((start, end, name))
    for found in spans.values():
        found.sort()
        reached, last = -1, ""
        for start, end, name in found:
            if start < reached:
                yield last, name
            if end > reached:
                reached, last = end, name


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor and the one after its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()
