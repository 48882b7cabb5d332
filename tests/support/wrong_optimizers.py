"""Ten optimizers with one mistake each, and the same code without it.

:class:`PlainSGD`, :class:`PlainAdam` and :class:`PlainAdamW` are ordinary for-loops, as an author
might write them, and give the bits of ``torch.optim``. Each mistake is an edit of a few words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from mutation import edited
from torch import Tensor
from torch.optim import Optimizer

Group: TypeAlias = dict[str, Any]


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
                grad = param.grad
                if grad is not None:
                    self.update(param, -grad if group["maximize"] else grad, group)
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
        options = {"lr": lr, "momentum": momentum, "dampening": dampening}
        flags = {"nesterov": nesterov, "maximize": maximize}
        super().__init__(params, {**options, "weight_decay": weight_decay, **flags})

    def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        if group["weight_decay"] != 0:
            grad = grad.add(param, alpha=group["weight_decay"])
        if momentum != 0:
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = grad.clone()
            else:
                state["momentum_buffer"].mul_(momentum).add_(grad, alpha=1 - dampening)
            buffer = state["momentum_buffer"]
            grad = grad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        param.add_(grad, alpha=-group["lr"])


class PlainAdam(PlainOptimizer):
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
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"amsgrad": amsgrad, "maximize": maximize}
        PlainOptimizer.__init__(self, params, options)

    def first_state(self, param: Tensor, amsgrad: bool) -> Group:
        names = ["exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * amsgrad]
        zeros = {name: torch.zeros_like(param) for name in names}
        return {"step": torch.zeros((), dtype=torch.float32), **zeros}

    def update(self, param: Tensor, grad: Tensor, group: Group) -> None:
        state, decay = self.state[param], group["weight_decay"]
        beta1, beta2 = group["betas"]
        if not state:
            state.update(self.first_state(param, group["amsgrad"]))
        state["step"] += 1
        if decay != 0:
            grad = grad.add(param, alpha=decay)
        tensors = {name: as_real(value) for name, value in state.items()}
        param, grad = as_real(param), as_real(grad)
        exp_avg, exp_avg_sq = tensors["exp_avg"], tensors["exp_avg_sq"]
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        largest = tensors.get("max_exp_avg_sq")
        moment = exp_avg_sq
        if largest is not None:
            moment = torch.maximum(largest, exp_avg_sq, out=largest)
        step = int(state["step"])
        size, correction = group["lr"] / (1 - beta1**step), (1 - beta2**step) ** 0.5
        root = (moment.sqrt() / correction).add_(group["eps"])
        param.addcdiv_(exp_avg, root, value=-size)


def as_real(value: Any) -> Any:
    """View a complex tensor as pairs of real numbers; leave everything else."""
    return torch.view_as_real(value) if torch.is_tensor(value) and value.is_complex() else value


@dataclass(frozen=True)
class Wrong:
    """One wrong optimizer, and where it parts from the right one.

    Attributes:
        cause: the mistake in a few words.
        wrong: the class with the mistake.
        operation: ATen's name, without an underscore at its end, of the first operation of the
            right optimizer whose result, or whose place in memory, the wrong one does not have.
        options: hyperparameters with which it shows, for both.
        step: the first step in which that happens, 1 for the first.
    """

    cause: str
    wrong: type[Optimizer]
    operation: str
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int = 1

    @property
    def correct(self) -> type[Optimizer]:
        """The same code without the mistake."""
        return self.wrong.__mro__[1]

    @property
    def right(self) -> type[Optimizer]:
        """The class of ``torch.optim`` that it is meant to be."""
        right: type[Optimizer] = getattr(torch.optim, self.correct.__name__.removeprefix("Plain"))
        return right

    @property
    def missing_options(self) -> tuple[str, ...]:
        """Hyperparameters of the right class that plain for-loops do not have."""
        makers: Any = (self.right, self.wrong)
        right, wrong = (make([torch.zeros(1)]).defaults for make in makers)
        return tuple(name for name in right if name not in wrong)


PlainAdamW = edited(
    PlainAdam,
    "PlainAdamW",
    ("weight_decay: float = 0,", "weight_decay: float = 1e-2,"),
    ("grad = grad.add(param, alpha=decay)", 'param.mul_(1 - group["lr"] * decay)'),
)
CoupledDecay = edited(
    PlainAdamW,
    "CoupledDecay",
    ('param.mul_(1 - group["lr"] * decay)', "grad = grad.add(param, alpha=decay)"),
)
DampenedFirstStep = edited(
    PlainSGD, "DampenedFirstStep", ("grad.clone()", "grad.clone().mul_(1 - dampening)")
)
MutatedGradient = edited(
    PlainSGD, "MutatedGradient", ("grad = grad.add(param,", "grad = grad.add_(param,")
)
SwappedBetas = edited(PlainAdam, "SwappedBetas", ("beta1, beta2 = group", "beta2, beta1 = group"))
MaximumAfterTheRoot = edited(
    PlainAdam,
    "MaximumAfterTheRoot",
    ("moment = exp_avg_sq\n", "root = exp_avg_sq.sqrt()\n    moment = root\n"),
    ("maximum(largest, exp_avg_sq,", "maximum(largest, root,"),
    ("moment.sqrt() /", "moment /"),
)
IntegerStep = edited(PlainAdam, "IntegerStep", ("torch.zeros((), dtype=torch.float32)", "0"))
FusedOrder = edited(
    PlainAdam,
    "FusedOrder",
    ("exp_avg.lerp_(grad, 1 - beta1)", "exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)"),
)

WRONG: Mapping[str, Wrong] = {
    "eps inside the root": Wrong(
        "eps is added before the root is taken",
        edited(
            PlainAdam,
            "EpsInsideTheRoot",
            (
                'root = (moment.sqrt() / correction).add_(group["eps"])',
                'inside = moment.add(group["eps"])\n    root = inside.sqrt() / correction',
            ),
        ),
        operation="sqrt",
    ),
    "swapped betas": Wrong(
        "the first moment decays by beta2, the second by beta1", SwappedBetas, operation="lerp"
    ),
    "lost bias correction": Wrong(
        "the moments are used as they are, without their corrections",
        edited(
            PlainAdam,
            "LostBiasCorrection",
            ("(moment.sqrt() / correction)", "moment.sqrt()"),
            ("value=-size", "value=-group['lr']"),
        ),
        operation="div",
    ),
    "L2 for decoupled decay": Wrong(
        "weight_decay * param is added to the gradient; param is not shrunk",
        CoupledDecay,
        operation="mul",
        options={"weight_decay": 0.1},
    ),
    "dampening on the first step": Wrong(
        "the first gradient enters the momentum buffer dampened",
        DampenedFirstStep,
        operation="add",
        options={"lr": 0.01, "momentum": 0.9, "dampening": 0.1},
    ),
    "amsgrad maximum after the root": Wrong(
        "the largest root is kept, not the largest second moment",
        MaximumAfterTheRoot,
        operation="maximum",
        options={"amsgrad": True},
    ),
    "int step": Wrong(
        "the step count is a Python int, and no tensor operation counts it",
        IntegerStep,
        operation="add",
    ),
    "state in reduced precision": Wrong(
        "exp_avg is kept in bfloat16",
        edited(
            PlainAdam,
            "ReducedPrecisionState",
            ("**zeros}", "**zeros, 'exp_avg': zeros['exp_avg'].bfloat16()}"),
            ("exp_avg.lerp_(grad, ", "exp_avg.lerp_(grad.to(exp_avg.dtype), "),
        ),
        operation="lerp",
    ),
    "p.grad mutated": Wrong(
        "weight decay is added to p.grad in place",
        MutatedGradient,
        operation="add",
        options={"lr": 0.01, "weight_decay": 0.1},
    ),
    "fused order": Wrong(
        "beta1 * exp_avg + (1 - beta1) * grad, which rounds differently from lerp",
        FusedOrder,
        operation="lerp",
        step=2,
    ),
}
