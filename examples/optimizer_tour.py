"""A tour of an optimizer: its defaults, state and parameter groups, a checkpoint, its refusals.

One 2 x 2 weight with a gradient of ones is stepped by SGD with momentum; a second weight joins in a
group of its own; 50 more steps change the state dict; it goes to a file and comes back into a new
optimizer, which takes the same next step to the bit: the mechanism behind resuming a training run.
What is refused or warned of, and why, comes last. (`optimlab/core/groups.py` and
`optimlab/core/checkpoint.py` are the code that does this, `optimlab/optimizer.py` its frame.)

    python examples/optimizer_tour.py
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import Options, Result, conclude, parser, start, wrapped
from torch import Tensor

from optimlab.lab.compare.bits import total_distance


def one_step(optimizer: torch.optim.Optimizer, weight: Tensor) -> None:
    """Show weight and gradient before and after a step, and both ways to reset a gradient."""
    title("One step")
    print(f"weight before     {rows(weight)}, gradient {rows(weight.grad)}")
    optimizer.step()
    print(f"weight after      {rows(weight)}, gradient {rows(weight.grad)}")
    optimizer.zero_grad(set_to_none=False)
    print(f"zero_grad(False)  gradient {rows(weight.grad)}, the same tensor filled with zeros")
    optimizer.zero_grad()
    print(f"zero_grad()       gradient {rows(weight.grad)}, so that it takes no part in a step")
    same = optimizer.param_groups[0]["params"][0] is weight
    print(f"param_groups[0]['params'][0] is weight: {same}")


def second_group(optimizer: torch.optim.Optimizer, weight: Tensor) -> None:
    """Add a group: what it does not say is filled in from the defaults."""
    title("add_param_group")
    optimizer.add_param_group({"params": weight, "lr": 0.0001, "nesterov": True})
    print(optimizer)


def fifty_steps(optimizer: torch.optim.Optimizer, weights: list[Tensor], steps: int) -> None:
    """Step with gradients of ones, and show the state dict before and after."""
    title(f"state_dict before and after {steps} steps: parameters are packed as indices")
    show_state(optimizer)
    take_steps(optimizer, weights, steps)
    show_state(optimizer)
    for index, group in enumerate(optimizer.state_dict()["param_groups"]):
        print(f"param_groups[{index}]: lr {group['lr']}, ..., params {group['params']}")


def take_steps(optimizer: torch.optim.Optimizer, weights: list[Tensor], steps: int) -> None:
    """Step with gradients of ones."""
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()


def through_a_file(
    optim: Any, optimizer: torch.optim.Optimizer, weights: list[Tensor], options: Options
) -> Result:
    """Save weights and optimizer, load both into new ones, and take one step with each."""
    title("Save, load, and go on")
    path = options.out / "optimizer-tour.pt"
    torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, path)

    saved = torch.load(path, weights_only=True)
    new_weights = [weight.detach().requires_grad_() for weight in saved["weights"]]
    new = optim.SGD([{"params": weight} for weight in new_weights], lr=0.5)
    new.load_state_dict(saved["optimizer"])
    print(f"wrote {path}")
    print("loaded it into an optimizer that was built with lr 0.5")
    print("load_state_dict restores state and groups, not defaults:")
    print(f"  defaults: lr {new.defaults['lr']}, momentum {new.defaults['momentum']}")
    for index, weight in enumerate(new_weights):
        buffer = rows(new.state[weight]["momentum_buffer"])
        print(f"  state[weight {index}]: momentum_buffer {buffer}")
    for index, group in enumerate(new.param_groups):
        changed = {key: group[key] for key in new.defaults if group[key] != new.defaults[key]}
        print(f"  param_groups[{index}], unlike the defaults: {changed}")

    take_steps(optimizer, weights, 1)
    take_steps(new, new_weights, 1)
    print(f"the next step of both: {total_distance(named(new_weights), named(weights))}")
    return {"resumed": new_weights, "resumed state": new.state_dict()}


def refusals(optim: Any, optimizer: torch.optim.Optimizer, weight: Tensor) -> list[str]:
    """Show what cannot be, each with its message."""
    title("Refused, and the optimizer stays as it was")
    other, third = (torch.zeros(size, requires_grad=True) for size in (2, 3))
    one_group = optim.SGD([other, third])
    larger_group = optim.SGD([{"params": [other]}, {"params": [third, torch.zeros(4)]}])

    def add(params: Any) -> Callable[[], object]:
        return lambda: optimizer.add_param_group({"params": params})

    def load(from_other: torch.optim.Optimizer) -> Callable[[], object]:
        return lambda: optimizer.load_state_dict(from_other.state_dict())

    messages = [
        message("not a leaf", add(weight * 2)),
        message("a set", add({other})),
        message("overlap", add([weight])),
        message("another number of groups", load(one_group)),
        message("a group of another size", load(larger_group)),
    ]
    print(f"groups: {len(optimizer.param_groups)}, as before")
    title("Warned about")
    return [*messages, message("a parameter given twice", lambda: optim.SGD([other, other]))]


def message(words: str, action: Callable[[], object]) -> str:
    """Return and print the error or warning that an action ends in."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            action()
    except (TypeError, ValueError, UserWarning) as error:
        text = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    else:
        raise AssertionError(f"{words} was accepted")
    print(wrapped(f"{words}: {text}"))
    return text


def title(words: str) -> None:
    """Print the name of the next station."""
    print(f"\n{words}\n{'-' * len(words)}")


def rows(tensor: Tensor | None) -> str:
    """Print a small tensor on one line."""
    if tensor is None:
        return "None"
    return str([[round(value, 2) for value in row] for row in tensor.tolist()])


def named(tensors: list[Tensor]) -> dict[str, Tensor]:
    """Name tensors by their index."""
    return {str(index): tensor.detach() for index, tensor in enumerate(tensors)}


def show_state(optimizer: torch.optim.Optimizer) -> None:
    """Print the state of a state dict: the momentum buffers."""
    for index, state in optimizer.state_dict()["state"].items():
        print(f"state[{index}]: momentum_buffer {rows(state['momentum_buffer'])}")


def run(options: Options) -> Result:
    """Walk through all stations with one optimizer."""
    optim = start(options)
    weight = torch.randn(2, 2).to(options.device).requires_grad_()
    weight.grad = torch.ones_like(weight)
    optimizer = optim.SGD([weight], lr=0.1, momentum=0.9)
    one_step(optimizer, weight)
    after_one = weight.detach().clone()

    second = torch.randn(3, 3).to(options.device).requires_grad_()
    second_group(optimizer, second)
    fifty_steps(optimizer, [weight, second], options.steps)
    result = through_a_file(optim, optimizer, [weight, second], options)
    messages = refusals(optim, optimizer, weight)
    result |= {
        "weight after one step": after_one,
        "weights": [weight, second],
        "state": optimizer.state_dict(),
        "messages": messages,
    }
    shown = "an optimizer is its defaults, groups and state; a file holds its groups and state."
    return conclude(result, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=50).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
