"""From a gradient by hand to one step of a residual network, and layers that stay as they are.

Three stations. Autograd computes the gradients that an optimizer reads, here of Q = 3a³ - b², next
to the formulas 9a² and -2b. One step of SGD then trains an 18-layer residual network on a random
picture: the printed optimizer shows its parameter group, and each of the network's tensors moves by
exactly -lr times its gradient, since the momentum buffer of the first step is the gradient. Last,
parameters with `requires_grad = False` get no new gradient: the optimizer leaves them alone and
keeps no state for them, although they are among its parameters. Not all of a frozen layer stands
still: the running mean and variance of BatchNorm are buffers, no parameters, and each forward pass
in training mode moves them; `eval()` on these layers stops that.

    python examples/autograd_tour.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import Options, Result, conclude, parser, start, track
from torch import Tensor, nn

from optimlab.lab.compare.bits import named_distances, total_distance


class Block(nn.Module):
    """Two convolutions whose result is added to what went in.

    Args:
        channels: of the input and the output.
        stride: of the first convolution; 2 halves the picture.
    """

    def __init__(self, channels: tuple[int, int], stride: int) -> None:
        super().__init__()
        before, after = channels
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Sequential()
        if before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, before, h, w) to (n, after, h / stride, w / stride)."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out.relu()


class ResNet18(nn.Module):
    """The residual network of 17 convolutions and one linear layer (He et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks = [Block((64, 64), 1), Block((64, 64), 1)]
        for before in (64, 128, 256):
            blocks += [Block((before, 2 * before), 2), Block((2 * before, 2 * before), 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, 3, h, w) to scores (n, 1000)."""
        features: Tensor = self.blocks(self.stem(pictures))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores


def copies(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters as they are now."""
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def autograd_by_hand(optim: Any, device: torch.device) -> Result:
    """Compare autograd's gradients of Q with the formulas, and step along them."""
    a = torch.tensor([2.0, 3.0], device=device, requires_grad=True)
    b = torch.tensor([6.0, 4.0], device=device, requires_grad=True)
    q = 3 * a**3 - b**2
    q.backward(gradient=torch.ones_like(q))
    assert a.grad is not None
    assert b.grad is not None
    print(f"Q = 3a³ - b² with a = {a.tolist()}, b = {b.tolist()}")
    print(f"  a.grad = {a.grad.tolist()}, 9a² = {(9 * a**2).tolist()}")
    print(f"  b.grad = {b.grad.tolist()}, -2b = {(-2 * b).tolist()}")

    optim.SGD([a, b], lr=0.5).step()
    print(f"  after a step of SGD, lr 0.5: a = {a.tolist()}, b = {b.tolist()}")
    return {"a": a, "b": b, "gradients": [a.grad, b.grad]}


def residual_network(optim: Any, model: ResNet18, options: Options) -> Result:
    """Take SGD's step, by default one, on a random picture and 1000 random targets."""
    picture = torch.rand(1, 3, 64, 64).to(options.device)
    labels = torch.rand(1, 1000).to(options.device)
    optimizer = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    print(f"\n{optimizer}")
    expected: dict[str, Tensor] = {}
    for step in track(options.steps, "stepping"):
        prediction = model(picture)
        loss = (prediction - labels).sum()
        optimizer.zero_grad()
        loss.backward()
        if step == 1:
            expected = by_hand(model)
            print(f"loss before the step {loss.item():.4f}")
        optimizer.step()
        if step == 1:
            print(f"by hand and by SGD, first step: {total_distance(copies(model), expected)}")
    with torch.no_grad():
        loss = (model(picture) - labels).sum()
    print(f"loss after {options.steps} step{'s' * (options.steps > 1)} {loss.item():.4f}")
    return {"residual network": copies(model), "loss": loss}


@torch.no_grad()
def by_hand(model: nn.Module) -> dict[str, Tensor]:
    """Return what the first step makes of each parameter: the momentum buffer is the gradient."""
    gradients = {name: param.grad for name, param in model.named_parameters()}
    return {
        name: before.add(grad, alpha=-1e-2)
        for name, before in copies(model).items()
        if (grad := gradients[name]) is not None
    }


def frozen_layers(optim: Any, model: ResNet18, options: Options) -> Result:
    """Freeze everything but a new head for 10 classes, and give the optimizer all of it."""
    for param in model.parameters():
        param.requires_grad = False
        param.grad = None  # which would still move it: an optimizer looks at the gradient only
    model.head = nn.Linear(512, 10).to(options.device)
    before = copies(model)
    optimizer = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    loss = model(torch.rand(2, 3, 64, 64).to(options.device)).square().sum()
    loss.backward()
    optimizer.step()

    after = copies(model)
    changed = [name for name, each in named_distances(before, after).items() if each.differing]
    print(f"\nfrozen: of {len(before)} tensors SGD was given, changed: {', '.join(changed)};")
    print(f"  it keeps a momentum buffer for {len(optimizer.state)} of them")
    return {"frozen": after, "changed": changed, "buffers": len(optimizer.state)}


def run(options: Options) -> Result:
    """Visit the three stations."""
    optim = start(options)
    result = autograd_by_hand(optim, options.device)
    model = ResNet18().to(options.device)
    result |= residual_network(optim, model, options)
    result |= frozen_layers(optim, model, options)
    shown = "an optimizer moves what has a gradient, by its rule, and nothing else."
    return conclude(result, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=1).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
