"""Who carries a step out: optimlab, and torch in each of its ways."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optimlab import optimizers
from optimlab.bench.lion import ForLoopLion, Lion
from optimlab.bench.rules import Rule
from optimlab.bench.workloads import Workload

LibraryName = Literal["torch", "optimlab"]

# Anything that has the classes of the rules will do. Neither library has Lion: optimlab's is a rule
# as its users write them, torch's is the loop over parameters that it takes the place of.
OPTIMLAB = SimpleNamespace(**vars(optimizers), Lion=Lion)
TORCH = SimpleNamespace(**vars(torch.optim), Lion=ForLoopLion)
LIBRARIES: dict[LibraryName, Any] = {"torch": TORCH, "optimlab": OPTIMLAB}
OURS = "optimlab"

# Compiling takes about a quarter of a second for each tensor, anew for each rule.
MOST_COMPILED_TENSORS = 32
# A compiled step has become as fast as it gets only after its first seven or eight calls.
UNTIMED_STEPS, UNTIMED_STEPS_COMPILED = 2, 10
SETS_OF_GRADIENTS = 3


@dataclass(frozen=True)
class Implementation:
    """A way to carry out a step: a library's class, its arguments beside those of the rule."""

    title: str
    library: LibraryName
    options: Mapping[str, Any]
    compiled: bool = False

    def class_of(self, rule: Rule) -> type[torch.optim.Optimizer]:
        """Return the optimizer class of a rule."""
        found: type[torch.optim.Optimizer] = getattr(LIBRARIES[self.library], rule.class_name)
        return found

    def missing(self, rule: Rule, workload: Workload) -> str:
        """Return why it cannot, or should not, carry out this rule on this workload, if so."""
        offered = inspect.signature(self.class_of(rule)).parameters
        for option, value in self.options.items():
            if value and option not in offered:
                return f"torch has no {option} {rule.class_name}"
        if self.compiled and len(workload.shapes) > MOST_COMPILED_TENSORS:
            return f"more than {MOST_COMPILED_TENSORS} tensors take minutes to compile"
        return ""


IMPLEMENTATIONS: Mapping[str, Implementation] = MappingProxyType(
    {
        "for-loop": Implementation("torch for-loop", "torch", {"foreach": False}),
        "foreach": Implementation("torch foreach", "torch", {"foreach": True}),
        "fused": Implementation("torch fused", "torch", {"fused": True}),
        "compiled": Implementation("torch.compile(step)", "torch", {}, compiled=True),
        OURS: Implementation("optimlab", "optimlab", {}),
    }
)


def default_of_torch(device: str) -> str:
    """Return the implementation that torch takes where nothing is asked for."""
    return "for-loop" if device == "cpu" else "foreach"


class Values:
    """The numbers that a workload starts with, and a few sets of gradients, to be taken in turn."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device
        generator = torch.Generator().manual_seed(0)

        def draw(scale: float) -> list[Tensor]:
            drawn = (torch.randn(shape, generator=generator) for shape in workload.shapes)
            return [tensor.mul_(scale).to(device) for tensor in drawn]

        self.start = draw(1.0)
        self.gradients = [draw(0.01) for _ in range(SETS_OF_GRADIENTS)]

    def gradients_of(self, step: int) -> Sequence[Tensor]:
        """Return the gradients of a step, counted from 0."""
        return self.gradients[step % SETS_OF_GRADIENTS]


class Run:
    """One implementation at work on parameters of its own: copies of those to start with."""

    def __init__(self, implementation: Implementation, rule: Rule, start: Sequence[Tensor]) -> None:
        self.params = [nn.Parameter(tensor.clone()) for tensor in start]
        options = {**rule.arguments, **implementation.options}
        self.optimizer = implementation.class_of(rule)(self.params, **options)
        step: Callable[[], object] = self.optimizer.step
        self.step = torch.compile(step) if implementation.compiled else step

    def take(self, gradients: Sequence[Tensor]) -> None:
        """Set all gradients as after a backward pass: to new tensors, at addresses that change."""
        for param, gradient in zip(self.params, gradients, strict=True):
            param.grad = gradient.detach()

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and all state, by what they are called."""
        tensors = {}
        for index, param in enumerate(self.params):
            tensors[f"parameter {index}"] = param.detach()
            for name, value in self.optimizer.state[param].items():
                # torch's SGD keeps an entry for the buffer that it does not have.
                if isinstance(value, Tensor):
                    tensors[f"{name} of parameter {index}"] = value
        return tensors
