"""State: as it is declared, as it is made, and as it should never be."""

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from actions import FOREACH, asked, same_outcome, step, taken
from beside import SMALL, STATEFUL, WAYS, Options, Pair, Side, assert_equal, names, raised, ways
from one_thread import one_thread  # noqa: F401 - applies to every test here

import optimlab
from optimlab.core.state import Count, First, Like, StateSpec
from optimlab.lab.parity import TensorSpec


class Filled(optimlab.Rule):
    """A rule with state of every kind that can be declared."""

    state_spec = StateSpec(
        Count(device=None, read_after="a"),
        Like("a", fill="initial"),
        Like("b", when="extra", fill=2.0),
        Like("c", when=lambda group: group["lr"] > 1),
    )

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, {"lr": 0.5, "initial": 0.25, "extra": False, **options})

    def update(self, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
        for tensor in state.values():
            param.add_(tensor.mul_(2), alpha=-group["lr"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((Like("a"), Count()), "declared first, and once"),
        ((Count(), Count()), "declared first, and once"),
        ((Like("a"), Like("a", when="extra")), "a name of its own"),
        ((Like("step"),), "a name of its own"),
        ((Like("a"), First("b")), "makes all of it"),
        ((Count(), First("b")), "makes all of it"),
    ],
)
def test_a_declaration_that_no_step_could_follow_is_refused(entries: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSpec(*entries)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"step": 1.0, "a": 0.5}),
        ({"extra": True}, {"step": 1.0, "a": 0.5, "b": 4.0}),
        ({"lr": 2.0, "initial": 0}, {"step": 1.0, "a": 0.0, "c": 0.0}),
    ],
)
def test_declared_state_is_made_in_its_order(options: Options, expected: dict[str, float]) -> None:
    param = torch.ones(3, 2, dtype=torch.float64).t().requires_grad_()
    param.grad = torch.ones_like(param)
    optimizer = Filled([param], **options)
    optimizer.step()
    held = optimizer.state[param]
    assert list(held) == list(expected)
    assert [tensor.flatten()[0].item() for tensor in held.values()] == list(expected.values())
    for name, tensor in held.items():
        like = name != "step"
        assert tensor.dtype is (torch.float64 if like else torch.float32)
        assert tensor.stride() == (param.stride() if like else ())
    (group,) = optimizer.param_groups
    names = optimizer.state_spec.names(group)
    assert names == tuple(expected)[1:]
    assert optimizer.state_spec.reads(group) == ("a", "step", *names[1:])


def test_a_declaration_says_what_it_is() -> None:
    assert repr(optimlab.Adam.state_spec).startswith("StateSpec(Count(device='cpu', read_after='')")
    assert optimlab.SGD.state_spec.made_by_rule
    assert optimlab.SGD.state_spec.count is None
    assert not optimlab.Adam.state_spec.conditions
    assert len(optimlab.RMSprop.state_spec.conditions) == 1


# Of the optimizers, as torch has it.


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(("name", "way"), [way for way in WAYS if "SGD" not in way.values])
def test_the_step_count_has_torchs_dtype(name: str, way: Options, default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        pair = Pair(name, **way)
        pair.step(2)
    finally:
        torch.set_default_dtype(before)
    pair.step(2)
    wide = default is torch.float64 and not way.get("fused")
    for held in pair.ours.optimizer.state.values():
        assert held["step"].dtype is (torch.float64 if wide else torch.float32)
        assert held["step"].shape == ()


@asked
def test_step_counts_and_state_are_changed_in_place(name: str, way: Options) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(1)
    tensors = [id(t) for held in pair.ours.optimizer.state.values() for t in held.values()]
    params = [param.data_ptr() for param in pair.ours.params]
    pair.step(3)
    after = [id(t) for held in pair.ours.optimizer.state.values() for t in held.values()]
    assert after == tensors
    assert [param.data_ptr() for param in pair.ours.params] == params


@ways
def test_state_lies_in_memory_as_its_parameter_does(name: str, way: Options) -> None:
    pair = Pair(name, **STATEFUL[name], **way)
    pair.step(2)
    convolution = pair.ours.params[0]
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    held = pair.ours.optimizer.state[convolution]
    strides = {key: value.stride() for key, value in held.items() if key != "step"}
    assert set(strides.values()) == {convolution.stride()}


@names
def test_looking_a_parameter_up_in_the_state_makes_an_entry_as_in_torch(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    assert pair.both(lambda side: side.optimizer.state[side.params[0]]) == {}
    pair.step(2)


@names
def test_state_that_a_user_adds_before_the_first_step_is_taken_as_in_torch(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])

    def extend(side: Side) -> None:
        side.optimizer.state[side.params[0]]["seen"] = torch.zeros(2)

    pair.both(extend)
    pair.set_gradients()
    if name == "SGD":  # makes its state whenever that is missing
        pair.step(2)
    else:
        pair.refused(lambda side: side.optimizer.step())


# State of odd kinds.

STEP_COUNTS: dict[str, Any] = {
    "of two elements": torch.tensor([3.0, 3.0]),
    "of one dimension": torch.tensor([3.0]),
    "of no elements": torch.zeros(0),
    "in double precision": torch.tensor(3.0, dtype=torch.float64),
    "in half precision": torch.tensor(3.0, dtype=torch.bfloat16),
    "whole": torch.tensor(3),
    "true": torch.tensor(True),
    "complex": torch.tensor(3.0 + 0j),
    "imaginary": torch.tensor(3.0 + 1j),
    "negative": torch.tensor(-5.0),
    "before the first": torch.tensor(-1.0),
    "between two": torch.tensor(2.5),
    "nan": torch.tensor(float("nan")),
    "infinite": torch.tensor(float("inf")),
    "where floats end": torch.tensor(2.0**24),
    "that requires a gradient": torch.tensor(3.0, requires_grad=True),
    "a number": 3.0,
    "a string": "3",
    "nothing": None,
}


@pytest.mark.parametrize("count", STEP_COUNTS)
@pytest.mark.parametrize("place", [0, 2])
@asked
def test_a_step_count_of_an_odd_kind_does_what_it_does_in_torch(
    name: str, way: Options, place: int, count: str
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(2)
    pair.set_gradients()
    for side in pair.sides:
        side.optimizer.state[side.params[place]]["step"] = deepcopy(STEP_COUNTS[count])
    if same_outcome(pair):
        pair.set_gradients()
        same_outcome(pair)


@pytest.mark.parametrize("held", [None, 5, 2.5, [], [1], (), {}, torch.ones(2)], ids=repr)
@pytest.mark.parametrize("loaded", [False, True])
@asked
def test_state_of_an_odd_kind_does_what_it_does_in_torch(
    name: str, way: Options, loaded: bool, held: Any
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(2)

    def put(side: Side) -> None:
        if not loaded:
            side.optimizer.state[side.params[2]] = deepcopy(held)
            return
        saved = side.optimizer.state_dict()
        saved["state"][2] = deepcopy(held)
        side.optimizer.load_state_dict(saved)

    ours, theirs = (raised(partial(put, side)) for side in pair.sides)
    assert ours == theirs
    if ours is None:
        pair.set_gradients()
        same_outcome(pair)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
def test_a_string_is_no_step_count_whatever_stands_in_it(name: str) -> None:
    pair = Pair(name)
    pair.step(1)
    errors = []
    for side in pair.sides:
        saved = side.optimizer.state_dict()
        saved["state"][0]["step"] = "3"
        errors.append(raised(partial(side.optimizer.load_state_dict, saved)))
    # torch quotes the text of the generator that it makes of a string.
    assert errors[0] == (ValueError, """could not convert string to float: "'3'\"""")
    assert errors[1] is not None
    assert errors[1][0] is ValueError


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps_before", [0, 3])
@names
def test_an_optimizer_without_its_state_fails_where_torchs_does(
    name: str, steps_before: int, momentum: float
) -> None:
    pair = Pair(name, SMALL, **taken(name, {"momentum": momentum}))
    pair.step(steps_before)
    pair.set_gradients()
    saved = [side.optimizer.state_dict() for side in pair.sides]
    for side in pair.sides:
        del side.optimizer.state
    for action in (step, step, lambda side: side.optimizer.state_dict()):
        ours, theirs = (raised(partial(action, side)) for side in pair.sides)
        assert ours == theirs
    assert_equal(*([param.detach() for param in side.params] for side in pair.sides))
    for side, state in zip(pair.sides, saved, strict=True):
        side.optimizer.load_state_dict(state)
    pair.step(1)


@asked
def test_state_that_requires_a_gradient_is_loaded_as_leaves(name: str, way: Options) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(2)

    def reload(side: Side) -> list[tuple[bool, bool]]:
        for held in side.optimizer.state.values():
            for tensor in held.values():
                tensor.requires_grad_()
        side.optimizer.load_state_dict(side.optimizer.state_dict())
        deepcopy(side.optimizer)
        tensors = [tensor for held in side.optimizer.state.values() for tensor in held.values()]
        return [(tensor.is_leaf, tensor.requires_grad) for tensor in tensors]

    assert set(pair.both(reload)) == {(True, True)}
    pair.step(2)


def test_state_that_is_part_of_a_graph_stays_part_of_it() -> None:
    source = torch.ones(2, requires_grad=True)
    optimizer = optimlab.SGD([source * 2], lr=0.5, momentum=0.5, differentiable=True)
    saved = optimizer.state_dict()
    saved["state"][0] = {"momentum_buffer": source * 3}
    optimizer.load_state_dict(saved)
    (held,) = optimizer.state.values()
    held["momentum_buffer"].sum().backward()
    assert source.grad is not None
    assert source.grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("way", [{}, FOREACH], ids=str)
@names
def test_real_state_of_a_complex_parameter_does_what_it_does_in_torch(
    name: str, way: Options
) -> None:
    specs = (TensorSpec((3,), torch.complex64), TensorSpec((4,), torch.complex64))
    pair = Pair(name, specs, **STATEFUL[name], **way)
    pair.step(2)
    pair.set_gradients()
    for side in pair.sides:
        held = side.optimizer.state[side.params[1]]
        held.update({key: value.real.clone() for key, value in held.items() if key != "step"})
    same_outcome(pair)
