"""Train a network of two layers by hand, next to SGD, and draw both losses.

No layers, no optimizer: two matrices, relu(X W1) W2, the sum of squares, and after each
`backward()` a hand-written update under `torch.no_grad()`, with the gradients zeroed in place. SGD
takes the place of that update: `step()` and `zero_grad()`. The update written with one rounding,
`w.add_(w.grad, alpha=-lr)`, stays on SGD's bits for all iterations; `w -= lr * w.grad` rounds the
product as well and leaves them, though the losses differ by little.

    python examples/two_layer_network.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from common import Options, Result, conclude, draw, parser, start, track
from torch import Tensor

from optimlab.lab.compare.bits import total_distance

N, D_IN, H, D_OUT = 64, 1000, 100, 10
LR = 1e-6

Weights: TypeAlias = dict[str, Tensor]


def train(
    weights: Weights, x: Tensor, y: Tensor, update: Callable[[], None], steps: int
) -> list[float]:
    """Train in place and return the loss before each update."""
    w1, w2 = weights.values()
    losses = []
    for _ in track(steps, "training"):
        y_hat = (x @ w1).relu() @ w2
        loss = (y_hat - y).square().sum()
        loss.backward()
        update()
        losses.append(loss.item())
    return losses


def as_written(weights: Weights) -> None:
    """Update by hand: the product is rounded, then the difference."""
    with torch.no_grad():
        for w in weights.values():
            assert w.grad is not None
            w.sub_(LR * w.grad)
            w.grad.zero_()


def rounded_once(weights: Weights) -> None:
    """Update by hand in one operation."""
    with torch.no_grad():
        for w in weights.values():
            assert w.grad is not None
            w.add_(w.grad, alpha=-LR)
            w.grad.zero_()


BY_HAND = {"w.add_(w.grad, alpha=-lr)": rounded_once, "w -= lr * w.grad": as_written}


def copied(weights: Weights) -> Weights:
    """Return other leaves with the same values."""
    return {name: w.detach().clone().requires_grad_(True) for name, w in weights.items()}


def run(options: Options) -> Result:
    """Train from the same random weights with SGD and by hand."""
    optim = start(options)
    x, y = (torch.randn(N, size).to(options.device) for size in (D_IN, D_OUT))
    shapes = {"W1": (D_IN, H), "W2": (H, D_OUT)}
    first = {name: torch.randn(shape).to(options.device) for name, shape in shapes.items()}

    weights = copied(first)
    optimizer = optim.SGD(weights.values(), lr=LR)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    losses = {"SGD": train(weights, x, y, update, options.steps)}
    result: Result = {"SGD": weights}
    for name, by_hand in BY_HAND.items():
        others = copied(first)
        losses[name] = train(others, x, y, partial(by_hand, others), options.steps)
        result[name] = total_distance(others, weights)

    print("iteration" + "".join(f"{name:>28}" for name in losses))
    for number in sorted({*range(0, options.steps, 100), options.steps - 1}):
        print(f"{number:9}" + "".join(f"{each[number]:28.6g}" for each in losses.values()))
    for name in BY_HAND:
        print(f"{name:25} and SGD: {result[name]}")
    path = options.out / "two-layer-network.png"
    draw(path, range(options.steps), losses, ("iteration", "sum of squares"), log=True)
    shown = "SGD does one operation per weight; the same operation by hand gives the same bits."
    return conclude(result | {"losses": losses}, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=500).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
