"""Fit a line with Adam, and see what happens when the optimizer is built too early.

The model is a plain class with two numbers, not an `nn.Module`, so that nothing is hidden: moving
it to a device makes new leaf tensors. An optimizer keeps the tensors it was given. One that was
built before the move therefore updates numbers that the model no longer uses, without an error.
What gives it away is the optimizer itself: the parameters in `param_groups` are not the model's,
and its `state` stays empty, because tensors without a gradient take no part in a step. On the CPU
the new tensors even share their memory with the old ones; what is lost is the gradient, which
arrives at the new ones. `optimlab.lint` says all this of an optimizer next to its model.

    python examples/line_fit.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch
from common import Options, Result, conclude, parser, start, track, wrapped
from torch import nn

import optimlab

GOOD_ENOUGH = 1e-5
EARLY_STEPS = 100


class Line:
    """The line a x + b, from two random numbers."""

    def __init__(self) -> None:
        self.a = nn.Parameter(torch.randn(1))
        self.b = nn.Parameter(torch.randn(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a x + b."""
        return self.a * x + self.b

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what is to be optimized."""
        yield self.a
        yield self.b

    def cuda(self) -> Line:
        """Move to the GPU."""
        return self.to(torch.device("cuda"))

    def cpu(self) -> Line:
        """Move to the CPU."""
        return self.to(torch.device("cpu"))

    def to(self, device: torch.device) -> Line:
        """Move to a device: the parameters are new tensors from here on."""
        # Without detach() the moved tensors would be results of the old ones, and Adam would
        # refuse them: "can't optimize a non-leaf Tensor".
        self.a = nn.Parameter(self.a.detach().to(device))
        self.b = nn.Parameter(self.b.detach().to(device))
        return self

    def __str__(self) -> str:
        return f"a = {self.a.item():.6f}, b = {self.b.item():.6f}"


def fit(model: Line, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Fit y = 2 x + 1 and return the last loss."""
    x = torch.linspace(1, 50, 50, device=model.a.device)
    y = 2 * x + 1
    criterion = nn.MSELoss(reduction="sum")
    loss = criterion(model.forward(x), y)
    for step in track(steps, "fitting"):
        optimizer.zero_grad()
        loss = criterion(model.forward(x), y)
        loss.backward()
        optimizer.step()
        if step % 1000 == 0:
            print(f"step {step:6}  loss {loss.item():.6g}")
        if loss.item() < GOOD_ENOUGH:
            print(f"step {step:6}  loss {loss.item():.6g} is less than {GOOD_ENOUGH:g}: done")
            break
    last: float = loss.item()
    return last


def held(model: Line, optimizer: torch.optim.Optimizer) -> int:
    """Count the parameters of the model that the optimizer holds: the same objects, not equals."""
    known = {id(param) for group in optimizer.param_groups for param in group["params"]}
    return sum(id(param) in known for param in model.parameters())


def run(options: Options) -> Result:
    """Fit the line, then build the optimizer too early."""
    optim = start(options)

    model = Line().to(options.device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-4)
    print(f"Adam holds {held(model, optimizer)} of the model's 2 parameters")
    loss = fit(model, optimizer, options.steps)
    print(model)

    print("\nThe pitfall: the optimizer is built before the model moves")
    early = Line()
    too_early = optim.Adam(early.parameters(), lr=1e-3, weight_decay=5e-4)
    early.to(options.device)
    before = str(early)
    fit(early, too_early, EARLY_STEPS)
    print(f"Adam holds {held(early, too_early)} of the model's 2 parameters")
    print(f"before: {before}\nafter {EARLY_STEPS} steps: {early}")
    print(f"Adam's state after {EARLY_STEPS} steps: {dict(too_early.state)}")

    # lint reads the parameters of a module; this one has the line's, the very same tensors.
    report = optimlab.lint(too_early, nn.ParameterList(early.parameters()))
    print(wrapped(f"optimlab.lint says of {report}"))

    result: Result = {
        "line": [model.a, model.b],
        "loss": loss,
        "state": [dict(optimizer.state[param]) for param in model.parameters()],
        "built too early": [early.a, early.b],
        "held": (held(model, optimizer), held(early, too_early)),
        "state built too early": len(too_early.state),
    }
    shown = "build the optimizer last; it updates the tensors it was given, no others."
    return conclude(result, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=20_000).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
