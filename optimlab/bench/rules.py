"""The update rules that are measured, and how many bytes a step of each must move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

import torch

from optimlab import optimizers
from optimlab.bench.lion import ForLoopLion, Lion

LibraryName = Literal["torch", "optimlab"]

# Anything that has the classes of the rules will do. Neither library has Lion: optimlab's is a rule
# as its users write them, torch's is the loop over parameters that it takes the place of.
_OURS = SimpleNamespace(**vars(optimizers), Lion=Lion)
_THEIRS = SimpleNamespace(**vars(torch.optim), Lion=ForLoopLion)
LIBRARIES: dict[LibraryName, Any] = {"torch": _THEIRS, "optimlab": _OURS}


@dataclass(frozen=True)
class Traffic:
    """How often memory is touched for each element of a parameter.

    Attributes:
        reads: numbers that are read.
        writes: numbers that are written.
    """

    reads: int
    writes: int

    def bytes(self, elements: int = 1, itemsize: int = 4) -> int:
        """Return how many bytes that is for so many elements, by default one float32."""
        return (self.reads + self.writes) * elements * itemsize


@dataclass(frozen=True)
class Rule:
    """An optimizer class, named as both libraries name it, and its arguments."""

    title: str
    class_name: str
    arguments: Mapping[str, Any]

    @property
    def state_names(self) -> tuple[str, ...]:
        """The state tensors that the rule keeps for each parameter."""
        optimizer_class = getattr(_OURS, self.class_name)
        optimizer: optimizers.Rule = optimizer_class([torch.zeros(1)], **self.arguments)
        return optimizer.state_spec.names(optimizer.param_groups[0])

    @property
    def traffic(self) -> Traffic:
        """What a step must move at least: the gradient in, parameter and state in and out.

        Step counts are left out: they are one number for each tensor, not for each element.
        """
        in_and_out = 1 + len(self.state_names)
        return Traffic(reads=1 + in_and_out, writes=in_and_out)

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.class_name}({arguments})"


_NESTEROV = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "sgd": Rule("SGD", "SGD", {"lr": 0.01}),
        "momentum": Rule("SGD momentum", "SGD", {"lr": 0.01, "momentum": 0.9}),
        "nesterov": Rule("Nesterov, wd", "SGD", _NESTEROV),
        "adam": Rule("Adam", "Adam", {"lr": 0.001}),
        "adamw": Rule("AdamW", "AdamW", {"lr": 0.001}),
        "rmsprop": Rule("RMSprop", "RMSprop", {"lr": 0.001}),
        "lion": Rule("Lion, own rule", "Lion", {"weight_decay": 0.1}),
    }
)
