"""RMSprop: its numbers by hand, its arguments, state and errors."""

from collections.abc import Sequence
from math import sqrt

import pytest
import torch
from actions import scaled
from beside import Options, Pair
from constructing import ACCEPTED, INVALID, NAN, same_errors, same_once_constructed
from one_thread import one_thread  # noqa: F401 - applies to every test here

import optimlab

# By hand. The weight is 1, its gradients 4 and 2; lr = 1/2, alpha = 3/4, eps = 0.
#   step 1: v = 1/4 * 16; the step is lr * 4 / 2.
#   step 2: v = 3/4 * 4 + 1/4 * 4; the step is lr * 2 / 2.
BY_HAND: dict[str, tuple[Options, Sequence[float]]] = {
    "plain": ({}, (0.0, -0.5)),
    "maximize": ({"maximize": True}, (2.0, 2.5)),
    "eps": ({"eps": 2}, (0.5, 0.25)),
    # The mean of the gradients is 1, then 5/4; its square is taken off.
    "centered": (
        {"centered": True},
        (1 - 0.5 * 4 / sqrt(3), 1 - 0.5 * 4 / sqrt(3) - 0.5 * 2 / sqrt(4 - 1.5625)),
    ),
    # What is accumulated is 2, then 1/2 * 2 + 1.
    "momentum": ({"momentum": 0.5}, (0.0, -1.0)),
    # A part of the gradient: 4 + 1/2 * 1, then 2 + 0.
    "L2 penalty": ({"weight_decay": 0.5}, (0.0, -0.5 * 2 / sqrt(0.75 * 5.0625 + 1))),
}
STATE = {"centered": ["grad_avg"], "momentum": ["momentum_buffer"]}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("case", BY_HAND)
def test_two_steps_are_what_they_are_by_hand(case: str, foreach: bool) -> None:
    options, expected = BY_HAND[case]
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    usual: Options = {"lr": 0.5, "alpha": 0.75, "eps": 0.0, "foreach": foreach}
    optimizer = optimlab.RMSprop([weight], **{**usual, **options})
    for gradient, there in zip((4.0, 2.0), expected, strict=True):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert weight.item() == pytest.approx(there, rel=1e-14, abs=1e-14)
    held = optimizer.state[weight]
    assert list(held) == ["step", "square_avg", *STATE.get(case, [])]
    assert held["step"].item() == 2


INVALID_FOR_RMSPROP = {
    **INVALID,
    "alpha": (-0.1, NAN),
    "eps": (-1e-9, NAN),
    "momentum": (-1.0, NAN),
    "capturable": (True,),
    "fused": (True,),
}


@pytest.mark.parametrize(
    "options", [*ACCEPTED, {"alpha": 2}, {"centered": True, "momentum": 0.9}], ids=str
)
def test_defaults_groups_and_repr_are_torchs(options: Options) -> None:
    same_once_constructed("RMSprop", options)


@pytest.mark.parametrize("params", [False, True])
def test_invalid_hyperparameters_are_refused_as_in_torch(params: bool) -> None:
    assert len(same_errors("RMSprop", INVALID_FOR_RMSPROP, params=params)) > 10


def test_scaling_is_not_known_and_ignored() -> None:
    pair = Pair("RMSprop")
    for side in pair.sides:
        scaled(grad_scale=2.0, found_inf=1.0)(side)
    pair.step(2)
