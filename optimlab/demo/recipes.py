"""What the demo trains with: four optimizers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from optimlab.renamed import moved_from

__getattr__ = moved_from(__name__)


@dataclass(frozen=True)
class Recipe:
    """An optimizer class, named as both libraries name it, and its arguments."""

    title: str
    class_name: str
    arguments: Mapping[str, Any]

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
    """What to train, how long, where and from which seed; equal settings give equal bits."""

    recipe: str
    epochs: int
    batch_size: int
    seed: int
    device: str
