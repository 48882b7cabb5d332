"""Carrying out a rule with ATen where the native machine is not at hand: in blocks and in bins.

The for-loop is slow for two reasons. On a large tensor every operation walks over all of the memory
again and allocates a temporary of the tensor's size; so the rule is read on one block of the tensor
after the other, small enough to stay in cache. Many small tensors each pay for a dozen calls; so
they are gathered into flat bins, on which the rule is read once, and scattered back.

Both give the for-loop's bits because every operation is elementwise, and only where ATen computes
an element alike wherever it stands, which is checked at first use.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimlab.native.tape import NUMBERS, Operation, Tape
from optimlab.native.trust import REFERENCES, SCALARS, operands, same_bits

if TYPE_CHECKING:
    from optimlab.execution import Member
    from optimlab.native.look import Collections
    from optimlab.native.plan import Part
    from optimlab.optimizer import Optimizer

BLOCK = 1 << 19
"""Elements of a block; anything from 2**18 to 2**22 is as good."""

BIN = 1 << 16
"""Elements of a bin at most: what is allocated for it comes from memory that is there already."""

MANY = 32
"""From so many small tensors on, gathering them costs less than a dozen calls for each."""

SMALL = 1 << 14
"""Up to so many elements a tensor is copied into a bin rather than gone through by itself."""

FEW = 2
"""Rules of so few instructions gain nothing: the copies cost what they save."""

SLICES = (0, 1000, 1001, 1017, 1050, 3000, 4099)


@functools.cache
def place_does_not_matter(dtype: torch.dtype) -> bool:
    """Tell whether ATen gives an element the same bits wherever it stands in a tensor.

    Vectorized code takes the last elements of a tensor one by one, and could round them otherwise.
    """
    a, b, c = operands(dtype)
    for operation, reference in REFERENCES.items():
        if operation is Operation.MAXIMUM:  # which zero is larger does depend on the place
            continue
        for scalar in SCALARS:
            whole = reference(a, b, c, scalar)
            for start, end in itertools.pairwise(SLICES):
                here = slice(start, end)
                if not same_bits(whole[here], reference(a[here], b[here], c[here], scalar)):
                    return False
    return True


@dataclass(slots=True)
class _Bin:
    """Small tensors that are gathered into one.

    Attributes:
        places: their numbers in the part.
        sizes: their numbers of elements.
        views: for each register but ``grad``, flat views of the tensors.
    """

    places: list[int]
    sizes: list[int]
    views: dict[str, list[Tensor]]


class Blocks:
    """The carrier that uses nothing but ATen."""

    def takes(self, tape: Tape, dtype: torch.dtype) -> bool:
        """Tell whether a rule comes out with ATen's bits, and sooner than by itself."""
        return len(tape.numbers) > FEW * NUMBERS and place_does_not_matter(dtype)

    def gains(self, members: Sequence[Member]) -> bool:
        """Tell whether it is sooner done than tensor by tensor."""
        sizes = [member.param.numel() for member in members]
        return max(sizes, default=0) > BLOCK or sum(size <= SMALL for size in sizes) >= MANY

    def is_ready(self) -> bool:
        """Tell whether steps can be carried out: always."""
        return True

    def stayed(self, collections: Collections) -> bool:
        """Tell whether collections still hold the same objects, in the same order."""
        return collections.stay()

    def look(self, part: Part) -> float:
        """Take up the gradients of a step, and look at all tensors."""
        if not part.look_again():
            return -1.0
        first, *others = {step.item() for step in part.steps} or {0.0}
        return -1.0 if others else first

    def undo(self, part: Part) -> None:
        """Take back what looking has changed: nothing."""

    def carry_out(self, optimizer: Optimizer, part: Part) -> None:
        """Carry out the step for which the part was prepared, and count it."""
        if part.steps:
            torch._foreach_add_(part.steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
        if "bins" not in part.scratch:
            part.scratch["views"] = _views(part)
            part.scratch["bins"] = list(_bins(part))
        for bin_ in part.scratch["bins"]:
            _update_bin(optimizer, part, bin_)
        for place, size in enumerate(part.sizes):
            if size > SMALL:
                _update_blocks(optimizer, part, place, size)


def _views(part: Part) -> dict[str, list[Tensor]]:
    """View each register's tensors flat, in the order of their memory."""
    names = part.names[2:]
    views = {name: [_flat(held[name]) for held in part.held] for name in names}
    return {"param": [_flat(param) for param in part.params], **views}


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _bins(part: Part) -> Iterator[_Bin]:
    """Divide the small tensors into bins."""
    places: list[int] = []
    total = 0
    for place, size in enumerate(part.sizes):
        if not 0 < size <= SMALL:
            continue
        if total + size > BIN:
            yield _bin(part, places)
            places, total = [], 0
        places.append(place)
        total += size
    if places:
        yield _bin(part, places)


def _bin(part: Part, places: list[int]) -> _Bin:
    views = part.scratch["views"]
    return _Bin(
        places=places,
        sizes=[part.sizes[place] for place in places],
        views={name: [flat[place] for place in places] for name, flat in views.items()},
    )


def _update_bin(optimizer: Optimizer, part: Part, bin_: _Bin) -> None:
    """Gather tensors into flat ones, read the rule on those, and scatter what it changed."""
    state = {name: torch.cat(tensors) for name, tensors in bin_.views.items()}
    registers = dict(state)
    param = state.pop("param")
    optimizer.update(param, _gathered(part, bin_.places), state, part.step, part.group)
    for name, tensors in bin_.views.items():
        torch._foreach_copy_(tensors, list(registers[name].split(bin_.sizes)))


def _gathered(part: Part, places: Sequence[int]) -> Tensor:
    if part.strides is None:
        return torch.cat([part.grads[place].reshape(-1) for place in places])
    return torch.cat([_flat(part.grads[place]) for place in places])


def _update_blocks(optimizer: Optimizer, part: Part, place: int, size: int) -> None:
    """Read the rule on one block of a tensor after the other."""
    views = {name: flat[place] for name, flat in part.scratch["views"].items()}
    views["grad"] = _flat(part.grads[place])
    for start in range(0, size, BLOCK):
        state = {name: view[start : start + BLOCK] for name, view in views.items()}
        param, grad = state.pop("param"), state.pop("grad")
        optimizer.update(param, grad, state, part.step, part.group)
