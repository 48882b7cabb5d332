"""Adam and AdamW: their numbers by hand, their arguments, state and errors."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import pytest
import torch
from actions import LIBRARIES, in_group, same_outcome
from beside import SMALL, STATEFUL, Options, Pair, raised
from constructing import ACCEPTED, INVALID, NAN, same_errors, same_once_constructed
from one_thread import one_thread  # noqa: F401 - applies to every test here

import optimlab
from optimlab.lab.lockstep.clone import clone

adams = pytest.mark.parametrize("name", ["Adam", "AdamW"])

# By hand. The weight is 1, its gradients 8 and 0; lr = 1/2, betas = (1/2, 3/4), eps = 0.
#   step 1: m = 4, v = 16; corrected 8 and 64: the step is lr.
#   step 2: m = 2, v = 12; corrected by 1 - 1/4 and 1 - 9/16.
SECOND = 0.5 * (2 / 0.75) / sqrt(12 / 0.4375)
BY_HAND: dict[str, tuple[str, Options, Sequence[float]]] = {
    "plain": ("Adam", {}, (0.5, 0.5 - SECOND)),
    "maximize": ("Adam", {"maximize": True}, (1.5, 1.5 + SECOND)),
    # The largest v so far is the first one.
    "amsgrad": ("Adam", {"amsgrad": True}, (0.5, 0.5 - 0.5 * (2 / 0.75) / sqrt(16 / 0.4375))),
    # Added to the corrected root.
    "eps": ("Adam", {"eps": 8}, (0.75, 0.75 - 0.5 * (2 / 0.75) / (sqrt(12 / 0.4375) + 8))),
    # A part of the gradient: 8 + 1/2, then 0 + 1/4.
    "L2 penalty": (
        "Adam",
        {"weight_decay": 0.5},
        (0.5, 0.5 - 0.5 * (2.25 / 0.75) / sqrt(13.5625 / 0.4375)),
    ),
    # The weight itself shrinks by 1 - 1/2 * 1/2, before each step.
    "decoupled": (
        "Adam",
        {"weight_decay": 0.5, "decoupled_weight_decay": True},
        (0.25, 0.25 * 0.75 - SECOND),
    ),
    "AdamW": ("AdamW", {"weight_decay": 0.5}, (0.25, 0.25 * 0.75 - SECOND)),
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("case", BY_HAND)
def test_two_steps_are_what_they_are_by_hand(case: str, foreach: bool) -> None:
    name, options, expected = BY_HAND[case]
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    usual: Options = {"lr": 0.5, "betas": (0.5, 0.75), "eps": 0.0, "foreach": foreach}
    optimizer = getattr(optimlab, name)([weight], **{**usual, **options})
    for gradient, there in zip((8.0, 0.0), expected, strict=True):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert weight.item() == pytest.approx(there, rel=1e-14)
    held = optimizer.state[weight]
    assert list(held) == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"][: len(held)]
    assert len(held) == 3 + ("amsgrad" in options)
    assert held["step"].item() == 2


@adams
def test_the_first_step_is_lr_in_size_whatever_the_gradient(name: str) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    optimizer = getattr(optimlab, name)([weights], lr=0.25, eps=0, weight_decay=0)
    weights.grad = torch.tensor([1e4, -1e-4, 3.0])
    optimizer.step()
    assert weights.tolist() == pytest.approx([0.75, 2.25, 2.75])


# Arguments.

ALSO_ACCEPTED: tuple[Options, ...] = (
    {"betas": [0.5, 0.75]},
    {"betas": (torch.tensor(0.5), torch.tensor([[0.75]]))},
    {"lr": torch.tensor(0.1), "foreach": True, "capturable": True},
    {"fused": True},
)
INVALID_BETAS: tuple[Any, ...] = (
    *((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN), (0, 0), (0.9, 0), (0.9,), 0.9, None),
    (0.9, torch.tensor(0.9)),
    (torch.tensor(0.9), 0.9),
    (torch.tensor(0.9), torch.tensor(1.5)),
    (torch.tensor(0.9), torch.tensor(0.9)),
    (torch.tensor([0.9, 0.9]), torch.tensor(0.9)),
    (torch.tensor(0.9), torch.tensor([])),
)
INVALID_FOR_ADAM = {
    **INVALID,
    "betas": INVALID_BETAS,
    "eps": (-1e-9, NAN, "1"),
    "capturable": (True,),
    "fused": (True,),
    "decoupled_weight_decay": (True,),
}


@adams
@pytest.mark.parametrize("options", [*ACCEPTED, *ALSO_ACCEPTED], ids=str)
def test_defaults_groups_and_repr_are_torchs(name: str, options: Options) -> None:
    same_once_constructed(name, options)


@adams
@pytest.mark.parametrize("params", [False, True])
def test_invalid_hyperparameters_are_refused_as_in_torch(name: str, params: bool) -> None:
    errors = same_errors(name, INVALID_FOR_ADAM, params=params)
    assert len(errors) > 10
    if params:
        assert (RuntimeError, "`fused` does not support `differentiable`") in errors
        assert (RuntimeError, "`fused` and `foreach` cannot be `True` together.") in errors
        assert None in errors  # some of them go together
    else:  # hyperparameters come first
        assert (TypeError, "'NoneType' object is not iterable") in errors


@adams
def test_tensor_betas_without_dimensions_stay_the_very_objects(name: str) -> None:
    for library in LIBRARIES:
        betas = [torch.tensor(0.5), torch.tensor([0.75])]
        optimizer = getattr(library, name)([torch.ones(2)], betas=betas)
        kept = optimizer.param_groups[0]["betas"]
        assert type(kept) is tuple
        assert kept[0] is betas[0]
        assert [beta.dim() for beta in kept] == [0, 0]
        assert kept[1].data_ptr() == betas[1].data_ptr()


# State.


@adams
@pytest.mark.parametrize("other", ["Adam", "AdamW"])
def test_adam_and_adamw_read_each_others_checkpoints(name: str, other: str) -> None:
    source, pair = Pair(other, **STATEFUL[other]), Pair(name)
    source.step(3)
    for side, from_side in zip(pair.sides, source.sides, strict=True):
        side.optimizer.load_state_dict(clone(from_side.optimizer.state_dict()))
    pair.compare()
    decoupled = [group["decoupled_weight_decay"] for group in pair.ours.optimizer.param_groups]
    assert decoupled == [name == "AdamW" or other == "AdamW"] * 2
    pair.step(2)


# What autograd gets.


def test_an_optimizer_that_is_differentiable_with_a_group_that_is_not_fails_as_torchs() -> None:
    errors = []
    for library in LIBRARIES:
        param = torch.ones(3, requires_grad=True) * 2
        optimizer: Any = library.Adam([param], differentiable=True, amsgrad=True)
        optimizer.param_groups[0]["differentiable"] = False
        param.grad = torch.ones(3, requires_grad=True)
        errors.append(raised(optimizer.step))
    assert errors[0] == errors[1]
    assert errors[0] is not None
    assert "out=" in errors[0][1]


@adams
@pytest.mark.parametrize("way", [{}, {"fused": True}], ids=str)
@pytest.mark.parametrize("of_state", [False, True])
def test_a_step_count_cannot_be_differentiated_through(
    name: str, of_state: bool, way: Options
) -> None:
    pair = Pair(name, SMALL, **way)
    pair.step(2)
    pair.set_gradients()
    for side in pair.sides:
        in_group(differentiable=True)(side)
        if of_state:
            side.optimizer.state[side.params[-1]]["step"].requires_grad_()
    assert same_outcome(pair) is (not of_state and not way)


@adams
def test_fused_and_differentiable_is_refused_only_where_there_is_something_to_step(
    name: str,
) -> None:
    pair = Pair(name, SMALL, fused=True)
    pair.set_gradients()
    for side in pair.sides:
        in_group(differentiable=True)(side)
        for param in side.params[2:]:
            param.grad = None
    assert same_outcome(pair)
    pair.set_gradients()
    assert not same_outcome(pair)
