"""The resume prover: a run that saves everything is proved, what another leaves out is named.

The verdict needs a new process, which takes seconds to start. Where it is the experiments that are
tested, the same work is done in this process.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from resumable_runs import (
    Idle,
    Miswired,
    Nameless,
    Naming,
    Training,
    Unequal,
    Unloadable,
    Unrepeatable,
    Unseeded,
    Watched,
)
from torch import nn

import optimlab
from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.compare.digest import digest
from optimlab.lab.resume import Resumption, proof
from optimlab.lab.resume.run import digests, maker

STEPS, AT = 9, 4


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does the work of the new process here, from generators that are seeded differently."""

    def work(make_run: Any, folder: Path) -> dict[str, Any]:
        torch.manual_seed(99)
        random.seed(99)
        return proof._resumed(maker(make_run), folder)

    monkeypatch.setattr(proof, "_in_a_new_process", work)


def test_a_run_that_saves_everything_is_proved_in_a_new_process() -> None:
    proved = optimlab.prove_resume("resumable_runs:Watched", STEPS, AT)
    assert proved.equal, proved
    assert (proved.steps, proved.at, proved.names) == (STEPS, AT, 6)
    assert proved.compared == (31 + 1 + 2 * 31 + 4) * (STEPS - AT + 1)
    assert str(proved).startswith("proved: 4 steps, saved, loaded in a new process, 5 steps")


def test_a_new_process_does_not_have_the_generators_that_were_not_saved() -> None:
    found = optimlab.prove_resume(partial(Training, "random"), STEPS, AT)
    assert_found(found, "random numbers", "torch's CPU generator", step=AT + 1)


CAUSES = {
    "random": ("random numbers", "torch's CPU generator", AT + 1),
    "scheduler": ("scheduler", "run.scheduler (StepLR)", AT + 2),
    "optimizer": ("optimizer state", "run.optimizer (Adam)", AT),
    "order": ("data order or progress", "run.order (Order)", AT + 1),
}


def assert_found(found: Resumption, kind: str, where: str, step: int) -> None:
    assert not found.equal
    assert found.offender is not None
    assert found.offender.step == step
    assert [(cause.kind, cause.where) for cause in found.causes] == [(kind, where)]
    assert f"not restored: {kind}: {where}" in str(found)


@pytest.mark.parametrize("left_out", CAUSES)
@pytest.mark.usefixtures("in_this_process")
def test_what_is_not_restored_is_named(left_out: str) -> None:
    kind, where, step = CAUSES[left_out]
    found = optimlab.prove_resume(partial(Training, left_out), STEPS, AT)
    assert_found(found, kind, where, step)


WHAT = {
    "lr": "lr 0.1 instead of 0.05 (param_groups[0])",
    "step": "step 5.0 instead of 4.0 (state[0])",
    "rounded": "exp_avg came back rounded to torch.float16 (state[0])",
    "state": "state has 0 entries instead of 4",
}


@pytest.mark.parametrize("change", WHAT)
@pytest.mark.usefixtures("in_this_process")
def test_what_is_not_restored_is_told_by_key_and_value(change: str) -> None:
    found = optimlab.prove_resume(partial(Unequal, change), STEPS, AT)
    assert [cause.what for cause in found.causes] == [WHAT[change]]
    assert f"not restored: optimizer state: run.optimizer (Adam): {WHAT[change]}" in str(found)


@pytest.mark.usefixtures("in_this_process")
def test_a_schedule_of_another_optimizer_is_found_out() -> None:
    found = optimlab.prove_resume(Miswired, STEPS, AT)
    assert [cause.where for cause in found.causes] == ["run.scheduler.after (StepLR)"]
    assert "drives another optimizer" in str(found)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("value", [np.arange(5000.0), np.float32(0.5), {"a": [np.ones(2)]}])
def test_arrays_modules_and_optimizers_are_compared_whole(value: Any) -> None:
    assert optimlab.prove_resume(partial(Naming, value), STEPS, AT).equal


def test_an_array_is_told_from_one_that_differs_where_its_text_does_not() -> None:
    one = np.arange(5000.0)
    other = one.copy()
    other[2500] += 1
    assert repr(one) == repr(other)
    assert digests(Naming(one))["value"] != digests(Naming(other))["value"]


@pytest.mark.parametrize("value", [object(), np.array(["a"]), [random.Random()]])
def test_what_cannot_be_compared_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"tensors\(\) names value, a (object|ndarray|Random)"):
        digests(Naming(value))


@pytest.mark.usefixtures("in_this_process")
def test_several_parts_that_are_not_restored_are_named_together() -> None:
    found = optimlab.prove_resume(partial(Training, "random", "order", "scheduler"), STEPS, AT)
    assert found.together
    assert {cause.kind for cause in found.causes} == {
        "random numbers",
        "data order or progress",
        "scheduler",
    }
    assert "all of them have to be restored" in str(found)


@pytest.mark.usefixtures("in_this_process")
def test_state_that_is_saved_in_half_precision_is_a_loss_of_bits() -> None:
    found = optimlab.prove_resume(partial(Watched, lossy=True), STEPS, AT)
    assert found.offender is not None
    assert (found.offender.step, found.offender.name) == (AT, "state")
    assert "ulp" in found.offender.what
    assert [loss.where for loss in found.losses] == [f"state.{i}.exp_avg" for i in range(4)]
    assert {loss.what for loss in found.losses} == {"came back rounded to torch.bfloat16"}
    assert [cause.kind for cause in found.causes] == ["optimizer state"]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("make", [Training, Unseeded])
def test_a_run_that_saves_everything_is_proved_whatever_the_generators_are(make: Any) -> None:
    assert optimlab.prove_resume(make, STEPS, AT).equal


def test_a_run_that_never_repeats_is_told_from_one_that_cannot_be_resumed() -> None:
    found = optimlab.prove_resume(Unrepeatable, STEPS, AT)
    assert not found.equal
    assert not found.repeatable
    assert "before anything is saved" in str(found)


@pytest.mark.usefixtures("in_this_process")
def test_one_bit_that_loading_changes_is_found() -> None:
    found = optimlab.prove_resume(OneBit, STEPS, AT)
    assert found.offender is not None
    assert (found.offender.step, found.offender.name) == (AT, "2.bias")
    assert "1 ulp apart" in found.offender.what


class OneBit(Training):
    """Turns over the lowest bit of one parameter on loading."""

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        super().load_state_dict(saved)
        self.model[2].bias.detach().view(torch.int32).bitwise_xor_(1)  # type: ignore[operator]


def test_the_callers_random_numbers_stay_as_they_are() -> None:
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(NothingCompared):
        optimlab.prove_resume(Nameless, STEPS, AT)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize(("run", "complaint"), [(Idle, "no step"), (Nameless, "names nothing")])
def test_a_proof_that_could_not_fail_is_refused(run: Any, complaint: str) -> None:
    with pytest.raises(NothingCompared, match=complaint):
        optimlab.prove_resume(run, STEPS, AT)


def test_a_run_that_cannot_be_loaded_is_an_error_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="no such entry"):
        optimlab.prove_resume(Unloadable, STEPS, AT)


@pytest.mark.parametrize("at", [0, STEPS, -1])
def test_there_have_to_be_steps_on_both_sides_of_the_interruption(at: int) -> None:
    with pytest.raises(ValueError, match="between 1 and steps - 1"):
        optimlab.prove_resume(Training, STEPS, at)


def test_a_function_that_no_other_process_can_import_is_refused() -> None:
    make: Callable[[], Training] = lambda: Training()  # noqa: E731, PLW0108 - that is the case
    with pytest.raises(TypeError, match="at the top of a module"):
        optimlab.prove_resume(make, STEPS, AT)


# The digest that stands for all bits.

ONE = torch.tensor([1.0, -2.0, 0.0])
OTHERS: dict[str, Any] = {
    "one ulp": torch.tensor([1.0 + 2.0**-23, -2.0, 0.0]),
    "the sign of a zero": torch.tensor([1.0, -2.0, -0.0]),
    "dtype": ONE.double(),
    "shape": ONE.view(1, 3),
    "order": ONE.flip(0),
    "bits under another dtype": ONE.view(torch.int32),
    "NaN": torch.tensor([1.0, -2.0, float("nan")]),
    "a list": [1.0, -2.0, 0.0],
    "a name": {"value": ONE},
    "nothing": None,
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_digest_of_other_bits_is_another_one(other: str) -> None:
    assert digest(OTHERS[other]) != digest(ONE)
    assert digest([ONE, OTHERS[other]]) != digest([OTHERS[other], ONE])


NANS = torch.tensor([0x7FC00000, -1], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ONE, ONE.clone()),
        (ONE, torch.stack([ONE, ONE], dim=1)[:, 0]),
        (ONE, nn.Parameter(ONE)),
        (NANS[0], NANS[1]),
        (float("nan"), float("nan")),
        (torch.complex(ONE, ONE), torch.complex(ONE, ONE).clone()),
        (ONE.to_sparse(), ONE),
        (torch.ones(0), torch.ones(0)),
        ({"a": [ONE, 1, "x"]}, {"a": [ONE.clone(), 1, "x"]}),
    ],
)
def test_the_digest_of_the_same_bits_is_the_same(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)
