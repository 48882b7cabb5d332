"""Train layers at rates of their own: a new head at the default, a deep layer more slowly.

Parameter groups are how: each is a dict with its parameters and what differs from the defaults. An
optimizer with two groups does to each what an optimizer of its own would do, to the bit; and
parameters that are in no group stay as they are.

    python examples/layer_wise_rates.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy

from common import Options, Result, conclude, parser, start, track
from torch import Tensor, nn

from optimlab.demo.digits import Batches, read_digits
from optimlab.lab.compare.bits import total_distance

HEAD_LR, DEEP_LR = 0.1, 0.01


def build_network() -> nn.Sequential:
    """Build a small network for digits: two layers below, a deep layer, and the head."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU()),
        nn.Sequential(nn.Linear(64, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )


def train(network: nn.Sequential, update: Callable[[], None], options: Options) -> list[float]:
    """Train on handwritten digits and return the loss of every batch."""
    batches = Batches(read_digits(), batch_size=64, seed=options.seed)
    losses = []
    for _ in track(options.steps, "training"):
        images, labels = (tensor.to(options.device) for tensor in batches.draw())
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        update()
        losses.append(loss.item())
    return losses


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters, by name."""
    return {name: param.detach().clone() for name, param in network.named_parameters()}


def run(options: Options) -> Result:
    """Train once with two groups and once with two optimizers."""
    optim = start(options)
    network = build_network().to(options.device)
    twin = deepcopy(network)
    before = parameters(network)

    _, deep, head = network
    optimizer = optim.SGD(
        [{"params": head.parameters()}, {"params": deep.parameters(), "lr": DEEP_LR}],
        lr=HEAD_LR,
        momentum=0.9,
    )
    print(f"the network\n{network}\n\n{optimizer}\n")
    losses = train(network, optimizer.step, options)
    after = parameters(network)

    for words, number, lr in (("below", 0, None), ("deep layer", 1, DEEP_LR), ("head", 2, HEAD_LR)):
        names = [name for name in before if name.startswith(f"{number}.")]
        moved = max((after[name] - before[name]).abs().max().item() for name in names)
        print(f"{words:10}  lr {'none' if lr is None else lr:<6}  moved by at most {moved:.2g}")

    slow = optim.SGD(twin[1].parameters(), lr=DEEP_LR, momentum=0.9)
    fast = optim.SGD(twin[2].parameters(), lr=HEAD_LR, momentum=0.9)

    def both() -> None:
        slow.step()
        fast.step()

    train(twin, both, options)
    distance = total_distance(parameters(twin), after)
    print(f"two groups and two optimizers: {distance}")
    last = sum(losses[-10:]) / len(losses[-10:])
    print(f"loss of the first batch {losses[0]:.2f}, mean of the last ten {last:.2f}")
    return conclude(
        {"network": after, "losses": losses, "two optimizers": distance, "before": before},
        "each group is trained at its own rate, the rest not at all; "
        f"the loss fell from {losses[0]:.2f} to {last:.2f}.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=300).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
