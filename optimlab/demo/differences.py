"""Count the elements that differ between two sets of named tensors, bit for bit."""

from collections.abc import Mapping

from torch import Tensor

from optimlab.lab.compare.bits import Distance, compare_tensors


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Distance:
    """Compare two sets of named tensors element by element, as integers.

    A tensor that only one side has, or that is of another shape, dtype, device or stride, differs
    in every element.
    """
    total = Distance(elements=0, differing=0)
    for name in {**ours, **theirs}:
        total += compare_pair([side[name] for side in (ours, theirs) if name in side])
    return total


def compare_pair(present: list[Tensor]) -> Distance:
    """Compare the tensors of one name: two of them, or one if the other side has none."""
    size = max(tensor.numel() for tensor in present)
    if len(present) == 1:
        return Distance(size, size)
    mismatch = compare_tensors(*present)
    if mismatch is None:
        return Distance(size, 0)
    return mismatch.distance or Distance(size, size)
