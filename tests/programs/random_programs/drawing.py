"""The numbers of a random program: values, memory layouts and choices."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from optimlab.lab.lockstep.scenario import Layout


class Source:
    """Draws numbers.

    Args:
        number: seeds it.

    Attributes:
        random: where the current action draws from.
    """

    def __init__(self, number: int) -> None:
        self.random = random.Random(str(number))

    def chance(self, probability: float) -> bool:
        """Return ``True`` with a probability."""
        return self.random.random() < probability

    def values(self, shape: Sequence[int], dtype: torch.dtype, *, odd: float = 0.0) -> Tensor:
        """Draw numbers over many powers of two, with a few zeros.

        Args:
            shape: of the tensor.
            dtype: of the tensor.
            odd: probability of an infinity or NaN among them.
        """
        generator = torch.Generator().manual_seed(self.random.getrandbits(32))
        size = (*shape, 2) if dtype.is_complex else tuple(shape)
        lowest, highest = (-5, 5) if dtype is torch.float16 else (-20, 10)
        mantissa = torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1
        mantissa[torch.rand(size, generator=generator) < 1 / 16] = 0
        numbers = torch.ldexp(mantissa, torch.randint(lowest, highest, size, generator=generator))
        if self.chance(odd) and numbers.numel():
            numbers.view(-1)[-1] = self.random.choice([float("inf"), float("-inf"), float("nan")])
        return (torch.view_as_complex(numbers) if dtype.is_complex else numbers).to(dtype)

    def layout(self, shape: Sequence[int]) -> Layout:
        """Draw a memory layout for a shape."""
        layouts: list[Layout] = ["contiguous", "contiguous", "every second"]
        layouts += ["transposed"] if len(shape) > 1 else []
        layouts += ["channels last"] if len(shape) == 4 else []
        return self.random.choice(layouts)

    def sparse(self, param: Tensor) -> Tensor:
        """Draw a sparse gradient, with one row in it or twice the same."""
        if not param.numel() or not param.dim():
            return self.values(param.shape, param.dtype).to_sparse()
        rows = torch.tensor([[0, 0] if self.chance(0.5) else [0]])
        values = self.values((rows.shape[1], *param.shape[1:]), param.dtype)
        return torch.sparse_coo_tensor(rows, values, param.shape, check_invariants=False)
