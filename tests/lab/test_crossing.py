"""A run begun with one library and continued with the other ends in the bits of a run of torch's.

Every pair of options, with each implementation, through the bytes of a checkpoint that is loaded as
one that nobody trusts.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import (
    NAMES,
    STATEFUL,
    TENSORS,
    Options,
    Pair,
    Side,
    assert_equal,
    one_thread,  # noqa: F401 - applies to every test here
)
from covering import covering
from graphs_on_cpu import let_graphs_be_captured_on_cpu
from test_parity import in_grid

from optimlab.lab.compare.diff import Diff
from optimlab.lab.parity.cases import Case, cases
from optimlab.lab.parity.table import IMPLEMENTATIONS

BEFORE, AFTER = 4, 4


def accepted(case: Case) -> bool:
    """Tell whether torch takes a case's options: Nesterov's momentum, for one, needs momentum."""
    try:
        case.row.theirs([torch.ones(1)], **case.options)
    except ValueError:
        return False
    return True


def chosen(device: str) -> list[Case]:
    """Return, with each implementation, pairs of all options in what torch takes."""
    grid = (case for case in cases("tests", device=device) if in_grid(case))
    return covering(case for case in grid if case.dtype == "float32" and accepted(case))


ON_CPU = chosen("cpu")
ON_CUDA: list[Any] = [pytest.param(None, id="all of the table")]
if torch.cuda.is_available():
    ON_CUDA = chosen("cuda")


def begin(name: str, options: Options, device: str = "cpu") -> Pair:
    """Make both libraries' optimizers over equal parameters."""
    pair = Pair(name, TENSORS, device, **options)
    if options.get("differentiable"):
        # As constants they may be changed in place, while autograd records what is done to them.
        for side in pair.sides:
            side.params[:] = [param.requires_grad_(False) for param in side.params]
    return pair


def train(pair: Pair, steps: int) -> None:
    """Step both without looking."""
    for _ in range(steps):
        pair.set_gradients()
        for side in pair.sides:
            side.optimizer.step()


def cross(pair: Pair, change: Callable[[Options], object] = lambda saved: None) -> None:
    """Save both runs, and go on with each in the other's library."""
    libraries = [side.library for side in pair.sides]
    for side, library in zip(pair.sides, reversed(libraries), strict=True):
        file = io.BytesIO()
        values = [param.detach() for param in side.params]
        saved = side.optimizer.state_dict()
        change(saved)
        torch.save({"parameters": values, "optimizer": saved}, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        side.library = library
        side.params = [
            torch.nn.Parameter(value, requires_grad=param.requires_grad)
            for value, param in zip(loaded["parameters"], side.params, strict=True)
        ]
        side.optimizer = pair.new(side)
        side.optimizer.load_state_dict(loaded["optimizer"])


def ending(side: Side) -> Options:
    """Return parameters, state and hyperparameters, whose order loading changes, torch's too."""
    seen = side.seen()
    groups = [dict(sorted(group.items())) for group in seen["param_groups"]]
    return {"groups": groups, "state": seen["state"], "parameters": seen["parameters"]}


def check(case: Case) -> None:
    options = {**IMPLEMENTATIONS[case.implementation], **case.options}
    crossed, uninterrupted = (begin(case.row.name, options, case.scenario.device) for _ in range(2))
    train(crossed, BEFORE)
    cross(crossed)
    train(crossed, AFTER)
    train(uninterrupted, BEFORE + AFTER)
    for side in crossed.sides:
        assert_equal(ending(side), ending(uninterrupted.theirs))


@pytest.mark.parametrize("case", ON_CPU, ids=str)
def test_a_run_that_changes_its_library_ends_in_the_bits_of_torchs_run_on_the_cpu(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_graphs_be_captured_on_cpu(monkeypatch)
    check(case)


@pytest.mark.cuda
@pytest.mark.parametrize("case", ON_CUDA, ids=str)
def test_a_run_that_changes_its_library_ends_in_the_bits_of_torchs_run_on_cuda(case: Case) -> None:
    check(case)


# Nothing could get lost on the way without being noticed.


def state_of(name: str) -> list[str]:
    """Return the names of all the state that an optimizer can have."""
    param = torch.ones(1, requires_grad=True)
    param.grad = torch.ones(1)
    optimizer = getattr(torch.optim, name)([param], **STATEFUL[name])
    optimizer.step()
    return list(optimizer.state[param])


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in NAMES for key in state_of(name)])
def test_state_that_is_lost_on_the_way_makes_another_end(name: str, key: str) -> None:
    def lose(saved: Options) -> None:
        for held in saved["state"].values():
            held[key] = torch.zeros_like(held[key])

    crossed, uninterrupted = begin(name, STATEFUL[name]), begin(name, STATEFUL[name])
    train(crossed, BEFORE)
    cross(crossed, lose)
    train(crossed, AFTER)
    train(uninterrupted, BEFORE + AFTER)
    assert_equal(*map(ending, crossed.sides))  # both lost the same
    for side in crossed.sides:
        assert Diff().differences(ending(side), ending(uninterrupted.theirs))
