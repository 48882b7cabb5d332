"""SGD: its numbers by hand, its arguments, state and errors, and sparse gradients."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from actions import LIBRARIES, step
from beside import SMALL, Options, Pair, assert_equal, raised
from constructing import ACCEPTED, INVALID, NAN, same_errors, same_once_constructed
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

import optimlab
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec

# By hand. The weight is 1, its gradients 2 and 4; lr = 1/2.
BY_HAND: dict[str, tuple[Options, Sequence[float]]] = {
    "plain": ({}, (0.0, -2.0)),
    "maximize": ({"maximize": True}, (2.0, 4.0)),
    # The velocity is 2, then 1/2 * 2 + 4.
    "momentum": ({"momentum": 0.5}, (0.0, -2.5)),
    # The first velocity is not dampened; the second is 1/2 * 2 + 3/4 * 4.
    "dampening": ({"momentum": 0.5, "dampening": 0.25}, (0.0, -2.0)),
    # Along the gradient and half the velocity: 2 + 1/2 * 2, then 4 + 1/2 * 5.
    "nesterov": ({"momentum": 0.5, "nesterov": True}, (-0.5, -3.75)),
    # A part of the gradient: 2 + 1/2 * 1, then 4 - 1/2 * 1/4.
    "L2 penalty": ({"weight_decay": 0.5}, (-0.25, -2.1875)),
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("case", BY_HAND)
def test_two_steps_are_what_they_are_by_hand(case: str, foreach: bool) -> None:
    options, expected = BY_HAND[case]
    weight = torch.ones(1, requires_grad=True)
    optimizer = optimlab.SGD([weight], lr=0.5, foreach=foreach, **options)
    for gradient, there in zip((2.0, 4.0), expected, strict=True):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        assert weight.item() == there
    assert list(optimizer.state[weight]) == ["momentum_buffer"] * ("momentum" in options)


# Arguments.

ALSO_ACCEPTED: tuple[Options, ...] = (
    {"lr": NAN},
    {"momentum": NAN},
    {"momentum": 0.9, "dampening": -1.0},
    {"momentum": 0.9, "nesterov": True},
    {"fused": True},
    {"fused": True, "foreach": False},
)
INVALID_FOR_SGD = {
    **INVALID,
    "momentum": (-0.5, NAN, 0.5, "1"),
    "dampening": (0.5, -1.0),
    "nesterov": (True,),
    "fused": (True,),
}


@pytest.mark.parametrize("options", [*ACCEPTED, *ALSO_ACCEPTED], ids=str)
def test_defaults_groups_and_repr_are_torchs(options: Options) -> None:
    same_once_constructed("SGD", options)


@pytest.mark.parametrize("params", [False, True])
def test_invalid_hyperparameters_are_refused_as_in_torch(params: bool) -> None:
    errors = same_errors("SGD", INVALID_FOR_SGD, params=params)
    assert (ValueError, "Nesterov momentum requires a momentum and zero dampening") in errors
    assert len(errors) > 10


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_nesterov_takes_a_momentum_and_no_dampening(dampening: float) -> None:
    both = {"nesterov": (True,), "momentum": (0.5,), "dampening": (dampening,)}
    options = {key: value for key, (value,) in both.items()}
    found = [raised(partial(each.SGD, [torch.ones(2)], **options)) for each in LIBRARIES]
    assert found[0] == found[1]
    assert (found[0] is None) == (dampening == 0)


# State.


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_there_is_state_only_with_momentum_and_never_a_step_count(momentum: float) -> None:
    pair = Pair("SGD", momentum=momentum)
    pair.step(2)
    keys = [list(held) for held in pair.ours.optimizer.state.values()]
    assert keys == ([["momentum_buffer"]] * 4 if momentum else [])


def test_momentum_lies_in_memory_as_its_first_gradient_did() -> None:
    specs = (TensorSpec((4, 3), gradient_layout="transposed"),)
    pair = Pair("SGD", specs, momentum=0.9)
    pair.step(2)
    (held,) = pair.ours.optimizer.state.values()
    assert held["momentum_buffer"].stride() == (1, 4) != pair.ours.params[0].stride()


# Sparse gradients.

ROWS = ([0, 2], [1, 1], [3, 0])


def sparse(rows: list[int], values: Tensor) -> Tensor:
    """Make a sparse gradient, coalesced only if no row comes twice."""
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (4, 3), check_invariants=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("more", [{}, {"foreach": True}, {"maximize": True}, {"dampening": 0.5}])
def test_sparse_gradients_are_taken(dtype: torch.dtype, momentum: float, more: Options) -> None:
    pair = Pair("SGD", (TensorSpec((4, 3), dtype),), momentum=momentum, **more)
    for number, rows in enumerate(ROWS):
        for side in pair.sides:
            values = torch.full((2, 3), number + 0.75, dtype=dtype)
            side.params[0].grad = sparse(rows, values)
        pair.both(step)
    assert all(param.layout is torch.strided for param in pair.ours.params)


@pytest.mark.parametrize("more", [{"weight_decay": 0.1}, {"nesterov": True, "momentum": 0.9}])
@pytest.mark.parametrize("foreach", [False, True])
def test_sparse_gradients_are_treated_as_in_torch_with_every_option(
    more: Options, foreach: bool
) -> None:
    pair = Pair("SGD", (TensorSpec((4, 3)),), foreach=foreach, **more)
    for rows in ROWS:
        outcomes = []
        for side in pair.sides:
            side.params[0].grad = sparse(rows, torch.full((2, 3), 0.75))
            outcomes.append([raised(partial(step, side)), side.params[0].detach()])
        assert_equal(*outcomes)


# Where optimlab decides otherwise: gradients are only read.


def test_foreach_nesterov_gives_torchs_bits_without_overwriting_gradients_as_torch_does() -> None:
    pair = Pair("SGD", SMALL, foreach=True, momentum=0.9, nesterov=True)
    for _ in range(3):
        pair.set_gradients()
        given = clone([param.grad for param in pair.ours.params])
        for side in pair.sides:
            side.optimizer.step()
        assert_equal([param.grad for param in pair.ours.params], given)
        assert_equal(*([param.detach() for param in side.params] for side in pair.sides))


def test_tensors_that_share_a_gradient_look_ahead_each_by_itself() -> None:
    found = []
    for library in LIBRARIES:
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        optimizer: Any = library.SGD(params, lr=1.0, momentum=0.5, nesterov=True, foreach=True)
        params[0].grad = params[1].grad = torch.ones(2)
        optimizer.step()
        found.append([param.tolist() for param in params])
    assert found[0] == [[-0.5, -0.5]] * 2  # 1 - (1 + 0.5)
    assert found[1] != found[0]


@pytest.mark.parametrize(
    ("name", "differentiable"), [("SGD", False), ("SGD", True), ("Adam", True)]
)
def test_a_decay_that_is_learned_does_not_add_up_in_gradients_that_are_used_again(
    name: str, differentiable: bool
) -> None:
    found = []
    for library in LIBRARIES:
        param = torch.ones(3, requires_grad=True)
        param = param * 1 if differentiable else param
        decay = torch.tensor(0.1, requires_grad=True)
        optimizer = getattr(library, name)(
            [param], lr=0.1, weight_decay=decay, differentiable=differentiable
        )
        param.grad = torch.ones(3)
        optimizer.step()
        first = param.detach().clone()
        kept = param.grad.detach().clone()
        if not differentiable:
            optimizer.step()
        found.append((first, param.detach().clone(), kept))
    assert_equal(found[0][0], found[1][0])
    assert found[0][2].tolist() == [1.0] * 3
    assert found[1][2].tolist() == pytest.approx([1.1] * 3)
    assert torch.equal(found[0][1], found[1][1]) == differentiable


def test_a_decay_that_is_learned_takes_gradients_that_are_leaves() -> None:
    errors = []
    for library in LIBRARIES:
        param = torch.ones(3, requires_grad=True) * 1
        decay = torch.tensor(0.1, requires_grad=True)
        optimizer: Any = library.SGD([param], weight_decay=decay, differentiable=True)
        param.grad = torch.ones(3, requires_grad=True)
        errors.append(raised(optimizer.step))
    assert errors[0] is None
    assert errors[1] is not None
    assert "leaf Variable" in errors[1][1]
