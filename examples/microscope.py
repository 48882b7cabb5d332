"""An optimizer under the microscope: its steps as worked examples, its updates, its bits.

Three steps of Adam on one weight are traced and printed with every operation and its numbers. Then
a small network is trained, and every tenth step says how large the updates are beside the weights
and how many of them rounding swallows, in float32 and in bfloat16. Last, SGD on lists of tensors is
put beside SGD on single ones, in bfloat16, and the first operation at which they part is found.

    python examples/microscope.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from common import Options, Result, conclude, parser, start
from torch import Tensor, nn

import optimlab
from optimlab.parity import Scenario, TensorSpec


def worked_example(optim: Any, device: torch.device) -> Tensor:
    """Trace three steps on a parabola, and print them."""
    title("Three steps of Adam, each operation with its numbers")
    weight = nn.Parameter(torch.tensor([3.0], device=device))
    optimizer = optim.Adam([weight], lr=0.5, foreach=False)
    with optimlab.trace(optimizer) as traced:
        for _ in range(3):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
    print(traced)
    return weight.detach()


def watched_training(optim: Any, options: Options, dtype: torch.dtype) -> dict[str, Tensor]:
    """Train a network, and print what every tenth step did to its parameters."""
    title(f"The updates of a network in {str(dtype).removeprefix('torch.')}, after the last look")
    torch.manual_seed(options.seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    model.to(options.device, dtype)
    inputs = torch.randn(64, 8).to(options.device, dtype)
    targets = inputs.sin().sum(dim=1, keepdim=True)
    optimizer = optim.Adam(model.named_parameters(), lr=1e-3, foreach=False)
    with optimlab.watch(optimizer, every=min(10, options.steps)) as watched:
        for _ in range(options.steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
    print(watched)
    return {name: param.detach() for name, param in model.named_parameters()}


def divergence(optim: Any) -> optimlab.Explanation:
    """Find where lists of tensors diverge from single tensors."""
    title("Where SGD on lists of bfloat16 tensors diverges from SGD on single ones, and why")
    tensors = (TensorSpec((33, 17), torch.bfloat16), TensorSpec((7,), torch.bfloat16))
    single, listed = (
        partial(optim.SGD, lr=0.01, momentum=0.9, foreach=foreach) for foreach in (False, True)
    )
    found = optimlab.explain(single, listed, Scenario(tensors=tensors))
    print(str(found).partition("\n\n")[0])  # numbers and both sequences of operations follow
    return found


def title(words: str) -> None:
    """Print what comes next."""
    print(f"\n{words}\n{'-' * len(words)}")


def run(options: Options) -> Result:
    """Use all three tools."""
    optim = start(options)
    result: Result = {"weight": worked_example(optim, options.device)}
    for dtype in (torch.float32, torch.bfloat16):
        result[str(dtype)] = watched_training(optim, options, dtype)
    found = divergence(optim)
    result["diverged"] = [found.step, *found.operation_names]
    shown = "every step can be read, measured and compared, down to the operation and bit."
    return conclude(result, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=100).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
