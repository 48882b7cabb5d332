"""Lion as a rule, and as a plain loop: the code of the page own.md."""

import torch

import optimlab
from optimlab.rule import Like, StateSpec


class Lion(optimlab.Rule):
    """Evolved sign momentum (Chen et al. 2023, algorithm 2)."""

    state_spec = StateSpec(Like("exp_avg"))

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, foreach=None):
        if not 0.0 <= lr:
            raise ValueError(f"Invalid learning rate: {lr}")
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "foreach": foreach})

    def update(self, param, grad, state, step, group):
        (beta1, beta2), exp_avg = group["betas"], state["exp_avg"]
        param.mul_(1 - group["lr"] * group["weight_decay"])
        direction = exp_avg.mul(beta1).add_(grad, alpha=1 - beta1).sign_()
        param.add_(direction, alpha=-group["lr"])
        exp_avg.mul_(beta2).add_(grad, alpha=1 - beta2)


class PlainLion(torch.optim.Optimizer):
    """The same as a loop over parameters, on torch's base class."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, foreach=None):
        # foreach changes nothing here; it is there so that it can be asked of both.
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "foreach": foreach, "differentiable": False})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    state = self.state[param]
                    if not state:
                        state["exp_avg"] = torch.zeros_like(param)
                    self.update_one(param, param.grad, state["exp_avg"], group)
        return loss

    def update_one(self, param, grad, m, group):
        lr, (beta1, beta2) = group["lr"], group["betas"]
        c = beta1 * m + (1 - beta1) * grad
        param.copy_(param * (1 - lr * group["weight_decay"]) - lr * torch.sign(c))
        m.copy_(beta2 * m + (1 - beta2) * grad)


class Reference(PlainLion):
    """The plain loop, with each product and sum rounded as one."""

    def update_one(self, param, grad, m, group):
        lr, (beta1, beta2) = group["lr"], group["betas"]
        c = torch.add(beta1 * m, grad, alpha=1 - beta1)
        decayed = param * (1 - lr * group["weight_decay"])
        param.copy_(torch.add(decayed, torch.sign(c), alpha=-lr))
        m.copy_(torch.add(beta2 * m, grad, alpha=1 - beta2))
