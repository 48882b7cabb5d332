"""Whatever runs between two instructions of a step, it ends as with torch.

A signal handler runs between any two bytecodes of Python's, and so may another thread. Each test
here lets something happen at such boundaries of a step that is repeated from the cache, at one in
each step.
"""

import gc
import os
import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

import optimlab
from optimlab.lab.parity import compare_tensors
from optimlab.native.self_check import capabilities

pytestmark = pytest.mark.skipif(capabilities().kernel is None, reason=capabilities().reason)

APART = int(os.environ.get("OPTIMLAB_BOUNDARIES_APART", "12"))
"""How far the boundaries are apart that are tried; 1 for all of them."""

OPTIMIZERS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}}


class Run:
    """One library's optimizer over two groups and two dtypes."""

    def __init__(self, library: Any, name: str) -> None:
        generator = torch.Generator().manual_seed(4)
        self.params = [
            torch.randn(size, generator=generator, dtype=dtype).requires_grad_()
            for dtype in (torch.float32, torch.float64)
            for size in (40, 3)
        ]
        groups = [{"params": self.params[1:]}, {"params": self.params[:1], "lr": 0.5}]
        self.optimizer: Any = getattr(library, name)(groups, lr=0.1, **OPTIMIZERS[name])
        self.gradients = torch.Generator().manual_seed(6)
        self.held: list[Tensor] = []

    def take_gradients(self) -> None:
        for param in self.params:
            gradient = torch.randn(param.shape, generator=self.gradients, dtype=param.dtype)
            param.grad = gradient

    def hold_some_state(self) -> None:
        state = self.optimizer.state
        self.held = [value for p in self.params for value in state[p].values() if value.dim()]

    def tensors(self) -> list[Tensor]:
        state = self.optimizer.state
        return [*self.params, *(value for p in self.params for value in state[p].values())]


def compare(ours: Run, theirs: Run, boundary: int) -> None:
    for mine, other in zip(ours.tensors(), theirs.tensors(), strict=True):
        assert compare_tensors(mine, other) is None, boundary


def nothing(run: Run) -> None:
    """Let the step be."""


def move_parameters(run: Run) -> None:
    for param in run.params:
        param.data = param.data.clone()


def move_state(run: Run) -> None:
    for held in list(run.optimizer.state.values()):
        for value in held.values():
            value.data = value.data.clone()


def move_held_state_and_let_go(run: Run) -> None:
    while run.held:
        value = run.held.pop()
        value.data = value.data.clone()


def share_memory(run: Run) -> None:
    for tensor in (*run.params, *run.held):
        tensor.share_memory_()
    run.held.clear()


def renew_gradients(run: Run) -> None:
    for param in run.params:
        assert param.grad is not None
        param.grad = param.grad.clone()
    gc.collect(0)


ACTIONS = [
    move_parameters,
    move_state,
    move_held_state_and_let_go,
    share_memory,
    renew_gradients,
]


def in_a_thread(action: Callable[[Run], None]) -> Callable[[Run], None]:
    """Have another thread do it."""

    def wrapped(run: Run) -> None:
        thread = threading.Thread(target=action, args=(run,))
        thread.start()
        thread.join()

    return wrapped


def step_with(run: Run, boundary: int, action: Callable[[Run], None]) -> int:
    """Make a step in which something happens at a boundary; return how many were passed before."""
    passed = 0

    def at_each_opcode(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            if passed == boundary:
                sys.settrace(None)
                action(run)
                return None
            passed += 1
        return at_each_opcode

    before = sys.gettrace()
    sys.settrace(at_each_opcode)
    try:
        run.optimizer.step()
    finally:
        sys.settrace(before)
    return passed


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("owned", [False, True], ids=["held", "owned"])
@pytest.mark.parametrize("action", ACTIONS)
def test_what_happens_at_a_boundary_of_a_step_is_noticed(
    name: str, owned: bool, action: Callable[[Run], None]
) -> None:
    ours, theirs = Run(optimlab, name), Run(torch.optim, name)
    choose = random.Random(f"{name} {action.__name__}")

    def prepare() -> None:
        for run in (ours, theirs):
            for _ in range(4):
                run.take_gradients()
                run.optimizer.step()
            if not owned:
                run.hold_some_state()
            run.take_gradients()
        cached = ours.optimizer._cached_step
        assert cached.ownership.holds or not owned

    prepare()
    boundaries = step_with(ours, -1, nothing)
    theirs.optimizer.step()
    assert 150 < boundaries < 2000
    boundary = 0
    while boundary < boundaries:
        prepare()
        step_with(ours, boundary, choose.choice((action, in_a_thread(action))))
        theirs.optimizer.step()
        action(theirs)
        compare(ours, theirs, boundary)
        boundary += choose.randrange(1, max(2 * APART, 2))
