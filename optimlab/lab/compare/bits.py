"""Comparing tensors and numbers as integers: the same bits, or how far apart.

A floating-point number is read as the integer that its bits spell. Two numbers are the same when
those integers are, and their distance in ulps is how many representable numbers lie between them,
plus one. Two conventions: a NaN equals any other NaN, because no operation promises which of its
payloads it returns; and -0.0 differs from 0.0, by one ulp, because a division tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optimlab.lab.compare.integers import (
    INTEGERS,
    as_integers,
    as_real,
    hexadecimal,
    is_nan,
    is_number_like,
    ordered,
)

_SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
# What has to be the same before elements can be compared, the first that differs is told.
_PROPERTIES: Mapping[str, Callable[[Tensor], object]] = {
    "dtype": lambda tensor: tensor.dtype,
    "device": lambda tensor: tensor.device,
    "layout": lambda tensor: tensor.layout,
    "shape": lambda tensor: tuple(tensor.shape),
    "stride": lambda tensor: tensor.stride() if tensor.layout is torch.strided else None,
    "type": type,
    "requires_grad": lambda tensor: tensor.requires_grad,
}


@dataclass(frozen=True)
class Distance:
    """How far apart the elements of tensors are.

    Attributes:
        elements: elements that were compared; a complex number is one element.
        differing: elements whose bits differ.
        max_ulps: the largest distance among pairs of numbers, ``None`` where no such pair
            differs or the elements are not floating point.
        histogram: differing pairs of numbers by distance: entry ``i`` counts the real numbers
            that are ``2**i`` to ``2**(i + 1) - 1`` ulps apart.
        one_sided_nan: real numbers that are NaN on one side only.
    """

    elements: int
    differing: int
    max_ulps: int | None = None
    histogram: tuple[int, ...] = ()
    one_sided_nan: int = 0

    @property
    def share(self) -> float:
        """The share of elements that differ, 0 to 1."""
        return self.differing / self.elements if self.elements else 0.0

    def __add__(self, other: Distance) -> Distance:
        """Return the distance of both sets of elements taken as one."""
        ulps = [most for most in (self.max_ulps, other.max_ulps) if most is not None]
        longer, shorter = sorted((self.histogram, other.histogram), key=len, reverse=True)
        shorter += (0,) * (len(longer) - len(shorter))
        return Distance(
            elements=self.elements + other.elements,
            differing=self.differing + other.differing,
            max_ulps=max(ulps, default=None),
            histogram=tuple(map(sum, zip(longer, shorter, strict=True))),
            one_sided_nan=self.one_sided_nan + other.one_sided_nan,
        )

    def __str__(self) -> str:
        if not self.differing:
            return f"all {self.elements} elements have the same bits"
        text = f"{self.differing} of {self.elements} elements differ ({percent(self.share)})"
        if self.max_ulps is not None:
            text += f", at most {self.max_ulps} ulp"
        if self.one_sided_nan:
            text += f", {self.one_sided_nan} NaN on one side only"
        return text


@dataclass(frozen=True)
class Mismatch:
    """What two tensors, or two numbers, do not have in common.

    Attributes:
        what: ``"bits"``, or the property that differs: ``"dtype"``, ``"stride"``, ...
        ours: our value of that property, or our first differing element.
        theirs: the other side's.
        element: index of the first differing element, ``None`` where a property differs.
        ulps: distance of that element, ``None`` where there is none (NaN on one side, integers).
        distance: how far apart all elements are, ``None`` where a property differs.
        dtype: dtype of the differing tensor; float64 for Python's floats.
        part: for sparse tensors the part that differs, such as ``"values"``.
    """

    what: str
    ours: object
    theirs: object
    element: tuple[int, ...] | None = None
    ulps: int | None = None
    distance: Distance | None = None
    dtype: torch.dtype | None = None
    part: str = ""

    def __str__(self) -> str:
        if self.what != "bits":
            part = f"{self.part} " if self.part else ""
            return f"{part}{self.what}: ours {self.ours}, theirs {self.theirs}"
        element = f"element {list(self.element)}: " if self.element is not None else ""
        ulps = f", {self.ulps} ulp apart" if self.ulps is not None else ""
        return f"{element}ours {self._spelt(self.ours)}, theirs {self._spelt(self.theirs)}{ulps}"

    def _spelt(self, value: object) -> str:
        if not isinstance(value, float) or self.dtype is None:
            return repr(value)
        return f"{value!r} ({hexadecimal(value, self.dtype)})"


def compare_tensors(ours: Tensor, theirs: Tensor) -> Mismatch | None:
    """Compare two tensors: properties first, then every element as an integer.

    Args:
        ours: a tensor of any dtype, layout and device.
        theirs: another.

    Returns:
        ``None`` when type, dtype, device, layout, shape, strides, ``requires_grad`` and all bits
        are the same, otherwise the first property that differs, or the elements that do.
    """
    mismatch = _compare_properties(ours, theirs)
    if mismatch is not None:
        return mismatch
    if ours.layout is torch.strided:
        return None if same_bits(ours, theirs) else _compare_elements(ours, theirs)
    return _compare_sparse(ours, theirs)


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether two dense tensors of one dtype and shape have the same bits."""
    integers = INTEGERS.get(ours.dtype)
    if integers is not None and not (ours.is_neg() or theirs.is_neg()):
        equal = torch.equal(ours.detach().view(integers), theirs.detach().view(integers))
    else:
        equal = torch.equal(as_integers(ours), as_integers(theirs))
    if equal:
        return True
    return is_number_like(ours) and not bool(_differing(ours, theirs).any())


def tensor_distance(ours: Tensor, theirs: Tensor, *, ulps: bool = True) -> Distance:
    """Measure how far apart two dense tensors of one dtype and shape are.

    Args:
        ours: a dense tensor.
        theirs: a dense tensor of the same dtype, shape and device.
        ulps: whether the distances are wanted, or only how many elements differ. The distances of
            a hundred million elements take minutes and gigabytes.
    """
    differing = _differing(ours, theirs)
    elements = differing.any(dim=-1) if ours.is_complex() else differing
    count = int(elements.sum())
    if not (ulps and count and is_number_like(ours)):
        return Distance(ours.numel(), count)
    distances, one_sided_nan = _ulps(ours, theirs, differing)
    return Distance(
        elements=ours.numel(),
        differing=count,
        max_ulps=max(distances, default=None),
        histogram=_histogram(distances),
        one_sided_nan=one_sided_nan,
    )


def named_distances(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, ulps: bool = True
) -> dict[str, Distance]:
    """Measure how far apart two sets of named dense tensors are, each pair by itself.

    A tensor that only one side has, or that is of another shape, dtype, device or stride there,
    differs in every element.
    """
    return {
        name: _pair_distance([side[name] for side in (ours, theirs) if name in side], ulps)
        for name in {**ours, **theirs}
    }


def total_distance(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, ulps: bool = True
) -> Distance:
    """Measure how far apart two sets of named dense tensors are: :func:`named_distances` as one."""
    return sum(named_distances(ours, theirs, ulps=ulps).values(), Distance(0, 0))


def _pair_distance(present: list[Tensor], ulps: bool) -> Distance:
    size = max(tensor.numel() for tensor in present)
    if len(present) == 1 or _compare_properties(*present):
        return Distance(size, size)
    return Distance(size, 0) if same_bits(*present) else tensor_distance(*present, ulps=ulps)


def compare_floats(ours: float, theirs: float) -> Mismatch | None:
    """Compare two Python floats by their bits."""
    if ours == theirs != 0:
        return None
    pair = torch.tensor([ours, theirs], dtype=torch.float64)
    if same_bits(pair[0], pair[1]):
        return None
    distance = tensor_distance(pair[0], pair[1])
    return Mismatch("bits", ours, theirs, ulps=distance.max_ulps, dtype=torch.float64)


def percent(share: float) -> str:
    """Print a share of 0 to 1 in percent, never rounding a difference down to nothing."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _differing(ours: Tensor, theirs: Tensor) -> Tensor:
    differing = as_integers(ours) != as_integers(theirs)
    if is_number_like(ours):
        differing &= ~(is_nan(as_real(ours)) & is_nan(as_real(theirs)))
    return differing


def _compare_properties(ours: Tensor, theirs: Tensor) -> Mismatch | None:
    for what, value in _PROPERTIES.items():
        pair = value(ours), value(theirs)
        if pair[0] != pair[1]:
            mine, other = (getattr(each, "__name__", each) for each in pair)  # of a type the name
            return Mismatch(what, mine, other)
    return None


def _compare_sparse(ours: Tensor, theirs: Tensor) -> Mismatch | None:
    if ours.layout is torch.sparse_coo and ours.is_coalesced() != theirs.is_coalesced():
        return Mismatch("is_coalesced", ours.is_coalesced(), theirs.is_coalesced())
    for name in _SPARSE_PARTS[ours.layout]:
        mismatch = compare_tensors(getattr(ours.detach(), name)(), getattr(theirs.detach(), name)())
        if mismatch is not None:
            return replace(mismatch, part=name.lstrip("_"))
    return None


def _compare_elements(ours: Tensor, theirs: Tensor) -> Mismatch:
    distance = tensor_distance(ours, theirs)
    position = _differing(ours, theirs).nonzero()[0].tolist()
    element = tuple(position[:-1] if ours.is_complex() else position)
    ours_element, theirs_element = ours.detach()[element], theirs.detach()[element]
    return Mismatch(
        what="bits",
        ours=ours_element.item(),
        theirs=theirs_element.item(),
        element=element,
        ulps=tensor_distance(ours_element, theirs_element).max_ulps,
        distance=distance,
        dtype=ours.dtype,
    )


def _ulps(ours: Tensor, theirs: Tensor, differing: Tensor) -> tuple[list[int], int]:
    """Return the distances of the differing pairs of numbers, and how many are no such pair."""
    ours, theirs = as_real(ours)[differing], as_real(theirs)[differing]
    numbers = ~(is_nan(ours) | is_nan(theirs))
    left, right = ordered(as_integers(ours[numbers])), ordered(as_integers(theirs[numbers]))
    # Two float64 can be further apart than an int64 counts; the difference then wraps around, and
    # modulo 2^64 it is right again.
    wrapped = torch.maximum(left, right) - torch.minimum(left, right)
    return [ulps % 2**64 for ulps in wrapped.tolist()], int((~numbers).sum())


def _histogram(ulps: list[int]) -> tuple[int, ...]:
    counts = [0] * max((most.bit_length() for most in ulps), default=0)
    for distance in ulps:
        counts[distance.bit_length() - 1] += 1
    return tuple(counts)
