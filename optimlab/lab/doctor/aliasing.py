"""Tensors that share memory: whoever changes one changes the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.findings import Finding, error, listed

Named: TypeAlias = tuple[str, Tensor]


def check_within(one: Checkpoint) -> Iterator[Finding]:
    """Find tensors of one optimizer that share memory: state, and parameters where it is live."""
    first = {id(param): p for p, param in reversed(list(enumerate(one.params)))}  # given twice
    params = [(one.parameter(p), one.params[p]) for p in sorted(first.values())]
    pairs = [" and ".join(pair) for pair in _overlaps([*_named(one), *params])]
    if pairs:
        what = f"{listed(pairs)} share memory: a step that changes one changes the other"
        advice = (
            "copy.deepcopy a state dict before a second optimizer loads it; --repair separates "
        )
        yield error("aliasing", one.name, what, f"{advice}what a checkpoint holds.")


def check_between(
    ours: Checkpoint, theirs: Checkpoint, *, here: str = "", there: str = "", live: str = ""
) -> Iterator[Finding]:
    """Find state that two optimizers share; words around a tensor's name tell whose it is."""
    left, right = _named(ours, "", here), _named(theirs, live, there)
    names = {name for name, _ in right}
    pairs = [
        each for each in _overlaps([*left, *right]) if (each[0] in names) != (each[1] in names)
    ]
    if pairs:
        what = (
            f"{len(pairs)} tensors share memory, such as {' and '.join(pairs[0])}: a step of one "
        )
        advice = "load copy.deepcopy(state_dict): torch keeps the very tensors it is given."
        where = f"{ours.name} and {theirs.name}"
        yield error("aliasing", where, f"{what}changes the other", advice)


def _named(one: Checkpoint, before: str = "", after: str = "") -> list[Named]:
    return [(f"{before}{key} of {one.parameter(p)}{after}", t) for p, key, t in one.tensors()]


def _overlaps(tensors: Iterable[Named]) -> Iterator[tuple[str, str]]:
    """Yield the names of neighbours in memory that overlap; only what is dense and not empty."""
    spans: defaultdict[tuple[torch.device, int], list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in tensors:
        if tensor.layout is torch.strided and tensor.numel() and tensor.device.type != "meta":
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            last = sum((size - 1) * stride for size, stride in steps)
            start = tensor.data_ptr()
            end = start + (last + 1) * tensor.element_size()
            spans[tensor.device, tensor.untyped_storage().data_ptr()].append((start, end, name))
    for found in spans.values():
        reached, last_name = -1, ""
        for start, end, name in sorted(found):
            if start < reached:
                yield last_name, name
            if end > reached:
                reached, last_name = end, name
