"""The physical limit: how long moving the bytes of a step takes if nothing else is done.

A step has to read each gradient and to read and write each parameter and each state tensor: for
Adam 4 numbers in and 3 out, 28 bytes per element in float32 (:func:`traffic_of`). Whatever the rule
computes, it cannot be faster than the memory delivers. That time is measured, not looked up: loops
that move the same bytes and do next to no arithmetic are timed in turn with the implementations,
in the same process, with the same number of threads, on data of the same size, so that both meet
the same caches and the same load. The fastest loop is the limit.

The loops here are operations of torch, which run through memory once, vectorised, on all threads:

* ``passes`` works on as many arrays as the rule does, each as long as the parameters together: one
  ``param.add_(grad)``, and ``tensor.mul_(1)`` for each state tensor. Reads and writes are exactly
  those of the rule. Each pass starts the threads anew, which shows on small workloads.
* ``one pass`` is torch's fused SGD on arrays of such a length that the bytes are the same. The
  threads start once, but it reads and writes at most 3 and 2 streams.

A loop that moves slightly more or fewer bytes than the rule counts in proportion. All tensors of a
workload are taken as one: the limit knows nothing of many small tensors, whose cost is overhead.
Where the data stay in a cache, the limit is that cache's bandwidth.

``KERNELS`` is the list of loops; a faster one needs nothing but an entry there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from optimlab import optimizers
from optimlab.bench.implementations import OPTIMLAB
from optimlab.bench.rules import Rule


@dataclass(frozen=True)
class Traffic:
    """How many numbers are read and written for each element of a parameter."""

    reads: int
    writes: int

    def bytes(self, elements: int = 1, itemsize: int = 4) -> int:
        """Return how many bytes that is for so many elements, by default one float32."""
        return (self.reads + self.writes) * elements * itemsize


def traffic_of(rule: Rule) -> Traffic:
    """Return what a step must move at least: the gradient in, parameter and state in and out.

    Step counts are left out: they are one number for each tensor, not for each element.
    """
    optimizer_class = getattr(OPTIMLAB, rule.class_name)
    optimizer: optimizers.Rule = optimizer_class([torch.zeros(1)], **rule.arguments)
    in_and_out = 1 + len(optimizer.state_spec.names(optimizer.param_groups[0]))
    return Traffic(reads=1 + in_and_out, writes=in_and_out)


@dataclass(frozen=True)
class Loop:
    """A loop over memory that is ready to run, and how many bytes it moves."""

    run: Callable[[], object]
    bytes: int


Kernel = Callable[[Traffic, int, str], Loop]
"""Prepares a loop that moves about what a step with this traffic moves on so many elements.

It works on memory of its own whose pages have been touched, and whatever it computes never leaves
the normal numbers: denormals are slow.
"""


@dataclass(frozen=True)
class Limit:
    """The shortest time in which the bytes of a step can be moved, and the loop that does it."""

    kernel: str
    seconds: float
    bytes: int
    bytes_per_element: int
    bytes_per_second: float


def passes(traffic: Traffic, elements: int, device: str) -> Loop:
    """Prepare one pass for parameter and gradient, and one for each state tensor."""
    grad, param, *state = (_ones(elements, device) for _ in range(traffic.reads))

    def run() -> None:
        param.add_(grad, alpha=1e-10)
        for tensor in state:
            tensor.mul_(1.0)

    return Loop(run, traffic.bytes(elements))


def one_pass(traffic: Traffic, elements: int, device: str) -> Loop:
    """Prepare torch's fused SGD, with momentum unless the traffic is that of plain SGD."""
    with_momentum = traffic.writes > 1
    moved = Traffic(3, 2) if with_momentum else Traffic(2, 1)
    length = max(traffic.bytes(elements) // moved.bytes(), 1)
    param, grad, *buffers = ([_ones(length, device)] for _ in range(moved.reads))
    buffer = buffers[0] if with_momentum else []

    def run() -> None:
        torch._fused_sgd_(
            param,
            grad,
            buffer,
            weight_decay=0.0,
            momentum=float(with_momentum),
            lr=1e-10,
            dampening=1.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )

    return Loop(run, moved.bytes(length))


KERNELS: dict[str, Kernel] = {"passes": passes, "one pass": one_pass}


def prepare(traffic: Traffic, elements: int, device: str) -> dict[str, Loop]:
    """Prepare all loops, by name."""
    return {name: kernel(traffic, elements, device) for name, kernel in KERNELS.items()}


def fastest(
    loops: Mapping[str, Loop], seconds: Mapping[str, float], traffic: Traffic, elements: int
) -> Limit:
    """Choose the loop that would move the bytes of a step in the shortest time."""
    needed = traffic.bytes(elements)
    times = {name: seconds[name] * needed / loop.bytes for name, loop in loops.items()}
    name = min(times, key=times.__getitem__)
    return Limit(name, times[name], needed, traffic.bytes(), needed / times[name])


def _ones(length: int, device: str) -> Tensor:
    return torch.ones(length, device=device)  # not zeros: those pages would not be there yet
