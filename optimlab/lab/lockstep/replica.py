"""One of the two optimizers that are compared, and what a scenario does to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import snapshot
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import Scenario

_SCALE = 1024.0

#: Makes an optimizer from what torch calls ``params``: a list of group dicts.
Make: TypeAlias = Callable[[list[dict[str, Any]]], Optimizer]


class Replica:
    """An optimizer with parameters of its own, and what a scenario does to it."""

    optimizer: Optimizer  # once it was constructed
    seen: dict[str, Any]  # all that there was to be seen at the last snapshot
    saved: dict[str, Any]  # the last state dict

    def __init__(self, make: Make, scenario: Scenario, ignored: Collection[str] = ()) -> None:
        self._make = make
        self._ignored = ignored
        self._scenario = scenario
        self._groups = 2
        # The gradients of the last step, of which the parameters hold copies.
        self.given: Sequence[Tensor | None] = ()
        # In a differentiable scenario parameters are computed from sources, and gradients from
        # what was passed.
        self.passed: list[Tensor] = []
        self.derivatives: Sequence[Tensor | str | None] = ()
        self.sources: list[Tensor] = [value.requires_grad_() for value in scenario.start()]
        self.params: list[Tensor] = self.sources
        if scenario.differentiable:
            self.params = [self._computed(source) for source in self.sources]

    def construct(self) -> None:
        """Make the optimizer over the groups that there are by now."""
        self.optimizer = self._make([self._group(number) for number in range(self._groups)])

    def add_group(self) -> None:
        """Add group 2."""
        self._groups = 3
        self.optimizer.add_param_group(self._group(2))

    def halve_lr(self) -> None:
        """Halve the learning rate of every group as a scheduler does, each tensor once."""
        filled: set[int] = set()
        for group in self.optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"] * 0.5
            elif id(group["lr"]) not in filled:
                filled.add(id(group["lr"]))
                with torch.no_grad():
                    group["lr"].mul_(0.5)

    def save(self) -> None:
        """Take a state dict, for either side to resume from."""
        self.saved = self.optimizer.state_dict()

    def resume(self, state_dict: dict[str, Any]) -> None:
        """Go on in a new optimizer that loads a state dict."""
        self.construct()
        self.optimizer.load_state_dict(state_dict)

    def step(self, number: int, gradients: Sequence[Tensor | None]) -> None:
        """Give every parameter a copy of its gradient and call ``step()``."""
        self.given = gradients
        for param, grad in zip(self.params, gradients, strict=True):
            param.grad = None if grad is None else self._passed(clone(grad))
        if self._scenario.unscale:
            self._tell_scale(found_inf=number % 4 == 0)
        self.optimizer.step()

    def backward(self) -> None:
        """Differentiate the parameters with respect to where they started and all gradients.

        Where autograd refuses, because a later step changed in place what an earlier one saved, the
        kind of error is kept instead: its message counts operations.
        """
        outputs = [param for param in self.params if param.requires_grad]
        ones = [torch.ones_like(output) for output in outputs]
        try:
            self.derivatives = torch.autograd.grad(
                outputs, [*self.sources, *self.passed], ones, allow_unused=True, retain_graph=True
            )
        except RuntimeError as error:
            self.derivatives = [type(error).__name__]

    def snapshot(self) -> None:
        """Lay out in ``seen`` all that can be seen of this side now."""
        self.seen = snapshot(self.optimizer, self.params, self._ignored)
        self.seen["backward"] = list(self.derivatives)

    def _tell_scale(self, found_inf: bool) -> None:
        # The names through which torch.amp.GradScaler tells an optimizer.
        device = self._scenario.device
        self.optimizer.grad_scale = torch.tensor(_SCALE, device=device)  # type: ignore[attr-defined]
        self.optimizer.found_inf = torch.tensor(  # type: ignore[attr-defined]
            float(found_inf), device=device
        )

    def _passed(self, grad: Tensor) -> Tensor:
        if not self._scenario.differentiable:
            return grad
        self.passed.append(grad)
        return grad.clone()  # the result of a computation, as a differentiable gradient is

    def _computed(self, source: Tensor) -> Tensor:
        # Strides stay, and the result is no leaf, so that autograd sees through the steps.
        param = source.view_as(source).clone(memory_format=torch.preserve_format)
        param.retain_grad()
        return param

    def _group(self, number: int) -> dict[str, Any]:
        names = self._scenario.names
        members = [i for i, spec in enumerate(self._scenario.tensors) if spec.group == number]
        params = [(names[i], self.params[i]) if names else self.params[i] for i in members]
        override = self._scenario.overrides[number - 1] if number else {}
        return {"params": params, **{key: clone(value) for key, value in override.items()}}
