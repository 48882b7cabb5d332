"""Random programs of steps, changes, checkpoints and faults end in torch's bits and errors.

Some hundred of them by default; OPTIMLAB_RANDOM_PROGRAMS=5000 runs five thousand. The number of a
program is all it takes to run it again:

    OPTIMLAB_RANDOM_PROGRAMS=5000 python -m pytest tests/programs -k "[4711]"
"""

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import pytest
import torch
from random_programs import ACTIONS, Diverged, Tally, play, shortest
from torch import Tensor

import optimlab.rule
from optimlab.core import checkpoint
from optimlab.lab.compare.diff import NothingCompared

PROGRAMS = int(os.environ.get("OPTIMLAB_RANDOM_PROGRAMS", "400"))
SAMPLE = 60  # that together contain everything


@lru_cache(maxsize=SAMPLE)
def played(number: int) -> Tally:
    return play(number)


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_a_random_program_ends_in_equal_bits_and_equal_errors(number: int) -> None:
    try:
        played(number)
    except Diverged:
        pytest.fail(shortest(number), pytrace=False)


def test_a_program_is_the_same_each_time() -> None:
    assert [play(number) for number in range(8)] == [played(number) for number in range(8)]


def test_programs_contain_every_action_many_errors_and_mostly_steps_of_finite_numbers() -> None:
    total = sum((played(number) for number in range(SAMPLE)), start=Tally())
    assert set(total.actions) == set(ACTIONS)
    assert set(total.errors) > {"AssertionError", "KeyError", "RuntimeError", "TypeError"}
    assert total.steps > total.errors.total() > SAMPLE
    assert 0.8 * total.elements < total.finite < total.elements


Sabotage: TypeAlias = Callable[[Any, Exception | None], None]


def sabotaged(monkeypatch: pytest.MonkeyPatch, place: str, sabotage: Sabotage) -> None:
    """Let a part of our optimizers do something else too, after it has succeeded or failed."""
    owner: Any = optimlab.rule if place == "execute" else optimlab.Rule
    function = getattr(owner, place)

    def then_sabotage(optimizer: Any, *args: Any) -> Any:
        try:
            result = function(optimizer, *args)
        except Exception as error:
            sabotage(optimizer, error)
            raise
        sabotage(optimizer, None)
        return result

    monkeypatch.setattr(owner, place, then_sabotage)


def change_a_bit(optimizer: Any, error: Exception | None) -> None:
    last = optimizer.param_groups[-1]["params"][-1]
    if error is None and last.dtype is torch.float32 and len(optimizer.param_groups) > 2:
        last.data = torch.nextafter(last.data, torch.ones(()))


def reorder_state(optimizer: Any, error: Exception | None) -> None:
    for held in optimizer.state.values():
        if isinstance(held, dict) and len(held) > 2:
            held["step"] = held.pop("step")


def write_gradients(optimizer: Any, error: Exception | None) -> None:
    last = optimizer.param_groups[-1]["params"][-1]
    if error is None and last.grad is not None and not last.grad.is_sparse:
        last.grad.zero_()


def change_a_group(optimizer: Any, error: Exception | None) -> None:
    if error is None:
        optimizer.param_groups[-1]["maximize"] = int(optimizer.param_groups[-1]["maximize"])


def leave_something_behind(optimizer: Any, error: Exception | None) -> None:
    if error is not None:
        optimizer.state["left"] = 1


def change_the_message(optimizer: Any, error: Exception | None) -> None:
    if error is not None:
        error.args = (f"{error}!",)


SABOTAGE = (
    pytest.param("execute", change_a_bit, id="one-ulp"),
    pytest.param("execute", reorder_state, id="order-of-state"),
    pytest.param("execute", write_gradients, id="a-written-gradient"),
    pytest.param("_checked_batch", leave_something_behind, id="a-half-applied-step"),
    pytest.param("load_state_dict", change_a_group, id="an-entry-of-a-group"),
    pytest.param("load_state_dict", leave_something_behind, id="a-half-applied-load"),
    pytest.param("add_param_group", change_the_message, id="a-message"),
)


@pytest.mark.parametrize(("place", "sabotage"), SABOTAGE)
def test_programs_notice(place: str, sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotaged(monkeypatch, place, sabotage)
    with pytest.raises(Diverged):
        play_sample()


def test_programs_notice_state_that_is_shared_instead_of_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied_tensor = checkpoint._copied_tensor

    def shared_tensor(value: Tensor, *args: Any) -> Tensor:
        copy = copied_tensor(value, *args)
        return value if copy.dtype is value.dtype else copy

    monkeypatch.setattr(checkpoint, "_copied_tensor", shared_tensor)
    with pytest.raises(NothingCompared, match="both sides hold the same tensor"):
        play_sample()


def test_the_description_of_a_failure_leaves_out_what_it_does_not_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sabotaged(monkeypatch, "load_state_dict", change_a_group)
    number, full = next((n, lines) for n in range(SAMPLE) if len(lines := failure(n)) > 10)
    lines = shortest(number).splitlines()
    assert lines[0].startswith(f"program {number}: ")
    assert "maximize" in lines[-1]
    assert len(lines) < len(full)


def play_sample() -> None:
    for number in range(SAMPLE):
        play(number)


def failure(number: int) -> list[str]:
    try:
        play(number)
    except Diverged as difference:
        return str(difference).splitlines()
    return []
