"""Groups, state and arguments that nobody should make, and what torch does with them.

Each of these is stepped as torch steps it, or refused with torch's error. Where the difference is
between being refused before and after something has changed, ours is before: see
`docs/decisions.md`.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from beside import (
    NAMES,
    SMALL,
    STATEFUL,
    Options,
    Pair,
    Side,
    assert_equal,
    names,
    one_thread,  # noqa: F401 - applies to every test here
    raised,
    ways,
)
from graphs_on_cpu import let_graphs_be_captured_on_cpu
from torch import Tensor

import optimlab
from optimlab.lab.lockstep.clone import clone
from optimlab.parity import TensorSpec

Change: TypeAlias = Callable[[Side], object]

FOREACH: Options = {"foreach": True}


@pytest.fixture
def graphs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `capturable` be tested where there is no GPU."""
    let_graphs_be_captured_on_cpu(monkeypatch)


def step(side: Side) -> Any:
    """Take a step."""
    return side.optimizer.step()


def taken(name: str, options: Options) -> Options:
    """Leave out the options that an optimizer does not have."""
    known = getattr(torch.optim, name)([torch.ones(1)]).defaults
    return {key: value for key, value in options.items() if key in known}


def in_group(index: int = -1, **options: Any) -> Change:
    """Set entries of a group."""
    return lambda side: side.optimizer.param_groups[index].update(clone(options))


def same_outcome(pair: Pair, action: Change = step) -> bool:
    """Do the same to both sides; compare the error if there is one, and what is left if not.

    Returns:
        Whether both succeeded.
    """
    before = clone(pair.ours.seen())
    ours, theirs = (raised(partial(action, side)) for side in pair.sides)
    assert ours == theirs
    if ours is None:
        pair.compare()
        return True
    # What the checks find leaves everything as it was; what ATen finds, as torch leaves it.
    left = pair.ours.seen()
    try:
        assert_equal(left, before)
    except pytest.fail.Exception:
        pair.compare()
    return False


# `foreach` and `fused` in one group.


def by_update(side: Side) -> None:
    in_group(foreach=True, fused=True)(side)


def by_loading(side: Side) -> None:
    saved = side.optimizer.state_dict()
    saved["param_groups"][-1].update(foreach=True, fused=True)
    side.optimizer.load_state_dict(saved)


def by_adding(side: Side) -> None:
    param = torch.nn.Parameter(torch.linspace(-1, 1, 37))
    param.grad = param.detach() * 3
    side.params.append(param)
    group = {"params": [param], "foreach": True, "fused": True}
    side.optimizer.add_param_group(group)


@pytest.mark.parametrize("change", [by_update, by_loading, by_adding])
@pytest.mark.parametrize("steps_before", [0, 2])
@names
def test_a_group_that_asks_for_foreach_and_fused_gets_what_it_gets_in_torch(
    name: str, steps_before: int, change: Change
) -> None:
    specs = (TensorSpec((37,)), TensorSpec((41,)), TensorSpec((37,), group=1))
    pair = Pair(name, specs, **taken(name, {"momentum": 0.9, "weight_decay": 0.1}))
    pair.step(steps_before)
    for side in pair.sides:
        change(side)
    for _ in range(3):
        for side in pair.sides:
            for i, param in enumerate(side.params):
                param.grad = torch.linspace(-1, 1 + i, len(param)) / 3
        pair.both(step)


@pytest.mark.parametrize("option", ["fused", "capturable", "foreach", "differentiable", "amsgrad"])
@pytest.mark.parametrize("more", [{}, FOREACH, {"lr": torch.tensor(0.1)}], ids=str)
@names
def test_an_option_of_other_optimizers_in_a_group_is_ignored_as_in_torch(
    name: str, more: Options, option: str
) -> None:
    pair = Pair(name, SMALL, **{**STATEFUL[name], **taken(name, {"amsgrad": False})})
    for side in pair.sides:
        in_group(**{option: True, **more})(side)
    for _ in range(3):
        pair.set_gradients()
        if not same_outcome(pair):
            break


# Lists of tensors that have made unequal numbers of steps.

LISTED: tuple[Options, ...] = (
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "momentum": 0.9, "dampening": 0.3, "amsgrad": True, "centered": True},
    {"weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    {"momentum": 0.9, "maximize": True},
)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("options", LISTED, ids=str)
@names
def test_foreach_keeps_one_list_of_tensors_in_one_memory_whatever_their_steps(
    name: str, options: Options, dtype: torch.dtype, capturable: bool, graphs_on_cpu: None
) -> None:
    more = taken(name, {"capturable": capturable})
    specs = tuple(TensorSpec((31,), dtype) for _ in range(3))
    pair = Pair(name, specs, **taken(name, options), **more, **FOREACH)
    for side in pair.sides:
        for param in side.params[1:]:
            param.data = side.params[0].data
    for missing in ((1, 2), (), (0,), (2,), ()):
        pair.set_gradients()
        for side in pair.sides:
            for i in missing:
                side.params[i].grad = None
        pair.both(step)


@pytest.mark.parametrize("way", [{}, FOREACH], ids=str)
@names
def test_tensors_that_share_a_step_count_or_state_are_stepped_as_in_torch(
    name: str, way: Options
) -> None:
    pair = Pair(name, (TensorSpec((5,)), TensorSpec((5,))), **STATEFUL[name], **way)
    pair.step(2)
    for side in pair.sides:
        first, second = (side.optimizer.state[param] for param in side.params)
        second.update(first)
    pair.step(2)


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes which foreach operations are called, with which overload."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "foreach" in str(func):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("options", LISTED, ids=str)
@names
def test_foreach_calls_the_operations_that_torch_calls(
    name: str, options: Options, apart: bool
) -> None:
    pair = Pair(name, SMALL, **taken(name, options), **FOREACH)
    pair.step(1)
    pair.set_gradients()
    if apart:
        for side in pair.sides:
            side.params[0].grad = None
        pair.both(step)
        pair.set_gradients()
    called = []
    for side in pair.sides:
        with Calls() as calls:
            side.optimizer.step()
        called.append(calls.names)
    assert called[0]
    # In torch the step is counted once gradients are negated, here before.
    assert sorted(called[0]) == sorted(called[1])


# Entries that are missing, and entries too many.


def without(*keys: str, index: int = -1) -> Change:
    """Delete entries of a group."""

    def delete(side: Side) -> None:
        for key in keys:
            side.optimizer.param_groups[index].pop(key, None)

    return delete


def entries() -> Iterator[Any]:
    """Yield each optimizer with each entry of its groups."""
    for name in NAMES:
        for key in getattr(torch.optim, name)([torch.ones(1)]).param_groups[0]:
            if key != "params":
                yield pytest.param(name, key, id=f"{name}-{key}")


@pytest.mark.parametrize(("name", "key"), list(entries()))
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("way", [{}, FOREACH], ids=str)
def test_a_group_needs_the_entries_that_torch_reads_and_no_others(
    name: str, key: str, steps_before: int, way: Options
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(steps_before)
    for side in pair.sides:
        without(key)(side)
    pair.set_gradients()
    same_outcome(pair)


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("steps_before", [0, 2])
@names
def test_of_several_missing_entries_the_one_that_torch_misses_first_is_named(
    name: str, steps_before: int, with_gradients: bool
) -> None:
    keys = list(getattr(torch.optim, name)([torch.ones(1)]).defaults)
    for first in keys:
        for second in keys:
            pair = Pair(name, SMALL, **STATEFUL[name])
            pair.step(steps_before)
            pair.set_gradients()
            for side in pair.sides:
                without(first, second)(side)
                for param in side.params if not with_gradients else ():
                    param.grad = None
            same_outcome(pair)


@ways
def test_defaults_may_have_entries_that_groups_lack(name: str, way: Options) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(2)
    for side in pair.sides:
        side.optimizer.defaults["mine"] = 1
        side.params[0].data = side.params[0].data.clone()
    pair.step(2)
    for side in pair.sides:
        side.optimizer.param_groups[0]["mine"] = 2
    pair.step(1)


class Mine(optimlab.Rule):
    """An optimizer of somebody else's, which does not say what it reads."""

    def update(self, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
        param.add_(grad, alpha=-group["lr"])


def test_an_own_optimizer_needs_the_hyperparameters_that_it_was_made_with() -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = Mine([{"params": param} for param in params], {"lr": 0.5})
    for param in params:
        param.grad = torch.ones(2)
    optimizer.defaults["mine"] = 1
    optimizer.step()
    del optimizer.param_groups[1]["lr"]
    with pytest.raises(KeyError, match="lr"):
        optimizer.step()
    assert [param.tolist() for param in params] == [[0.5, 0.5]] * 2


# Hyperparameters of odd kinds.

ODD: tuple[Any, ...] = (
    *(np.array(0.05), np.float64(0.05), np.float32(0.05), np.array([0.05])),
    *(2**53 + 1, 2**64, 1152921573326323713, 10**400, True, 0, 1, -0.0, -0.5, 1.5),
    *("0.1", None, 1j, [0.1], float("nan"), float("inf")),
    *(torch.tensor(0.05), torch.tensor([0.05]), torch.tensor([0.1, 0.2]), torch.tensor(1)),
    torch.tensor(0.05, dtype=torch.float64),
)
NUMBERS = {
    "SGD": ("lr", "momentum", "dampening", "weight_decay"),
    "Adam": ("lr", "betas", "eps", "weight_decay"),
    "AdamW": ("lr", "betas", "eps", "weight_decay"),
    "RMSprop": ("lr", "alpha", "eps", "weight_decay", "momentum"),
}


def odd_hyperparameters() -> Iterator[Any]:
    """Yield each hyperparameter that is a number, with the implementations that take it."""
    for name, hyperparameters in NUMBERS.items():
        for way in ({}, FOREACH, {"fused": True}):
            if "fused" not in way or name != "RMSprop":
                for key in hyperparameters:
                    yield pytest.param(name, key, way, id=f"{name}-{key}-{way}")


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize(("name", "key", "way"), list(odd_hyperparameters()))
def test_a_hyperparameter_of_an_odd_kind_does_what_it_does_in_torch(
    name: str, key: str, way: Options, steps_before: int, maximize: bool
) -> None:
    for value in ODD:
        pairs = [(value, 0.9), (0.9, value), (0.9, 0.9, value)] if key == "betas" else []
        for each in (value, *pairs):
            # torch overwrites gradients that it looks ahead from, if they are not negated.
            options = {"maximize": maximize, **taken(name, {"nesterov": maximize})}
            pair = Pair(name, SMALL, **{**STATEFUL[name], **options}, **way)
            pair.step(steps_before)
            pair.set_gradients()
            for side in pair.sides:
                in_group(**{key: deepcopy(each)})(side)
            same_outcome(pair)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@names
def test_a_large_integer_is_not_rounded_before_torch_rounds_it(
    name: str, dtype: torch.dtype, momentum: float
) -> None:
    options = {**taken(name, {"momentum": momentum}), "lr": 1152921573326323713}
    for weight_decay in (0, 2**53 + 1, 1152921573326323713):
        pair = Pair(name, (TensorSpec((9,), dtype),), weight_decay=weight_decay, **options)
        for _ in range(2):
            pair.set_gradients()
            same_outcome(pair)


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
@ways
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
@ways
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


@ways
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


# Parameters and gradients of unlike dtypes.

DTYPES = (torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool)


@pytest.mark.parametrize("gradient", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("options", [{}, *LISTED], ids=str)
@names
def test_a_gradient_of_another_dtype_does_what_it_does_in_torch(
    name: str, options: Options, dtype: torch.dtype, gradient: torch.dtype
) -> None:
    for way in ({}, FOREACH):
        for place in (0, 1):
            specs = (TensorSpec((3,), dtype), TensorSpec((3,), dtype))
            pair = Pair(name, specs, **taken(name, options), **way)
            for _ in range(2):
                pair.set_gradients()
                for side in pair.sides:
                    side.params[place].grad_dtype = None
                    side.params[place].grad = torch.ones(3, dtype=gradient)
                if not same_outcome(pair):
                    break


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


# What autograd gets.


@pytest.mark.parametrize("dtypes", [DTYPES[:1] * 3, (torch.float32, torch.float64) * 2], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("more", [{}, {"amsgrad": True, "maximize": True}], ids=str)
@names
def test_derivatives_with_respect_to_hyperparameters_have_torchs_bits(
    name: str,
    more: Options,
    precision: torch.dtype,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
) -> None:
    sides = Pair(name).sides
    assert_equal(*(derivatives(side, more, precision, shape, dtypes) for side in sides))


def derivatives(
    side: Side,
    more: Options,
    precision: torch.dtype,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
) -> list[Any]:
    """Step three times and go back; return derivatives, or what is raised in the place of some."""
    numbers = (0.1, 0.9, 0.99, 0.2)
    learned = [torch.full(shape, x, dtype=precision, requires_grad=True) for x in numbers]
    lr, beta1, beta2, weight_decay = learned
    options: Options = {"lr": lr, "betas": (beta1, beta2), "differentiable": True, **more}
    if side.name == "SGD" and more and not shape:
        options["weight_decay"] = weight_decay
    sources = [
        torch.linspace(-1, 2 + i, 5, dtype=dtype, requires_grad=True)
        for i, dtype in enumerate(dtypes)
    ]
    params = [source.clone() for source in sources]
    optimizer = side.optimizer_class(params, **taken(side.name, options))
    if "betas" in optimizer.defaults:  # with their dimensions, which the constructor takes away
        optimizer.param_groups[0]["betas"] = (beta1, beta2)

    def differentiate() -> None:
        for number in range(3):
            for source, param in zip(sources, params, strict=True):
                param.grad = (source * (number + 1.5)).sin()
            optimizer.step()
        torch.stack([(param.double() ** 2).sum() for param in params]).sum().backward()

    return [raised(differentiate), *(tensor.grad for tensor in (*learned, *sources))]


def test_an_optimizer_that_is_differentiable_with_a_group_that_is_not_fails_as_torchs() -> None:
    errors = []
    for library in (optimlab, torch.optim):
        param = torch.ones(3, requires_grad=True) * 2
        optimizer: Any = library.Adam([param], differentiable=True, amsgrad=True)
        optimizer.param_groups[0]["differentiable"] = False
        param.grad = torch.ones(3, requires_grad=True)
        errors.append(raised(optimizer.step))
    assert errors[0] == errors[1]
    assert errors[0] is not None
    assert "out=" in errors[0][1]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("way", [{}, {"fused": True}], ids=str)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_step_count_cannot_be_differentiated_through(
    name: str, steps_before: int, way: Options
) -> None:
    pair = Pair(name, SMALL, **way)
    pair.step(2)
    pair.set_gradients()
    for side in pair.sides:
        in_group(differentiable=True)(side)
        if steps_before:
            side.optimizer.state[side.params[-1]]["step"].requires_grad_()
    assert same_outcome(pair) is (not steps_before and not way)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
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


# Arguments of `step`, and hooks that change them.

ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "two": lambda optimizer: optimizer.step(1, 2),
    "three": lambda optimizer: optimizer.step(None, None, None),
    "an unknown keyword": lambda optimizer: optimizer.step(other=1),
    "a closure twice": lambda optimizer: optimizer.step(None, closure=None),
    "no optimizer": lambda optimizer: type(optimizer).step(),
    "no optimizer but a keyword": lambda optimizer: type(optimizer).step(closure=None),
    "a number for an optimizer": lambda optimizer: type(optimizer).step(1),
    "nothing for an optimizer": lambda optimizer: type(optimizer).step(None),
    "a closure that cannot be called": lambda optimizer: optimizer.step(1),
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@names
def test_wrong_arguments_of_step_are_refused_in_torchs_words(name: str, arguments: str) -> None:
    pair = Pair(name, SMALL)
    pair.step(1)
    pair.refused(lambda side: ARGUMENTS[arguments](side.optimizer))


@pytest.mark.parametrize(
    "changed",
    [((), {}), (("x",), {}), ((1, 2), {}), ((), {"x": 1}), (("x", "y"), {"z": 1})],
    ids=repr,
)
@names
def test_a_hook_that_makes_arguments_unfit_is_answered_in_torchs_words(
    name: str, changed: Any
) -> None:
    pair = Pair(name, SMALL)
    pair.step(1)
    for side in pair.sides:
        side.optimizer.register_step_pre_hook(lambda *_: changed)
    pair.refused(step)


@names
def test_step_is_named_after_its_class(name: str) -> None:
    ours, theirs = (getattr(library, name).step for library in (optimlab, torch.optim))
    assert ours.__qualname__ == theirs.__qualname__
    assert ours.__name__ == theirs.__name__
    assert Mine.step.__qualname__ == "Mine.step"
    assert Mine.step.__module__ == __name__


# What a step moves.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@ways
def test_a_step_moves_the_version_counters_of_what_it_writes(
    name: str, way: Options, dtype: torch.dtype
) -> None:
    specs = (TensorSpec((7,), dtype), TensorSpec((3,), dtype))
    if way.get("fused") and dtype is torch.bfloat16:
        pytest.skip("torch's fused SGD is wrong in half precision")
    pair = Pair(name, specs, **STATEFUL[name], **way)
    pair.step(1)
    for _ in range(4):
        pair.set_gradients()
        optimizer = pair.ours.optimizer
        written: list[Tensor] = [*pair.ours.params]
        written += [tensor for held in optimizer.state.values() for tensor in held.values()]
        before = [tensor._version for tensor in written]
        pair.both(step)
        after = [tensor._version for tensor in written]
        if not way.get("fused"):
            assert all(new > old for new, old in zip(after, before, strict=True))


# Where optimlab decides otherwise.


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_decay_that_is_learned_is_not_written_into_the_gradients(name: str) -> None:
    found = []
    for library in (optimlab, torch.optim):
        param = torch.ones(3, requires_grad=True) * 1
        decay = torch.tensor(0.1, requires_grad=True)
        options: Options = {"lr": 0.1, "weight_decay": decay, "differentiable": True}
        optimizer = getattr(library, name)([param], **options)
        param.grad = grad = torch.ones(3)
        optimizer.step()
        found.append((param.detach(), grad.tolist()))
    assert_equal(found[0][0], found[1][0])
    assert found[0][1] == [1.0] * 3
    assert found[1][1] == pytest.approx([1.1] * 3)


def test_a_decay_that_is_learned_does_not_add_up_in_gradients_that_are_used_again() -> None:
    found = []
    for library in (optimlab, torch.optim):
        param = torch.nn.Parameter(torch.ones(3))
        decay = torch.tensor(0.1, requires_grad=True)
        optimizer: Any = library.SGD([param], lr=0.1, weight_decay=decay)
        param.grad = torch.ones(3)
        optimizer.step()
        first = param.detach().clone()
        optimizer.step()
        found.append((first, param.detach().clone(), param.grad.clone()))
    assert_equal(found[0][0], found[1][0])
    assert found[0][2].tolist() == [1.0] * 3
    assert not torch.equal(found[0][1], found[1][1])


def test_a_decay_that_is_learned_takes_gradients_that_are_leaves() -> None:
    errors = []
    for library in (optimlab, torch.optim):
        param = torch.ones(3, requires_grad=True) * 1
        decay = torch.tensor(0.1, requires_grad=True)
        optimizer: Any = library.SGD([param], weight_decay=decay, differentiable=True)
        param.grad = torch.ones(3, requires_grad=True)
        errors.append(raised(optimizer.step))
    assert errors[0] is None
    assert errors[1] is not None
    assert "leaf Variable" in errors[1][1]


def test_tensors_that_share_a_gradient_look_ahead_each_by_itself() -> None:
    found = []
    for library in (optimlab, torch.optim):
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        optimizer: Any = library.SGD(params, lr=1.0, momentum=0.5, nesterov=True, foreach=True)
        params[0].grad = params[1].grad = torch.ones(2)
        optimizer.step()
        found.append([param.tolist() for param in params])
    assert found[0] == [[-0.5, -0.5]] * 2  # 1 - (1 + 0.5)
    assert found[1] != found[0]
