"""The update rules that are measured: classes and their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Rule:
    """An optimizer class, named as both libraries name it, and its arguments."""

    title: str
    class_name: str
    arguments: Mapping[str, Any]

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
