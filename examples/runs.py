"""What the examples under trainers and on several processes share: how a run ends.

The training itself is in the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from common import Result
from torch import Tensor, nn
from torch.optim import Optimizer

from optimlab.lab.compare.diff import Diff, path_name
from optimlab.lab.compare.snapshot import snapshot

Make: TypeAlias = Callable[[Iterable[Tensor]], Optimizer]
"""Makes the optimizer of some parameters."""


def ending(model: nn.Module, optimizer: Optimizer) -> Result:
    """Return all parameters, all state of the optimizer and its learning rates."""
    params = list(model.parameters())
    state = snapshot(optimizer, params)["state"]
    return {
        "parameters": dict(enumerate(param.detach() for param in params)),
        "state": dict(sorted(state.items())),  # which a checkpoint may bring in another order
        "lr": [group["lr"] for group in optimizer.param_groups],
    }


def same_bits(one: Any, other: Any) -> str:
    """Compare how two runs ended and say how much was compared.

    Raises:
        SystemExit: they ended differently; it says where.
    """
    comparison = Diff()
    found = comparison.differences(one, other)
    if found:
        place, mismatch = found[0]
        what = mismatch.distance or mismatch.what
        raise SystemExit(f"{path_name(place)}: {what}; {len(found) - 1} more differences")
    return f"the same bits in all {comparison.elements} elements"
