"""Update a small convolutional network by hand, and see when SGD gives the same bits.

"weight = weight - lr * gradient" is all there is to SGD without momentum. Written exactly so, a few
weights still end in other bits: lr * gradient is rounded before it is subtracted, and the
difference is rounded again, while SGD's `add_(gradient, alpha=-lr)` rounds once, on a processor
with a fused multiply-add. Two things show that this is the whole reason. Written with `add_`, the
update has SGD's bits; and so has the first form when lr is a power of two, because then the
product is exact.

    python examples/lenet.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import TypeAlias

import torch
from common import Options, Result, conclude, parser, start
from torch import Tensor, nn

from optimlab.lab.compare.bits import total_distance

LR, POWER_OF_TWO = 0.01, 2**-7

Update: TypeAlias = Callable[[Iterable[Tensor], float], None]


class LeNet(nn.Module):
    """A network in the manner of LeNet-5 (LeCun et al. 1998) for pictures of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, 1, 32, 32) to scores (n, 10)."""
        x = nn.functional.max_pool2d(self.conv1(pictures).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        x = self.fc2(self.fc1(x.flatten(1)).relu()).relu()
        scores: Tensor = self.fc3(x)
        return scores


@torch.no_grad()
def as_written(weights: Iterable[Tensor], lr: float) -> None:
    """Subtract the rounded product: two roundings."""
    for weight in weights:
        if weight.grad is not None:
            weight.copy_(weight - lr * weight.grad)


@torch.no_grad()
def rounded_once(weights: Iterable[Tensor], lr: float) -> None:
    """Multiply and add in one operation: one rounding, where the processor can."""
    for weight in weights:
        if weight.grad is not None:
            weight.add_(weight.grad, alpha=-lr)


def train(net: LeNet, update: Callable[[], None], options: Options) -> list[float]:
    """Take steps towards a random target; return the loss before each step and after the last."""
    generator = torch.Generator().manual_seed(options.seed)
    picture = torch.randn(1, 1, 32, 32, generator=generator).to(options.device)
    target = torch.randn(1, 10, generator=generator).to(options.device)
    criterion = nn.MSELoss()
    losses = []
    for _ in range(options.steps):
        net.zero_grad()
        loss = criterion(net(picture), target)
        loss.backward()
        update()
        losses.append(loss.item())
    return [*losses, criterion(net(picture), target).item()]


def by_hand(start_from: LeNet, update: Update, lr: float, options: Options) -> LeNet:
    """Train a copy with a hand-written update."""
    net = deepcopy(start_from)
    train(net, lambda: update(net.parameters(), lr), options)
    return net


def run(options: Options) -> Result:
    """Train copies of one network by hand and with SGD."""
    optim = start(options)
    first = LeNet().to(options.device)
    nets = {}
    for lr in (LR, POWER_OF_TWO):
        nets[lr] = deepcopy(first)
        optimizer = optim.SGD(nets[lr].parameters(), lr=lr)
        losses = train(nets[lr], optimizer.step, options)
        print(f"SGD, lr {lr:g}: loss {losses[0]:.6f} before, {losses[-1]:.6f} after the last step")

    result: Result = {f"SGD {lr}": dict(net.named_parameters()) for lr, net in nets.items()}
    for update, lr, words in (
        (as_written, LR, "weight = weight - lr * gradient"),
        (rounded_once, LR, "weight.add_(gradient, alpha=-lr)"),
        (as_written, POWER_OF_TWO, "weight = weight - lr * gradient"),
    ):
        net = by_hand(first, update, lr, options)
        distance = total_distance(dict(net.named_parameters()), dict(nets[lr].named_parameters()))
        print(f"{words + ',':33} lr {lr:g}: {distance}")
        result[f"{update.__name__} {lr}"] = distance

    shown = "the hand-written update is SGD's; only where it rounds twice can a bit differ."
    return conclude(result, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=1).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
