"""Ten optimizers with one mistake each, and the same code without it.

:class:`PlainSGD`, :class:`PlainAdam` and :class:`PlainAdamW` are ordinary for-loops, as an author
might write them, and give the bits of ``torch.optim``. Each wrong optimizer overrides one method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

Group: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any]


class PlainOptimizer(Optimizer):
    """Calls :meth:`update` for one parameter after the other."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    grad = -param.grad if group["maximize"] else param.grad
                    self.update(param, grad, group)
        return loss

    def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
        raise NotImplementedError


class PlainSGD(PlainOptimizer):
    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
        momentum = group["momentum"]
        if group["weight_decay"] != 0:
            grad = self.decayed(grad, param, group["weight_decay"])
        if momentum != 0:
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = self.first_buffer(grad, group["dampening"])
            else:
                state["momentum_buffer"].mul_(momentum).add_(grad, alpha=1 - group["dampening"])
            buffer = state["momentum_buffer"]
            grad = grad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        param.add_(grad, alpha=-group["lr"])

    def decayed(self, grad: Tensor, param: Tensor, weight_decay: float) -> Tensor:
        return grad.add(param, alpha=weight_decay)

    def first_buffer(self, grad: Tensor, dampening: float) -> Tensor:
        return grad.clone()


class PlainAdam(PlainOptimizer):
    decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
        state = self.state[param]
        if not state:
            state.update(self.first_state(param, group["amsgrad"]))
        self.count(state)
        if group["weight_decay"] != 0:
            grad = self.decayed(param, grad, group)
        held = {name: as_real(value) for name, value in state.items()}
        self.accumulate(held, as_real(grad), *self.betas(group))
        self.move(as_real(param), held, group)

    def first_state(self, param: Tensor, amsgrad: bool) -> State:
        names = ["exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * amsgrad]
        zeros = {name: torch.zeros_like(param) for name in names}
        return {"step": torch.zeros((), dtype=torch.float32), **zeros}

    def count(self, state: State) -> None:
        state["step"].add_(1)

    def betas(self, group: Group) -> tuple[float, float]:
        beta1, beta2 = group["betas"]
        return beta1, beta2

    def decayed(self, param: Tensor, grad: Tensor, group: Group) -> Tensor:
        """Apply the weight decay, to the gradient or right away to the parameter."""
        if not self.decoupled:
            return grad.add(param, alpha=group["weight_decay"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        return grad

    def accumulate(self, state: State, grad: Tensor, beta1: float, beta2: float) -> None:
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

    def move(self, param: Tensor, state: State, group: Group) -> None:
        step = int(state["step"])
        beta1, beta2 = self.betas(group)
        root = self.root(state, (1 - beta2**step) ** 0.5, group)
        param.addcdiv_(state["exp_avg"], root, value=-(group["lr"] / (1 - beta1**step)))

    def root(self, state: State, correction: float, group: Group) -> Tensor:
        """Return the denominator of the step."""
        return (self.second_moment(state, group).sqrt() / correction).add_(group["eps"])

    def second_moment(self, state: State, group: Group) -> Tensor:
        """Return the second moment, with AMSGrad the largest so far."""
        exp_avg_sq: Tensor = state["exp_avg_sq"]
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            return torch.maximum(largest, exp_avg_sq, out=largest)
        return exp_avg_sq


class PlainAdamW(PlainAdam):
    decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


def as_real(value: Any) -> Any:
    """View a complex tensor as pairs of real numbers; leave everything else."""
    return torch.view_as_real(value) if torch.is_tensor(value) and value.is_complex() else value


# The mistakes.


class EpsInsideTheRoot(PlainAdam):
    def root(self, state: State, correction: float, group: Group) -> Tensor:
        inside = self.second_moment(state, group).add(group["eps"])
        return inside.sqrt() / correction


class SwappedBetas(PlainAdam):
    def betas(self, group: Group) -> tuple[float, float]:
        beta2, beta1 = group["betas"]
        return beta1, beta2


class LostBiasCorrection(PlainAdam):
    def move(self, param: Tensor, state: State, group: Group) -> None:
        root = self.second_moment(state, group).sqrt().add_(group["eps"])
        param.addcdiv_(state["exp_avg"], root, value=-group["lr"])


class CoupledDecay(PlainAdamW):
    decoupled = False


class DampenedFirstStep(PlainSGD):
    def first_buffer(self, grad: Tensor, dampening: float) -> Tensor:
        return grad.clone().mul_(1 - dampening)


class MaximumAfterTheRoot(PlainAdam):
    def root(self, state: State, correction: float, group: Group) -> Tensor:
        root: Tensor = state["exp_avg_sq"].sqrt()
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            root = torch.maximum(largest, root, out=largest)
        return (root / correction).add_(group["eps"])


class IntegerStep(PlainAdam):
    def first_state(self, param: Tensor, amsgrad: bool) -> State:
        return {**super().first_state(param, amsgrad), "step": 0}

    def count(self, state: State) -> None:
        state["step"] += 1


class ReducedPrecisionState(PlainAdam):
    def first_state(self, param: Tensor, amsgrad: bool) -> State:
        state = super().first_state(param, amsgrad)
        return {**state, "exp_avg": torch.zeros_like(param, dtype=torch.bfloat16)}

    def accumulate(self, state: State, grad: Tensor, beta1: float, beta2: float) -> None:
        state["exp_avg"].lerp_(grad.to(state["exp_avg"].dtype), 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)


class MutatedGradient(PlainSGD):
    def decayed(self, grad: Tensor, param: Tensor, weight_decay: float) -> Tensor:
        return grad.add_(param, alpha=weight_decay)


class FusedOrder(PlainAdam):
    def accumulate(self, state: State, grad: Tensor, beta1: float, beta2: float) -> None:
        state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)


@dataclass(frozen=True)
class Wrong:
    """One wrong optimizer, and where it parts from the right one.

    Attributes:
        wrong: the class with the mistake.
        right: the class of ``torch.optim`` that it is meant to be.
        correct: the same code without the mistake.
        operation: ATen's name, without an underscore at its end, of the first operation of the
            right optimizer whose result, or whose place in memory, the wrong one does not have.
        step: the first step in which that happens, 1 for the first.
        cause: the mistake in a few words.
        options: hyperparameters with which it shows, for both.
    """

    wrong: type[Optimizer]
    right: type[Optimizer]
    correct: type[Optimizer]
    operation: str
    step: int
    cause: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing_options(self) -> tuple[str, ...]:
        """Hyperparameters of the right class that plain for-loops do not have."""
        makers: Any = (self.right, self.wrong)
        right, wrong = (make([torch.zeros(1)]).defaults for make in makers)
        return tuple(name for name in right if name not in wrong)


WRONG: Mapping[str, Wrong] = {
    "eps inside the root": Wrong(
        EpsInsideTheRoot,
        torch.optim.Adam,
        PlainAdam,
        operation="sqrt",
        step=1,
        cause="eps is added before the root is taken",
    ),
    "swapped betas": Wrong(
        SwappedBetas,
        torch.optim.Adam,
        PlainAdam,
        operation="lerp",
        step=1,
        cause="the first moment decays by beta2, the second by beta1",
    ),
    "lost bias correction": Wrong(
        LostBiasCorrection,
        torch.optim.Adam,
        PlainAdam,
        operation="div",
        step=1,
        cause="the moments are used as they are, without their corrections",
    ),
    "L2 for decoupled decay": Wrong(
        CoupledDecay,
        torch.optim.AdamW,
        PlainAdamW,
        operation="mul",
        step=1,
        cause="weight_decay * param is added to the gradient; param is not shrunk",
        options={"weight_decay": 0.1},
    ),
    "dampening on the first step": Wrong(
        DampenedFirstStep,
        torch.optim.SGD,
        PlainSGD,
        operation="add",
        step=1,
        cause="the first gradient enters the momentum buffer dampened",
        options={"lr": 0.01, "momentum": 0.9, "dampening": 0.1},
    ),
    "amsgrad maximum after the root": Wrong(
        MaximumAfterTheRoot,
        torch.optim.Adam,
        PlainAdam,
        operation="maximum",
        step=1,
        cause="the largest root is kept, not the largest second moment",
        options={"amsgrad": True},
    ),
    "int step": Wrong(
        IntegerStep,
        torch.optim.Adam,
        PlainAdam,
        operation="add",
        step=1,
        cause="the step count is a Python int, and no tensor operation counts it",
    ),
    "state in reduced precision": Wrong(
        ReducedPrecisionState,
        torch.optim.Adam,
        PlainAdam,
        operation="lerp",
        step=1,
        cause="exp_avg is kept in bfloat16",
    ),
    "p.grad mutated": Wrong(
        MutatedGradient,
        torch.optim.SGD,
        PlainSGD,
        operation="add",
        step=1,
        cause="weight decay is added to p.grad in place",
        options={"lr": 0.01, "weight_decay": 0.1},
    ),
    "fused order": Wrong(
        FusedOrder,
        torch.optim.Adam,
        PlainAdam,
        operation="lerp",
        step=2,
        cause="beta1 * exp_avg + (1 - beta1) * grad, which rounds differently from lerp",
    ),
}
