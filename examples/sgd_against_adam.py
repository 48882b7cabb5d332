"""Fit a noisy parabola with SGD and with Adam, and draw the two losses.

1000 points of y = x² + 0.1 noise, a network of one hidden layer with 20 units, both optimizers at
lr 0.01 over all points at once. Each has a model of its own, with the same first weights: one model
under two optimizers would be moved by both, and the curves would show neither.

    python examples/sgd_against_adam.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Options, Result, conclude, draw, parser, start, track
from torch import Tensor, nn

LR = 0.01


class Net(nn.Module):
    """A network 1-20-1."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 20)
        self.predict = nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1) to (n, 1)."""
        y: Tensor = self.predict(self.hidden(x).relu())
        return y


def train(
    net: Net, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, epochs: int
) -> list[float]:
    """Train on all points at once and return the loss of each epoch."""
    criterion = nn.MSELoss()
    losses = []
    for _ in track(epochs, type(optimizer).__name__):
        loss = criterion(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(options: Options) -> Result:
    """Train one model with each optimizer."""
    optim = start(options)
    x = torch.linspace(-1, 1, 1000).unsqueeze(1)
    y = x.square() + 0.1 * torch.randn(x.shape)
    x, y = x.to(options.device), y.to(options.device)

    first = Net().to(options.device)
    nets = {"SGD": deepcopy(first), "Adam": deepcopy(first)}
    optimizers = {
        "SGD": optim.SGD(nets["SGD"].parameters(), lr=LR),
        "Adam": optim.Adam(nets["Adam"].parameters(), lr=LR),
    }
    losses = {
        name: train(nets[name], optimizer, x, y, options.steps)
        for name, optimizer in optimizers.items()
    }
    print(f"epoch{'SGD':>12}{'Adam':>12}")
    for epoch in sorted({*range(0, options.steps, 100), options.steps - 1}):
        print(f"{epoch:5}{losses['SGD'][epoch]:12.5f}{losses['Adam'][epoch]:12.5f}")
    path = options.out / "sgd-against-adam.png"
    draw(path, range(options.steps), losses, ("epoch", "mean squared error"), log=True)
    sgd, adam = (losses[name][-1] for name in nets)
    models = {name: dict(net.named_parameters()) for name, net in nets.items()}
    shown = f"at lr {LR}, Adam is at a loss of {adam:.4f} when SGD is at {sgd:.4f}."
    return conclude({"models": models, "losses": losses}, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=1000).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
