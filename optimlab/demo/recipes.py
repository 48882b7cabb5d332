"""What the demo trains with: four optimizers, and the two libraries that they are taken from."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from optimlab import optimizers

LibraryName = Literal["torch", "optimlab"]

# Anything that has the classes named below will do.
LIBRARIES: dict[LibraryName, Any] = {"torch": torch.optim, "optimlab": optimizers}


@dataclass(frozen=True)
class Recipe:
    """An optimizer class, named as both libraries name it, and its arguments."""

    title: str
    class_name: str
    arguments: Mapping[str, Any]

    def build(self, library: LibraryName, network: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer from ``library`` for the parameters of ``network``."""
        optimizer_class = getattr(LIBRARIES[library], self.class_name)
        optimizer: torch.optim.Optimizer = optimizer_class(network.parameters(), **self.arguments)
        return optimizer

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.class_name}({arguments})"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "sgd": Recipe("SGD", "SGD", {"lr": 0.02}),
        "momentum": Recipe("Momentum", "SGD", {"lr": 0.02, "momentum": 0.9}),
        "nesterov": Recipe("Nesterov", "SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
        "adam": Recipe("Adam", "Adam", {"lr": 0.001}),
    }
)


@dataclass(frozen=True)
class Settings:
    """What to train, how long, where and from which seed; equal settings give equal bits.

    Attributes:
        recipe: Key of ``RECIPES``.
        epochs: How often all training images are seen.
        batch_size: Images per step.
        seed: Seed of the network's first parameters and of the data order.
        device: ``"cpu"`` or ``"cuda"``.
    """

    recipe: str
    epochs: int
    batch_size: int
    seed: int
    device: str
