"""Six ways to fit a sine, from NumPy to a module with an optimizer.

A polynomial of third order is fitted to sin(x) at 2000 points, and each rung hands one more thing
over to PyTorch: 1. NumPy, with gradients by hand; 2. tensors; 3. autograd finds the gradients;
4. `nn.Linear` holds the coefficients, updated by hand; 5. an optimizer updates them, RMSprop;
6. a module of our own, updated by SGD. Rungs 1, 2, 3 and 6 start from the same coefficients, 4 and
5 from those of their layer; beside rung 4 the same model is updated by SGD. Where the operations
are the same, the bits are: the hand-written `w.add_(w.grad, alpha=-lr)` is SGD's step.

    python examples/sine_ladder.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from common import Options, Result, conclude, draw, parser, start, track
from torch import Tensor, nn

from optimlab.lab.compare.bits import Distance, tensor_distance

POINTS, LR = 2000, 1e-6


@dataclass
class Fit:
    """What a rung ends with.

    Attributes:
        coefficients: a, b, c and d of a + b x + c x² + d x³.
        losses: the sum of squares before each update.
    """

    coefficients: Tensor
    losses: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        a, b, c, d = self.coefficients.tolist()
        return f"y = {a:.6f} + {b:.6f} x + {c:.6f} x^2 + {d:.6f} x^3"


def with_numpy(first: Tensor, steps: int) -> Fit:
    """Rung 1: NumPy in float64, gradients by hand."""
    x = np.linspace(-math.pi, math.pi, POINTS)
    y = np.sin(x)
    a, b, c, d = first.tolist()
    losses = []
    for _ in range(steps):
        y_pred = a + b * x + c * x**2 + d * x**3
        losses.append(float(np.square(y_pred - y).sum()))

        grad_y_pred = 2.0 * (y_pred - y)
        a -= LR * grad_y_pred.sum()
        b -= LR * (grad_y_pred * x).sum()
        c -= LR * (grad_y_pred * x**2).sum()
        d -= LR * (grad_y_pred * x**3).sum()
    return Fit(torch.tensor([a, b, c, d], dtype=torch.float64), losses)


def with_tensors(first: Tensor, steps: int) -> Fit:
    """Rung 2: tensors in float32, gradients by hand."""
    x, y = points(first.device)
    a, b, c, d = first.clone()
    losses = []
    for _ in range(steps):
        y_pred = a + b * x + c * x**2 + d * x**3
        losses.append((y_pred - y).pow(2).sum().item())

        grad_y_pred = 2.0 * (y_pred - y)
        a -= LR * grad_y_pred.sum()
        b -= LR * (grad_y_pred * x).sum()
        c -= LR * (grad_y_pred * x**2).sum()
        d -= LR * (grad_y_pred * x**3).sum()
    return Fit(torch.stack([a, b, c, d]), losses)


def with_autograd(first: Tensor, steps: int) -> Fit:
    """Rung 3: autograd finds the gradients, the update is by hand."""
    x, y = points(first.device)
    a, b, c, d = weights = [value.clone().requires_grad_() for value in first]
    losses = []
    for _ in range(steps):
        y_pred = a + b * x + c * x**2 + d * x**3
        loss = (y_pred - y).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            for w in weights:
                assert w.grad is not None
                w.add_(w.grad, alpha=-LR)  # w -= LR * w.grad with one rounding: see lenet.py
                w.grad = None
        losses.append(loss.item())
    return Fit(torch.stack(weights).detach(), losses)


def with_layers(model: nn.Sequential, steps: int) -> Fit:
    """Rung 4: a linear layer holds the coefficients, the update is by hand."""
    powers, y = powers_and_sines(model)
    criterion = nn.MSELoss(reduction="sum")
    losses = []
    for _ in range(steps):
        loss = criterion(model(powers), y)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for param in model.parameters():
                assert param.grad is not None
                param.add_(param.grad, alpha=-LR)
        losses.append(loss.item())
    return Fit(of_layers(model), losses)


def with_optimizer(model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int) -> Fit:
    """Rung 5: an optimizer updates the layer."""
    powers, y = powers_and_sines(model)
    criterion = nn.MSELoss(reduction="sum")
    losses = []
    for _ in range(steps):
        loss = criterion(model(powers), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Fit(of_layers(model), losses)


class Polynomial(nn.Module):
    """A polynomial of third order.

    Args:
        first: its coefficients, of shape (4,).
    """

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(value.clone()) for value in first)

    def forward(self, x: Tensor) -> Tensor:
        """Return a + b x + c x² + d x³."""
        return self.a + self.b * x + self.c * x**2 + self.d * x**3


def with_module(optim: Any, first: Tensor, steps: int) -> Fit:
    """Rung 6: a module of our own, and SGD."""
    x, y = points(first.device)
    model = Polynomial(first)
    optimizer = optim.SGD(model.parameters(), lr=LR)
    losses = []
    for _ in range(steps):
        loss = (model(x) - y).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Fit(torch.stack(list(model.parameters())).detach(), losses)


def points(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return 2000 points from -pi to pi, and their sines."""
    x = torch.linspace(-math.pi, math.pi, POINTS, device=device)
    return x, x.sin()


def powers_and_sines(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return x, x² and x³ of the points as three columns, and their sines."""
    x, y = points(next(model.parameters()).device)
    return x.unsqueeze(-1).pow(torch.arange(1, 4, device=x.device)), y


def layers(options: Options) -> nn.Sequential:
    """Build the model of rungs 4 and 5, the same at each call."""
    torch.manual_seed(options.seed)
    return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0, 1)).to(options.device)


def of_layers(model: nn.Sequential) -> Tensor:
    """Return the coefficients that a linear layer holds: its bias is a."""
    weight, bias = model.parameters()
    return torch.cat([bias, weight[0]]).detach()


def climb(optim: Any, options: Options) -> dict[str, Fit]:
    """Fit on every rung, and once more beside rung 4."""
    steps = options.steps
    first = torch.randn(4).to(options.device)
    tuned, beside = layers(options), layers(options)
    rms = optim.RMSprop(tuned.parameters(), lr=1e-3)
    sgd = optim.SGD(beside.parameters(), lr=LR)
    rungs: dict[str, Callable[[], Fit]] = {
        "1 NumPy": lambda: with_numpy(first, steps),
        "2 tensors": lambda: with_tensors(first, steps),
        "3 autograd": lambda: with_autograd(first, steps),
        "4 layers": lambda: with_layers(layers(options), steps),
        "5 RMSprop": lambda: with_optimizer(tuned, rms, steps),
        "6 module": lambda: with_module(optim, first, steps),
        "4 with SGD": lambda: with_optimizer(beside, sgd, steps),
    }
    names = list(rungs)
    return {names[n - 1]: rungs[names[n - 1]]() for n in track(len(rungs), "climbing")}


def agreements(fits: dict[str, Fit]) -> dict[str, Distance]:
    """Compare rungs that start from the same coefficients and take the same steps, as float32."""

    def distance(one: str, other: str) -> Distance:
        return tensor_distance(fits[one].coefficients.float(), fits[other].coefficients.float())

    found = {
        "3 autograd and 6 SGD, the same operations": distance("3 autograd", "6 module"),
        "4 by hand and with SGD, the same operations": distance("4 layers", "4 with SGD"),
        "2 and 3, gradients by hand and by autograd": distance("2 tensors", "3 autograd"),
    }
    if fits["2 tensors"].coefficients.device.type == "cpu":
        found["1 NumPy and 2, float64 and float32"] = distance("1 NumPy", "2 tensors")
    return found


def run(options: Options) -> Result:
    """Climb the ladder, print the losses side by side, and draw the polynomials."""
    optim = start(options)
    fits = climb(optim, options)
    rungs = list(fits)[:6]
    print("iteration" + "".join(f"{name:>13}" for name in rungs))
    for number in [*range(99, options.steps, 100)] or [options.steps - 1]:
        print(f"{number:9}" + "".join(f"{fits[name].losses[number]:13.4f}" for name in rungs))
    for name in rungs:
        print(f"{name:12} {fits[name]}")
    found = agreements(fits)
    for words, distance in found.items():
        print(f"{words}: {distance}")

    x, y = points(torch.device("cpu"))
    curves = {"sin(x)": y.tolist()}
    for name in rungs:
        a, b, c, d = fits[name].coefficients.tolist()
        curves[name] = (a + b * x + c * x**2 + d * x**3).tolist()
    draw(options.out / "sine-ladder.png", x.tolist(), curves, ("x", "y"))
    result = {
        "coefficients": {name: fit.coefficients for name, fit in fits.items()},
        "losses": {name: fit.losses for name, fit in fits.items()},
        "agreements": found,
    }
    return conclude(result, "where two rungs do the same operations, they end in the same bits.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=2000).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
