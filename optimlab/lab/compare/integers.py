"""Floating-point numbers read as the integers that their bits spell."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def as_integers(tensor: Tensor) -> Tensor:
    """View a dense tensor as the integers its bits spell, a complex number as two of them."""
    real = as_real(tensor)
    if not real.is_floating_point():
        return real
    return real.view(INTEGERS.get(real.dtype, torch.int8))  # all other formats have 8 bits


def without_payloads(tensor: Tensor) -> Tensor:
    """View a dense tensor as :func:`as_integers` does, with one integer for every NaN."""
    integers = as_integers(tensor)
    if not is_number_like(tensor):
        return integers
    nan = is_nan(as_real(tensor))
    return integers.masked_fill(nan, torch.iinfo(integers.dtype).max) if nan.any() else integers


def ordered(integers: Tensor) -> Tensor:
    """Map the bits of floating-point numbers to int64 in the order of the numbers.

    Neighbours differ by 1. Bits are sign and magnitude, integers two's complement: turning over
    the magnitude of the negative ones makes the order that of the numbers, with -0.0 one below 0.0.

    Args:
        integers: what :func:`as_integers` returns for a floating-point tensor.
    """
    magnitude = torch.iinfo(integers.dtype).max
    return torch.where(integers < 0, integers ^ magnitude, integers).to(torch.int64)


def hexadecimal(value: float, dtype: torch.dtype) -> str:
    """Spell the bits of a number of the given floating-point dtype, such as ``0x3f800000``."""
    if dtype is torch.float64:
        return "0x" + struct.pack(">d", value).hex()
    tensor = torch.tensor(value, dtype=dtype)
    size = tensor.element_size()
    return f"0x{int(as_integers(tensor)) & (256**size - 1):0{2 * size}x}"


def as_real(tensor: Tensor) -> Tensor:
    """View complex numbers as pairs of real ones."""
    tensor = tensor.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def is_number_like(tensor: Tensor) -> bool:
    """Tell whether the elements have ulps."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_nan(real: Tensor) -> Tensor:
    """Tell of each real number whether it is none."""
    # The 8-bit formats have no isnan of their own.
    return (real if real.element_size() > 1 else real.float()).isnan()
