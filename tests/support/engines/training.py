"""Training with each of torch's engines for several processes, in any process of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import distributed as example
import torch
from chosen import Choice
from runs import ending
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import snapshot
from optimlab.lab.lockstep.clone import clone

PROCESSES = 2


@dataclass(frozen=True)
class Run:
    """A model, what is called in its place, and its optimizer."""

    model: nn.Module
    called: Any
    optimizer: Optimizer

    def train(self, steps: Iterable[int]) -> Run:
        """Accumulate gradients of two batches, exchange them, clip them, step at a falling rate."""
        for step in steps:
            for group in self.optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
            self.optimizer.zero_grad()
            self._backward(2 * step, exchange=False)
            self._backward(2 * step + 1, exchange=True)
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            self.optimizer.step()
        return self

    def _backward(self, number: int, *, exchange: bool) -> None:
        if hasattr(self.called, "set_requires_gradient_sync"):  # FSDP2's way to say it
            self.called.set_requires_gradient_sync(exchange)
        waits = hasattr(self.called, "no_sync") and not exchange  # and DDP's
        with self.called.no_sync() if waits else nullcontext():
            self.called(inputs(number)).square().mean().backward()

    def seen(self) -> Any:
        """Take a copy of all that this process can see of the optimizer and the parameters."""
        params = list(self.model.parameters())
        everything = [snapshot(own(self.optimizer), params), [param.detach() for param in params]]
        return clone(example.changed(everything, shown))

    def reached(self, show: Callable[[Tensor], Any] | None = None) -> Any:
        """Take a copy of what training has changed."""
        reached = ending(self.model, own(self.optimizer))
        return clone(example.changed(reached, show or shown))


def network(seed: int) -> nn.Sequential:
    """Make a network whose rows two processes cannot share equally; the last has but one."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3), nn.Tanh(), nn.Linear(3, 1))


def inputs(number: int) -> Tensor:
    """Make a batch, another one in each process."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return torch.randn(8, 7, generator=torch.Generator().manual_seed(PROCESSES * number + rank))


def own(optimizer: Optimizer) -> Optimizer:
    """Return what updates this process's part of the parameters: ZeRO's inner optimizer."""
    inner: Optimizer = getattr(optimizer, "optim", optimizer)
    return inner


def shown(tensor: Tensor) -> Any:
    """Return a tensor as it is, and of a DTensor all that this process has."""
    if not isinstance(tensor, DTensor):
        return tensor
    return {"shard": tensor.to_local(), "of": tensor.shape, "placed": str(tensor.placements)}


# The engines.


def alone(choice: Choice, seed: int = 0) -> Run:
    """All in one process."""
    model = network(seed)
    return Run(model, model, choice.make(model.parameters()))


def copies(choice: Choice, seed: int = 0) -> Run:
    """A copy of the model in each process; gradients are views of what is exchanged."""
    model = network(seed)
    called = DistributedDataParallel(model, gradient_as_bucket_view=True)
    return Run(model, called, choice.make(model.parameters()))


def shards(choice: Choice, seed: int = 0, policy: MixedPrecisionPolicy | None = None) -> Run:
    """A shard of the model in each process."""
    model = network(seed)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for module in (model[0], model):
        fully_shard(module, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    return Run(model, model, choice.make(model.parameters()))


def sharded_state(choice: Choice, seed: int = 0) -> Run:
    """A copy of the model in each process, and the state of some of its parameters."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # which warns

    model = network(seed)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=choice.optimizer_class, **choice.options
    )
    return Run(model, DistributedDataParallel(model), optimizer)


ENGINES: dict[str, Callable[..., Run]] = {
    "DDP": copies,
    "FSDP2": shards,
    "FSDP2 in bfloat16": partial(
        shards,
        policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    ),
    "ZeRO": sharded_state,
}
