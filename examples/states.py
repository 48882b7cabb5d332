"""What a training run consists of besides its network and torch's own classes.

Each class has `state_dict` and `load_state_dict`, as modules, optimizers, schedulers and gradient
scalers have, and puts nothing but tensors and plain values into it: `torch.load(weights_only=True)`
then reads a checkpoint without trusting it.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Stateful(Protocol):
    """What can be put into a checkpoint and restored from it."""

    def state_dict(self) -> dict[str, Any]:
        """Return it as tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Take over what ``state_dict`` returned."""


class Order:
    """The order of the training data, a new one in each epoch, and the place in it.

    Args:
        count: how many items there are.
        seed: of the permutations, which have a generator of their own.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.permutation = torch.randperm(count, generator=self.generator)
        self.position = 0

    def draw(self, size: int) -> Tensor:
        """Return the numbers of the next items: int64, ``size`` of them or what the epoch has."""
        if self.position >= len(self.permutation):
            self.permutation = torch.randperm(len(self.permutation), generator=self.generator)
            self.position = 0
        chosen = self.permutation[self.position : self.position + size]
        self.position += size
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return order and place; the generator is already where the next epoch begins."""
        return {
            "generator": self.generator.get_state(),
            "permutation": self.permutation,
            "position": self.position,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go to the place that ``state_dict`` returned."""
        self.generator.set_state(state_dict["generator"])
        self.permutation, self.position = state_dict["permutation"], state_dict["position"]


class RandomState:
    """The generators that all code of the process draws from: Python's, NumPy's and torch's.

    Args:
        seed: of all of them.
        device: what is trained on. Dropout on CUDA draws from a generator of that device.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global one, since libraries draw from it
        torch.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return all states, NumPy's array as a tensor."""
        numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
        key, position = numpy["state"]["key"], numpy["state"]["pos"]
        on_cuda = self.device.type == "cuda"
        return {
            "python": random.getstate(),
            "numpy": {**numpy, "state": {"key": torch.tensor(key.tolist()), "pos": position}},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on drawing where ``state_dict`` was called."""
        numpy = state_dict["numpy"]
        key, position = numpy["state"]["key"], numpy["state"]["pos"]
        key = np.array(key.tolist(), dtype=np.uint32)
        random.setstate(state_dict["python"])
        np.random.set_state({**numpy, "state": {"key": key, "pos": position}})  # noqa: NPY002
        torch.set_rng_state(state_dict["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state_dict["cuda"], self.device)
