"""Find out why a checkpoint loads without an error and training goes wrong from there.

What one learns: torch matches saved state to parameters by their position, takes hyperparameters
from the checkpoint, and asks for no names, shapes or classes. Three checkpoints that load without a
word are examined here before they are loaded: one of a network whose layers were written down in
another order, one of Adam given to AdamW, and one whose learning rate replaces the one that was
asked for. The first is repaired and goes on to the bits of the uninterrupted run. In the end, an
optimizer that was built too early is looked over beside its model.

    python examples/checkpoint_doctor.py
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import Options, Result, conclude, parser, start, track
from torch import Tensor, nn

import optimlab
from optimlab import repair

LR = 0.01


class Network(nn.Module):
    """Two layers of one shape, whose order in the file does not show in what the network does.

    Args:
        order: in which order the layers are written down.
    """

    def __init__(self, *order: str) -> None:
        super().__init__()
        for name in order:
            self.add_module(name, nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Return both layers, one after the other."""
        layers = dict(self.named_children())
        result: Tensor = layers["head"](layers["body"](x).tanh())
        return result


def train(network: Network, optimizer: Any, steps: range) -> None:
    """Learn to turn around the order of eight numbers; step n always has the same numbers."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 8, generator=generator).to(next(network.parameters()).device)
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x), x.flip(1)).backward()
        optimizer.step()


def another(network: Network, *order: str) -> Network:
    """Make a network with the same weights, its layers written down in another order."""
    made = Network(*order).to(next(network.parameters()).device)
    made.load_state_dict(network.state_dict())
    return made


def differing(one: Network, other: Network) -> int:
    """Count the parameters of the same name whose bits differ."""
    theirs = dict(other.named_parameters())
    return sum(not torch.equal(param, theirs[name]) for name, param in one.named_parameters())


def run(options: Options) -> Result:
    """Examine three checkpoints, repair one, and look over an optimizer."""
    optim = start(options)
    network = Network("body", "head").to(options.device)
    optimizer = optim.Adam(network.named_parameters(), lr=LR)
    train(network, optimizer, range(options.steps))
    saved = copy.deepcopy(optimizer.state_dict())

    print("1. The layers were written down in another order")
    resumed = another(network, "head", "body")
    later = optim.Adam(resumed.named_parameters(), lr=LR)
    print(optimlab.doctor(saved, later))
    later.load_state_dict(copy.deepcopy(saved))  # torch: not a word

    fixed = another(network, "head", "body")
    mended = optim.Adam(fixed.named_parameters(), lr=LR)
    repaired = repair(saved, against=mended)
    print(f"repaired: {repaired}")
    mended.load_state_dict(repaired.content)
    for step in track(options.steps, "training on"):
        now = range(options.steps + step - 1, options.steps + step)
        for each, its in ((network, optimizer), (resumed, later), (fixed, mended)):
            train(each, its, now)
    wrong, right = differing(resumed, network), differing(fixed, network)
    print(f"after {options.steps} more steps differ: as loaded {wrong} of 4, repaired {right}\n")

    print("2. Adam's checkpoint is given to AdamW")
    print(optimlab.doctor(saved, optim.AdamW(network.named_parameters(), lr=LR)), end="\n\n")

    print("3. Another learning rate was asked for")
    print(optimlab.doctor(saved, optim.Adam(network.named_parameters(), lr=LR / 10)), end="\n\n")

    print("4. The optimizer was built before the head was replaced")
    network.add_module("head", nn.Linear(8, 8).to(options.device))
    report = optimlab.lint(optimizer, network)
    print(report)

    result = {
        "network": dict(network.named_parameters()),
        "resumed": dict(resumed.named_parameters()),
        "repaired": dict(fixed.named_parameters()),
        "differing": (wrong, right),
        "lint": [finding.kind for finding in report.findings],
    }
    return conclude(
        result, f"of 4 parameters {wrong} go wrong as loaded, and {right} once repaired."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=50).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
