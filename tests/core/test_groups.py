"""Adding parameter groups, naming parameters, and resetting gradients."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import (
    STATEFUL,
    TENSORS,
    Options,
    Pair,
    Side,
    all_warnings,
    names,
    ways,
)
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor, nn

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec

NAMED = {"params": [("weight", torch.ones(2)), ("bias", torch.ones(3))]}


NEVER = next(i for i, spec in enumerate(TENSORS) if spec.gradients == "never")


def new(side: Side, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Give a side further parameters, which are observed from now on."""
    added: list[Tensor] = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    side.params += added
    return added


def with_gradients(pair: Pair) -> None:
    """Give both sides equal gradients, also for parameters that were added later."""
    for side in pair.sides:
        for number, param in enumerate(side.params):
            if number != NEVER:
                param.grad = torch.full_like(param, 0.5 + number)


def with_names(name: str) -> Pair:
    """Make a pair whose parameters have names, all in one group."""
    pair = Pair(name)
    for side in pair.sides:
        pairs = [(f"tensor{i}", param) for i, param in enumerate(side.params)]
        side.optimizer = side.optimizer_class(pairs)
    return pair


# Groups that are taken.

GROUPS: dict[str, Callable[[Side], Options]] = {
    "one parameter": lambda side: {"params": new(side, (2,))[0]},
    "a list": lambda side: {"params": new(side, (2,), (3,))},
    "a tuple": lambda side: {"params": tuple(new(side, (2,), (3,)))},
    "a generator": lambda side: {"params": (param for param in new(side, (2,), (3,)))},
    "no parameters": lambda side: {"params": []},
    "an ordered dict": lambda side: OrderedDict(lr=0.5, params=new(side, (2,))),
    "options of its own": lambda side: {"lr": 0.5, "params": new(side, (2,)), "maximize": True},
    "a tensor lr": lambda side: {"lr": torch.tensor(0.5), "params": new(side, (2,))},
    "invalid options": lambda side: {"lr": -1.0, "params": new(side, (2,))},
    "unknown options": lambda side: {"color": "red", "params": new(side, (2,))},
    "foreach and fused": lambda side: {"params": new(side, (37,)), "foreach": True, "fused": True},
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("steps_before", [0, 3])
@names
def test_a_group_is_completed_as_in_torch(name: str, steps_before: int, group: str) -> None:
    pair = Pair(name, foreach=False, **STATEFUL[name])
    pair.step(steps_before)

    def add(side: Side) -> Any:
        return side.optimizer.add_param_group(GROUPS[group](side))

    assert pair.both(add) is None
    assert len(pair.ours.optimizer.param_groups) == 3
    for _ in range(2):
        with_gradients(pair)
        pair.both(lambda side: side.optimizer.step())


@ways
def test_a_group_added_in_mid_run_counts_its_own_steps(name: str, way: Options) -> None:
    pair = Pair(name, **STATEFUL[name], **way)
    pair.step(3)
    pair.both(lambda side: side.optimizer.add_param_group({"params": new(side, (7,)), "lr": 0.5}))
    for _ in range(3):
        with_gradients(pair)
        pair.both(lambda side: side.optimizer.step())
    for side in pair.sides if name != "SGD" else ():
        steps = [side.optimizer.state[side.params[index]]["step"].item() for index in (0, -1)]
        assert steps == [6, 3]


@names
def test_a_named_group_is_added_to_named_ones(name: str) -> None:
    pair = with_names(name)
    pair.step()

    def add(side: Side) -> None:
        side.optimizer.add_param_group({"params": [("new", new(side, (2,))[0])], "lr": 0.5})

    pair.both(add)
    assert pair.ours.optimizer.param_groups[1]["param_names"] == ["new"]
    with_gradients(pair)
    pair.both(lambda side: side.optimizer.step())


# Groups that are refused.

REFUSED: dict[str, Callable[[Side], Any]] = {
    "no leaf": lambda side: {"params": side.params[0] * 2},
    "no leaf after a good one": lambda side: {"params": [torch.ones(2), side.params[0] * 2]},
    "a set": lambda side: {"params": {torch.ones(2)}},
    "a number for a tensor": lambda side: {"params": [1.5]},
    "a string for a tensor": lambda side: {"params": ["weight"]},
    "None for a tensor": lambda side: {"params": [None]},
    "a list in the list": lambda side: {"params": [[torch.ones(2)]]},
    "a group in the group": lambda side: {"params": [{"params": torch.ones(2)}]},
    "a parameter of another group": lambda side: {"params": side.params[0]},
    "its last one of another group": lambda side: {"params": [torch.ones(2), side.params[-1]]},
    "only some with names": lambda side: {"params": [("a", torch.ones(2)), torch.ones(2)]},
    "names, unlike other groups": lambda side: NAMED,
    "names beside, unlike others": lambda side: {"params": torch.ones(2), "param_names": ["a"]},
    "names, and one parameter taken": lambda side: {"params": [("a", side.params[0])]},
    "a name alone": lambda side: {"params": [("a",)]},
    "a list instead of a dict": lambda side: [torch.ones(2)],
    "a tensor instead of a dict": lambda side: torch.ones(2),
    "None instead of a dict": lambda side: None,
    "no params": lambda side: {"lr": 0.1},
    "a number as params": lambda side: {"params": 3},
    "None as params": lambda side: {"params": None},
}


@pytest.mark.parametrize("group", REFUSED)
@names
def test_a_refused_group_leaves_the_optimizer_as_it_was(name: str, group: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)
    pair.refused(lambda side: side.optimizer.add_param_group(REFUSED[group](side)))
    pair.compare()
    pair.step(2)


@names
def test_a_group_without_names_is_refused_by_named_ones(name: str) -> None:
    pair = with_names(name)
    pair.refused(lambda side: side.optimizer.add_param_group({"params": torch.ones(2)}))
    pair.compare()


@names
def test_the_callers_dict_is_not_edited(name: str) -> None:
    pair = Pair(name)
    for group in (*REFUSED, *GROUPS):
        given = {**GROUPS, **REFUSED}[group](pair.ours)
        if isinstance(given, dict):
            before = dict(given)
            try:
                pair.ours.optimizer.add_param_group(given)
            except (TypeError, ValueError, KeyError, IndexError):
                assert group in REFUSED
            assert list(given) == list(before)
            assert all(given[key] is before[key] for key in before)


@names
def test_a_tensor_lr_of_a_group_stays_the_very_object(name: str) -> None:
    lr = torch.tensor(0.5)
    for side in Pair(name).sides:
        side.optimizer.add_param_group({"params": torch.ones(2), "lr": lr})
        assert side.optimizer.param_groups[-1]["lr"] is lr


# A parameter twice in a group.


@names
def test_a_parameter_twice_in_a_group_gets_torchs_warning_from_the_same_place(name: str) -> None:
    given = []
    for side in Pair(name).sides:
        (param,) = new(side, (2,))
        group = {"params": [param, param]}
        with all_warnings() as caught:
            side.optimizer.add_param_group(group)
        (warning,) = caught
        given.append((warning.category, str(warning.message), warning.filename, warning.lineno))
    assert given[0] == given[1]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@ways
def test_a_parameter_twice_in_a_group_is_stepped_and_saved_as_in_torch(
    name: str, way: Options
) -> None:
    pair = Pair(name, **way)

    def add(side: Side) -> None:
        first, second = new(side, (3,), (2,))
        side.optimizer.add_param_group({"params": [first, first, second]})

    pair.both(add)
    with_gradients(pair)
    pair.both(lambda side: side.optimizer.step())


@pytest.mark.filterwarnings("error")
@names
def test_a_warning_that_is_an_error_leaves_the_optimizer_as_it_was(name: str) -> None:
    pair = Pair(name)
    twice = [torch.ones(2)] * 2
    pair.refused(lambda side: side.optimizer.add_param_group({"params": twice}))


# Resetting gradients.


def squared(value: Tensor) -> Tensor:
    """Return a gradient that still has its graph."""
    return (value.clone().requires_grad_() ** 2) * 3


GRADIENTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "plain": torch.clone,
    "with a graph": squared,
    "that require a gradient": lambda value: value.clone().requires_grad_(),
    "sparse": lambda value: value.clone().to_sparse(),
    "infinite": lambda value: value / 0,
    "missing": lambda value: None,
}
MIXED = (
    TensorSpec((4, 3)),
    TensorSpec((17,), torch.float64),
    TensorSpec((5,), torch.bfloat16, group=1),
    TensorSpec((5,), torch.complex64, group=1),
)


@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("set_to_none", [False, True])
@ways
def test_zero_grad_leaves_what_torch_leaves(
    name: str, way: Options, set_to_none: bool, gradients: str
) -> None:
    pair = Pair(name, MIXED, **way)
    held: list[list[Tensor | None]] = []
    for side in pair.sides:
        for value, param in zip(pair.scenario.start(), side.params, strict=True):
            param.grad = GRADIENTS[gradients](value)
        held.append([param.grad for param in side.params])
    pair.both(lambda side: side.optimizer.zero_grad(set_to_none))
    after = [[param.grad for param in side.params] for side in pair.sides]
    if set_to_none:
        assert after == [[None] * 4] * 2
        return
    for before, now in zip(held, after, strict=True):
        assert [id(grad) for grad in now] == [id(grad) for grad in before]
        for grad in now:
            if grad is not None:
                assert grad.grad_fn is None
                assert not grad.requires_grad
                assert not grad.to_dense().any()


@names
def test_zero_grad_drops_gradients_unless_told_otherwise(name: str) -> None:
    pair = Pair(name)
    pair.set_gradients()
    pair.both(lambda side: side.optimizer.zero_grad())
    assert all(param.grad is None for param in pair.ours.params)


@pytest.mark.parametrize("set_to_none", [False, True])
@names
def test_a_step_after_zero_grad_is_torchs(name: str, set_to_none: bool) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)
    pair.both(lambda side: side.optimizer.zero_grad(set_to_none))
    before = clone([param.detach() for param in pair.ours.params])
    pair.both(lambda side: side.optimizer.step())
    unmoved = [torch.equal(a, b) for a, b in zip(before, pair.ours.params, strict=True)]
    # Without gradients nothing moves; with zeros, momentum and weight decay still do.
    assert all(unmoved) if set_to_none else not all(unmoved)
