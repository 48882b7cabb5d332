"""The check that makes times comparable: did all implementations compute the same bits?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from optimlab.lab.compare.bits import as_integers, same_bits

_NAMED = 3


@dataclass(frozen=True)
class Comparison:
    """How many elements of parameters and state differ after the last step.

    Attributes:
        elements: elements that were compared.
        differing: elements whose bits differ.
        where: the first few tensors with differing elements.
    """

    elements: int = 0
    differing: int = 0
    where: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of elements that differ, 0 to 1."""
        return self.differing / self.elements if self.elements else 0.0

    def __add__(self, other: Comparison) -> Comparison:
        """Return the comparison of both sets of elements taken as one."""
        return Comparison(
            self.elements + other.elements,
            self.differing + other.differing,
            (self.where + other.where)[:_NAMED],
        )


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Comparison:
    """Compare two sets of named tensors as integers.

    The distance of differing elements is not measured: where two of a hundred million elements
    wide implementations round differently, that alone would take minutes and gigabytes.

    Args:
        ours: tensors by name.
        theirs: the other side's; a tensor that only one side has differs in all its elements.
    """
    total = Comparison()
    for name in {**ours, **theirs}:
        total += _compare_pair(name, ours.get(name), theirs.get(name))
    return total


def _compare_pair(name: str, ours: Tensor | None, theirs: Tensor | None) -> Comparison:
    size = max(tensor.numel() for tensor in (ours, theirs) if tensor is not None)
    if ours is None or theirs is None or not _of_one_kind(ours, theirs):
        return Comparison(size, size, (name,))
    if same_bits(ours, theirs):
        return Comparison(size)
    differing = as_integers(ours) != as_integers(theirs)
    return Comparison(size, int(differing.count_nonzero()), (name,))


def _of_one_kind(ours: Tensor, theirs: Tensor) -> bool:
    kinds = [(tensor.dtype, tensor.device, tensor.shape) for tensor in (ours, theirs)]
    return kinds[0] == kinds[1]
