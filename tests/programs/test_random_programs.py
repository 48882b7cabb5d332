"""Random programs of steps, changes, checkpoints and faults end in torch's bits and errors.

Some hundred of them by default; OPTIMLAB_RANDOM_PROGRAMS=5000 runs five thousand others. A failure
prints a short program to paste. Where the process crashes instead, this shows what led to it:

    OPTIMLAB_RANDOM_PROGRAMS=5000 python -m pytest -s --hypothesis-verbosity=debug \
        tests/programs -k "[17]"
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import pytest
import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RULE_MARKER as RULE
from hypothesis.stateful import run_state_machine_as_test
from random_programs import Diverged, Program
from random_programs.statements import ALONE, CHANGES, DAMAGE, DETOURS, FAULTS
from torch import Tensor

import optimlab.rule
from optimlab.core import checkpoint
from optimlab.lab.compare.diff import NothingCompared

PROGRAMS = os.environ.get("OPTIMLAB_RANDOM_PROGRAMS")
TOGETHER = 50  # programs that one test runs
FIRST = 0 if PROGRAMS is None else 1000
NUMBERS = range(FIRST, FIRST + -(-int(PROGRAMS or 300) // TOGETHER))

SETTINGS = settings(
    max_examples=TOGETHER,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def play(number: int, given: settings = SETTINGS) -> Counter[str]:
    """Run programs, always the same for a number, and return what was done."""

    @seed(number)
    class Seeded(Program):
        tally: ClassVar[Counter[str]] = Counter()

    Seeded.__name__ = "Program"
    run_state_machine_as_test(Seeded, settings=given)
    return Seeded.tally


@pytest.mark.parametrize("number", NUMBERS)
def test_random_programs_end_in_equal_bits_and_equal_errors(number: int) -> None:
    play(number)


def failing_program(kind: type[Exception]) -> list[str]:
    """Return the lines of the short program by which an error shows."""
    few = settings(SETTINGS, stateful_step_count=6, max_examples=200)
    with pytest.raises(kind) as failure:
        sum((play(number, few) for number in range(8)), Counter[str]())
    lines = "\n".join(failure.value.__notes__).splitlines()
    return lines[lines.index("from random_programs import *") :]


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
        last.data = torch.nextafter(last.data, torch.full((), 2.0))


def reorder_state(optimizer: Any, error: Exception | None) -> None:
    for held in optimizer.state.values():
        if isinstance(held, dict) and len(held) > 2:
            held["step"] = held.pop("step", None)


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
def test_programs_notice_and_what_they_print_is_short_and_runs(
    place: str, sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged(monkeypatch, place, sabotage)
    program = failing_program(Diverged)
    assert len([line for line in program if line.startswith("state")]) <= 8, program
    with pytest.raises(Diverged):
        exec("\n".join(program), {})


def test_programs_notice_state_that_is_shared_instead_of_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied_tensor = checkpoint._copied_tensor

    def shared_tensor(value: Tensor, *args: Any) -> Tensor:
        copy = copied_tensor(value, *args)
        return value if copy.dtype is value.dtype else copy

    monkeypatch.setattr(checkpoint, "_copied_tensor", shared_tensor)
    assert any("of theirs" in line for line in failing_program(NothingCompared))


def test_programs_are_the_same_each_time_and_contain_everything() -> None:
    done = play(1)
    assert done == play(1)
    actions = {name for name in vars(Program) if hasattr(getattr(Program, name), RULE)}
    assert actions <= set(done)
    assert set(done) > {"KeyError", "RuntimeError", "TypeError", "ValueError"}
    assert done["steps"] > 300
    assert done["finite"] > 0.8 * done["numbers"] > 1000


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("statement", [*CHANGES, *ALONE, *DETOURS, *DAMAGE, *FAULTS])
def test_whatever_programs_may_do_is_done_alike(name: str, statement: str) -> None:
    program = Program()
    options = {"momentum": 0.9} if name == "SGD" else {"amsgrad": True}
    try:
        program.make((name, options), [(3,), (3,), (4, 3)], groups=2)
        program.step(["contiguous"], 1, 2)
        if statement in FAULTS:
            program.fail_and_go_on(statement, 1, ["contiguous"], 3)
        elif statement in DETOURS:
            program.detour(statement, 1, ["contiguous"], 3)
        elif statement in DAMAGE:
            program.load(statement, 1, ["contiguous"], 3)
        else:
            program.do("kept.append(last)", 1)
            program.do(statement, 1)
        program.step(["contiguous"], 3, 2)
    finally:
        program.teardown()
