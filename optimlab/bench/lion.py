"""Lion, twice: a rule that a user writes on optimlab's base class, and a plain for-loop beside it.

torch has no Lion. That makes it the measure of a rule of one's own: the ten lines of
:meth:`Lion.update` run at the speed of optimlab's optimizers, and are compared, in time and bits,
with the loop over parameters that one would write without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from optimlab.core.groups import ParamGroup
from optimlab.core.values import T
from optimlab.rule import Like, Rule, StateSpec, Step

DEFAULTS = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}


class Lion(Rule):
    r"""Evolved sign momentum.

    .. math::
        % with every option
        g_t &\leftarrow \nabla f(\theta_{t-1}) \\
        \theta_t &\leftarrow (1 - \gamma \lambda) \theta_{t-1}
            - \gamma \, \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t) \\
        m_t &\leftarrow \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Source:
        Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2.
    """

    state_spec = StateSpec(Like("exp_avg"))

    def __init__(self, params: ParamsT, **options: Any) -> None:
        super().__init__(params, DEFAULTS | options)

    def update(
        self, param: T, grad: T, state: dict[str, T], step: Step[T], group: ParamGroup
    ) -> None:
        beta1, beta2 = group["betas"]
        exp_avg = state["exp_avg"]
        param.mul_(1 - group["lr"] * group["weight_decay"])
        direction = exp_avg.mul(beta1).add_(grad, alpha=1 - beta1).sign_()
        param.add_(direction, alpha=-group["lr"])
        exp_avg.mul_(beta2).add_(grad, alpha=1 - beta2)


class ForLoopLion(torch.optim.Optimizer):
    """The same as a loop over parameters."""

    def __init__(self, params: ParamsT, **options: Any) -> None:
        super().__init__(params, DEFAULTS | options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make a step."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["exp_avg"] = torch.zeros_like(param)
                exp_avg = state["exp_avg"]
                param.mul_(1 - group["lr"] * group["weight_decay"])
                direction = exp_avg.mul(beta1).add_(param.grad, alpha=1 - beta1).sign_()
                param.add_(direction, alpha=-group["lr"])
                exp_avg.mul_(beta2).add_(param.grad, alpha=1 - beta2)
