"""optimlab's optimizer and torch's over equal parameters, for tests of what may happen to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from os import environ
from typing import Any

import pytest
import torch
from beside import unnoticed
from torch import Tensor

import optimlab
from optimlab.lab.parity import compare_tensors
from optimlab.native.self_check import capabilities

FOUND = capabilities()
needs_kernel = pytest.mark.skipif(FOUND.kernel is None, reason=FOUND.reason)

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"maximize": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
names = pytest.mark.parametrize("name", RULES)
SIZES = ((), (0,), (7,), (33,), (5, 3), (513,), (16385,))


def starts(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make values of many shapes, the last three of them with strides of their own, or square."""
    generator = torch.Generator().manual_seed(11)
    made = [normal(size, dtype, generator) for size in (*SIZES, (2, 3, 4, 5), (6, 4), (4, 4))]
    made[-3] = made[-3].to(memory_format=torch.channels_last)
    made[-2] = made[-2].t()
    return made


def normal(size: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Make normally distributed numbers of some order of magnitude."""
    values = torch.randn(tuple(size), generator=generator, dtype=torch.float64)
    return (values * 10.0 ** torch.randint(-3, 2, (), generator=generator)).to(dtype)


class Run:
    """One library's optimizer over parameters of its own, which start from given values."""

    def __init__(self, library: Any, name: str, values: Sequence[Tensor], options: Any) -> None:
        self.params = [value.clone().requires_grad_() for value in values]
        self.optimizer: Any = getattr(library, name)(self.params, **options)
        self.generator = torch.Generator().manual_seed(6)
        self.held: list[Any] = []
        """Whatever a test takes hold of."""

    def take_gradients(self) -> None:
        """Give every parameter a new gradient, with its strides."""
        for param in self.params:
            gradient = torch.empty_like(param, requires_grad=False)
            param.grad = gradient.copy_(normal(param.shape, param.dtype, self.generator))

    def step(self, times: int = 1) -> None:
        """Step with new gradients."""
        for _ in range(times):
            self.take_gradients()
            self.optimizer.step()

    @property
    def group(self) -> dict[str, Any]:
        """The first parameter group."""
        group: dict[str, Any] = self.optimizer.param_groups[0]
        return group

    def state(self, place: int) -> dict[str, Any]:
        """Return the state of a parameter, as a user gets hold of it."""
        held: dict[str, Any] = self.optimizer.state[self.params[place]]
        return held

    @property
    def is_cached(self) -> bool:
        """Whether the last step left something for the next: the kernel served every tensor."""
        return "_cached_step" in vars(self.optimizer)

    @property
    def is_owned(self) -> bool:
        """Whether the optimizer owns its state."""
        return bool(self.optimizer._cached_step.ownership.holds)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield parameters and state by name, without the optimizer's noticing."""
        with unnoticed(self.optimizer):
            state = dict(self.optimizer.state)
        for param in self.params:
            yield "param", param.detach().resolve_neg()
            yield from state.get(param, {}).items()


class Twins:
    """optimlab's and torch's run, with the options of :data:`RULES` and others."""

    def __init__(self, name: str, values: Sequence[Tensor] | None = None, **options: Any) -> None:
        values, options = starts() if values is None else values, {**RULES[name], **options}
        self.ours, self.theirs = (
            Run(library, name, values, options) for library in (optimlab, torch.optim)
        )

    def both(self, action: Callable[[Run], object]) -> None:
        """Do the same to both."""
        action(self.ours)
        action(self.theirs)

    def step(self, times: int = 1, *, fresh: bool = True) -> None:
        """Step both, with fresh gradients or those that are there; compare after each step."""
        for _ in range(times):
            self.both(Run.step if fresh else lambda run: run.optimizer.step())
            self.compare()

    def compare(self) -> None:
        """Compare parameters and state."""
        for (name, mine), (other, theirs) in zip(
            self.ours.tensors(), self.theirs.tensors(), strict=True
        ):
            assert name == other
            assert compare_tensors(mine, theirs) is None, name


def both_end_alike(program: Callable[[Any], Sequence[Tensor]]) -> None:
    """Run a program with each library, and compare what it returns."""
    ends = []
    for library in (optimlab, torch.optim):
        torch.manual_seed(5)
        ends.append(program(library))
    assert ends[0]
    for mine, other in zip(*ends, strict=True):
        assert compare_tensors(mine.detach(), other.detach()) is None


def printed(program: str, *arguments: str, **environment: str) -> str:
    """Run a program in a process of its own, which must succeed, and return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={**environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return ran.stdout
