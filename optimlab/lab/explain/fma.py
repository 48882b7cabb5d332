"""A fused multiply-add, to the bit, where torch offers none."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute ``a * b + c``, rounded once: exactly what a fused multiply-add gives.

    Args:
        a: float32 or float64, as are the others; they are broadcast.
        b: the second factor.
        c: the summand.
    """
    if a.dtype is torch.float64:
        return _fma_by_fractions(*torch.broadcast_tensors(a, b, c))
    product, summand = a.double() * b.double(), c.double()  # the product of two float32 is exact
    total = product + summand
    # Rounding twice, to float64 and then to float32, errs where the first falls on a tie of the
    # second. Rounding the first to odd where it is inexact (Boldo and Melquiond 2008) prevents it.
    part = total - product
    error = (product - (total - part)) + (summand - part)
    bits = total.view(torch.int64)
    towards = torch.where((error > 0) == (total > 0), 1, -1)
    odd = torch.where((bits & 1 == 0) & (error != 0) & total.isfinite(), bits + towards, bits)
    return odd.view(torch.float64).to(a.dtype)


def _fma_by_fractions(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    def one(x: float, y: float, z: float) -> float:
        try:
            exact = Fraction(x) * Fraction(y) + Fraction(z)
            return float(exact) if exact else x * y + z  # whose zero has the right sign
        except (ValueError, OverflowError):  # infinite, or NaN
            return x * y + z

    numbers = [t.reshape(-1).tolist() for t in (a, b, c)]
    return torch.tensor(list(map(one, *numbers)), dtype=a.dtype).reshape(a.shape)
