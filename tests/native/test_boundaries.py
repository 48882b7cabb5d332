"""Whatever runs between two instructions of a step, it ends as with torch.

A signal handler runs between any two bytecodes of Python's, and so may another thread. Each test
here lets something happen at such boundaries of a step that is replayed, at one in each step.
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
from twins import Run, Twins, needs_kernel

pytestmark = needs_kernel

APART = int(os.environ.get("OPTIMLAB_BOUNDARIES_APART", "12"))
"""How far the boundaries are apart that are tried; 1 for all of them."""

Action = Callable[[Run], object]


def hold_some_state(run: Run) -> None:
    held = [run.state(place) for place in range(len(run.params))]
    run.held = [value for each in held for value in each.values() if value.dim()]


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


ACTIONS = (move_parameters, move_state, move_held_state_and_let_go, share_memory, renew_gradients)


def in_a_thread(action: Action) -> Action:
    """Have another thread do it."""

    def wrapped(run: Run) -> None:
        thread = threading.Thread(target=action, args=(run,))
        thread.start()
        thread.join()

    return wrapped


def step_with(run: Run, boundary: int, action: Action) -> int:
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


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("owned", [False, True], ids=["held", "owned"])
@pytest.mark.parametrize("action", ACTIONS)
def test_what_happens_at_a_boundary_of_a_step_is_noticed(
    name: str, owned: bool, action: Action
) -> None:
    kinds = [(size, dtype) for dtype in (torch.float32, torch.float64) for size in (40, 3)]
    values = [torch.linspace(-1, 2, size, dtype=dtype) for size, dtype in kinds]
    twins = Twins(name, values[1:], lr=0.1)
    choose = random.Random(f"{name} {action.__name__}")

    def add_a_group(run: Run) -> None:
        run.params.append(values[0].clone().requires_grad_())
        run.optimizer.add_param_group({"params": run.params[-1], "lr": 0.5})

    def prepare(run: Run) -> None:
        run.step(4)
        if not owned:
            hold_some_state(run)
        run.take_gradients()

    twins.both(add_a_group)
    twins.both(prepare)
    assert twins.ours.is_owned or not owned
    boundaries = step_with(twins.ours, -1, lambda run: None)
    twins.theirs.optimizer.step()
    assert 150 < boundaries < 2000
    boundary = 0
    while boundary < boundaries:
        twins.both(prepare)
        assert twins.ours.is_cached
        step_with(twins.ours, boundary, choose.choice((action, in_a_thread(action))))
        twins.theirs.optimizer.step()
        action(twins.theirs)
        twins.compare()
        boundary += choose.randrange(1, max(2 * APART, 2))
