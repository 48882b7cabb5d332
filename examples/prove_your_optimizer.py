"""Prove that an optimizer of your own is the one it is meant to be, and see what a mistake does.

Below stands RMSprop as one might write it. `check` compares it with the library's in every dtype
and with other hyperparameters, with gradients that are missing, zero or not contiguous, with
several groups and through a checkpoint, and finds no differing bit. Then eps is moved into the
root, and the report says in which step and in which element that shows first, and how far apart the
two end. In a test, `check(...).require()` is the assertion, and with pytest so is the fixture
`optimizer_parity`.

    python examples/prove_your_optimizer.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from common import Options, Result, conclude, parser, start
from torch import Tensor

from optimlab.parity import check

# What the library's RMSprop has beside: other ways to carry a step out, and options left out here.
THEIR_OPTIONS = ("foreach", "capturable", "differentiable", "momentum", "centered", "maximize")
THEIR_STATE = ("step",)  # RMSprop has no use for a step count


class MyRMSprop(torch.optim.Optimizer):
    """RMSprop without momentum (Hinton 2012, lecture 6e)."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.update(param, param.grad, self.state[param], group)
        return loss

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Change one parameter and its state by one step."""
        if not state:
            state["square_avg"] = torch.zeros_like(param)
        if group["weight_decay"] != 0:
            grad = grad.add(param, alpha=group["weight_decay"])
        param, grad, square_avg = map(as_real, (param, grad, state["square_avg"]))
        square_avg.mul_(group["alpha"]).addcmul_(grad, grad, value=1 - group["alpha"])
        param.addcdiv_(grad, self.root(square_avg, group["eps"]), value=-group["lr"])

    def root(self, square_avg: Tensor, eps: float) -> Tensor:
        """Return the denominator of the step."""
        return square_avg.sqrt().add_(eps)


class EpsInTheRoot(MyRMSprop):
    """The same with one operation moved, as some libraries have it."""

    def root(self, square_avg: Tensor, eps: float) -> Tensor:
        """Return the denominator of the step."""
        return square_avg.add(eps).sqrt_()


def as_real(tensor: Tensor) -> Tensor:
    """View complex numbers as pairs of real ones."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def run(options: Options) -> Result:
    """Check both beside the library's RMSprop."""
    optim = start(options)
    prove = partial(
        check,
        reference=optim.RMSprop,
        ignore_options=THEIR_OPTIONS,
        ignore_state=THEIR_STATE,
        device=options.device.type,
        seed=options.seed,
    )
    right = prove(MyRMSprop)
    print(right, end="\n\n")
    right.require()
    wrong = prove(EpsInTheRoot, quick=True)
    print(wrong, end="\n\n")
    compared = sum(each.compared for each in wrong.results)
    # The reports name the library; what came of each configuration is the same for both.
    outcomes = [
        (each.compared, type(each.outcome).__name__) for each in (*right.results, *wrong.results)
    ]
    conclude(
        {"outcomes": outcomes, "elements": [each.compared.elements for each in (right, wrong)]},
        f"all {right.compared.elements} elements have the same bits; with eps in the root, "
        f"{len(wrong.differences)} of {compared} configurations differ.",
    )
    return {"right": right, "wrong": wrong}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=20).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
