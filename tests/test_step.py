"""What a step does besides its rule: closures, gradients, errors, scaling, the step count."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import pytest
import torch
from beside import (
    NAMES,
    SMALL,
    STATEFUL,
    WAYS,
    Options,
    Pair,
    Side,
    assert_equal,
    names,
    one_thread,  # noqa: F401 - applies to every test here
    profiled,
    raised,
    ways,
)
from torch import Tensor

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec

FUSED = tuple(name for name in NAMES if name != "RMSprop")
fused = pytest.mark.parametrize("name", FUSED)


def step(side: Side) -> Any:
    """Take a step."""
    return side.optimizer.step()


# Closures.


def closure_of(side: Side, log: list[bool]) -> Callable[[], Any]:
    """Make a closure that computes gradients, and notes whether autograd is on."""

    def closure() -> Tensor:
        log.append(torch.is_grad_enabled())
        side.optimizer.zero_grad()
        loss = sum(((param * param).sum() for param in side.params), torch.zeros(()))
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("surroundings", [torch.enable_grad, torch.no_grad])
@ways
def test_a_closure_runs_once_with_gradients_and_its_value_is_returned(
    name: str, way: Options, surroundings: Any
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    logs: dict[int, list[bool]] = {id(side): [] for side in pair.sides}
    with surroundings():
        before = torch.is_grad_enabled()
        loss = pair.both(lambda side: side.optimizer.step(closure_of(side, logs[id(side)])))
        assert torch.is_grad_enabled() == before
    assert isinstance(loss, Tensor)
    assert list(logs.values()) == [[True], [True]]


@pytest.mark.parametrize("value", [None, 0.25, "loss", (1, 2)])
@names
def test_whatever_a_closure_returns_is_returned(name: str, value: Any) -> None:
    pair = Pair(name)
    assert pair.both(lambda side: side.optimizer.step(lambda: value)) == value
    assert pair.both(lambda side: side.optimizer.step(closure=lambda: value)) == value
    assert pair.both(step) is None


@pytest.mark.parametrize("options", [{}, {"differentiable": True}], ids=["", "differentiable"])
@names
def test_autograd_is_as_before_after_an_error_in_a_closure(name: str, options: Options) -> None:
    pair = Pair(name, **options)

    def fail() -> float:
        raise ArithmeticError("no loss")

    for surroundings in (torch.enable_grad, torch.no_grad):
        with surroundings():
            before = torch.is_grad_enabled()
            pair.refused(lambda side: side.optimizer.step(fail))
            assert torch.is_grad_enabled() == before


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("of_group", [False, True])
@names
def test_the_default_and_not_the_group_decides_whether_autograd_sees_a_step(
    name: str, default: bool, of_group: bool
) -> None:
    pair = Pair(name, SMALL, differentiable=default)
    pair.set_gradients()
    for side in pair.sides:
        for group in side.optimizer.param_groups:
            group["differentiable"] = of_group
    ours, theirs = (raised(partial(step, side)) for side in pair.sides)
    assert ours == theirs
    assert (ours is not None) == default  # autograd refuses to change a leaf
    if not default:
        pair.compare()


# Gradients.


@ways
def test_a_parameter_without_a_gradient_is_left_out(name: str, way: Options) -> None:
    pair = Pair(name, **STATEFUL[name], **way)
    before = clone([param.detach() for param in pair.ours.params])
    pair.both(step)  # nothing has a gradient
    assert not pair.ours.optimizer.state
    pair.step(4)
    unmoved = [torch.equal(a, b) for a, b in zip(before, pair.ours.params, strict=True)]
    assert unmoved == [spec.gradients == "never" for spec in pair.scenario.tensors]
    assert pair.ours.params[-1] not in pair.ours.optimizer.state


@pytest.mark.parametrize("options", [*STATEFUL.values(), {"momentum": 0.9}, {}], ids=str)
@ways
def test_gradients_are_only_read(name: str, way: Options, options: Options) -> None:
    known = getattr(torch.optim, name)([torch.ones(1)]).defaults
    pair = Pair(name, SMALL, **{key: options[key] for key in options if key in known}, **way)
    given: list[Tensor | None] = []
    before: list[Tensor | None] = []
    for _ in range(3):
        pair.set_gradients()
        now = [param.grad for param in pair.ours.params]
        given += now
        before += clone(now)
        versions = [grad._version for grad in given if grad is not None]
        pair.ours.optimizer.step()
        assert [id(param.grad) for param in pair.ours.params] == [id(grad) for grad in now]
        assert [grad._version for grad in given if grad is not None] == versions
        assert_equal(given, before)  # those of earlier steps too: no state is made of them


def test_foreach_nesterov_gives_torchs_bits_without_overwriting_gradients_as_torch_does() -> None:
    pair = Pair("SGD", SMALL, foreach=True, momentum=0.9, nesterov=True)
    for _ in range(3):
        pair.set_gradients()
        given = clone([param.grad for param in pair.ours.params])
        for side in pair.sides:
            side.optimizer.step()
        assert_equal([param.grad for param in pair.ours.params], given)
        assert_equal(*([param.detach() for param in side.params] for side in pair.sides))


@ways
def test_gradients_with_a_graph_are_taken_as_numbers(name: str, way: Options) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    for _ in range(3):
        pair.set_gradients()
        for side in pair.sides:
            for param in side.params:
                assert param.grad is not None
                param.grad = (param.grad.requires_grad_() * 1.5).requires_grad_()
        pair.both(step)
    assert all(param.is_leaf for param in pair.ours.params)


def sparse(rows: list[int], values: Tensor) -> Tensor:
    """Make a sparse gradient, coalesced only if no row comes twice."""
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (4, 3), check_invariants=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("more", [{}, {"foreach": True}, {"maximize": True}, {"dampening": 0.5}])
def test_sgd_takes_sparse_gradients(dtype: torch.dtype, momentum: float, more: Options) -> None:
    pair = Pair("SGD", (TensorSpec((4, 3), dtype),), momentum=momentum, **more)
    rows = ([0, 2], [1, 1], [3, 0])
    for number, index in enumerate(rows):
        for side in pair.sides:
            values = torch.full((2, 3), number + 0.75, dtype=dtype)
            side.params[0].grad = sparse(index, values)
        pair.both(step)
    assert all(param.layout is torch.strided for param in pair.ours.params)


@pytest.mark.parametrize("more", [{"weight_decay": 0.1}, {"nesterov": True, "momentum": 0.9}])
@pytest.mark.parametrize("foreach", [False, True])
def test_sgd_treats_sparse_gradients_as_torch_with_every_option(
    more: Options, foreach: bool
) -> None:
    pair = Pair("SGD", (TensorSpec((4, 3)),), foreach=foreach, **more)
    for rows in ([0, 2], [1, 1], [3, 0]):
        outcomes = []
        for side in pair.sides:
            side.params[0].grad = sparse(rows, torch.full((2, 3), 0.75))
            outcomes.append([raised(partial(step, side)), side.params[0].detach()])
        assert_equal(*outcomes)


# Steps that are refused.


def sparse_gradient(side: Side) -> None:
    """Give the last parameter a sparse gradient."""
    shape = side.params[-1].shape
    side.params[-1].grad = torch.ones(shape).to_sparse()


def in_second_group(**options: Any) -> Callable[[Side], None]:
    """Set options of the second group."""

    def change(side: Side) -> None:
        side.optimizer.param_groups[1].update(clone(options))

    return change


def scaled(**tensors: float) -> Callable[[Side], None]:
    """Tell the optimizer what a GradScaler tells a fused one."""

    def tell(side: Side) -> None:
        for name, value in tensors.items():
            setattr(side.optimizer, name, torch.tensor(value))

    return tell


def without_state(name: str) -> Callable[[Side], None]:
    """Take an entry out of the last parameter's state."""

    def take(side: Side) -> None:
        side.optimizer.state[side.params[-1]].pop(name, None)
        side.optimizer.state[side.params[-1]]["other"] = torch.ones(2)

    return take


def number_step(side: Side) -> None:
    """Replace the last parameter's step count by a number."""
    side.optimizer.state[side.params[-1]].update(
        step=3.0, exp_avg=torch.ones(3), exp_avg_sq=torch.ones(3), square_avg=torch.ones(3)
    )


def made_complex(index: int) -> Callable[[Side], None]:
    """Make a parameter complex, as if it were new."""

    def change(side: Side) -> None:
        param = side.params[index]
        side.optimizer.state.pop(param, None)
        param.grad = None
        param.data = param.data.to(torch.complex64)
        param.grad = torch.ones_like(param)

    return change


TENSOR = torch.tensor(0.1)
BETAS = (torch.tensor(0.5), torch.tensor(0.5))
Spoilt: TypeAlias = dict[str, tuple[Options, Callable[[Side], None]]]
COUNTED: Spoilt = {
    "lists that are to be differentiated": ({}, in_second_group(foreach=True, differentiable=True)),
    "a sparse gradient": ({}, sparse_gradient),
    "a sparse gradient, foreach": ({"foreach": True}, sparse_gradient),
    "capturable on CPU": ({}, in_second_group(capturable=True)),
    "capturable foreach on CPU": ({}, in_second_group(capturable=True, foreach=True)),
    "a number as step count": ({}, number_step),
    "no step count": ({}, without_state("step")),
}
SCALED: Spoilt = {
    "grad_scale without fused": ({}, scaled(grad_scale=2.0)),
    "found_inf without fused": ({}, scaled(found_inf=0.0)),
    "both without fused, foreach": ({"foreach": True}, scaled(grad_scale=2.0, found_inf=0.0)),
}
ADAM: Spoilt = {
    "a complex parameter with fused": ({"fused": True}, made_complex(-1)),
    "tensor lr on lists": ({"foreach": True}, in_second_group(lr=TENSOR)),
    "tensor betas on lists": ({"foreach": True}, in_second_group(betas=BETAS)),
    "amsgrad from now on": ({}, in_second_group(amsgrad=True)),
    "no exp_avg_sq": ({}, without_state("exp_avg_sq")),
}
BAD_STEPS: dict[str, Spoilt] = {
    "SGD": {
        **SCALED,
        "a sparse gradient with fused": ({"fused": True}, sparse_gradient),
        # torch looks at the first parameter of the first step only; the kernel refuses others.
        "new: a complex parameter with fused": ({"fused": True}, made_complex(0)),
    },
    "Adam": {**COUNTED, **SCALED, **ADAM},
    "AdamW": {**COUNTED, **SCALED, **ADAM},
    "RMSprop": {
        **COUNTED,
        "centered from now on": ({}, in_second_group(centered=True)),
        "momentum from now on": ({}, in_second_group(momentum=0.9)),
        "no square_avg": ({}, without_state("square_avg")),
    },
}
# These take away, or ask for, what only a first step makes.
LATE_ONLY = ("no ", "amsgrad from now on", "centered from now on", "momentum from now on")


def bad_steps() -> Iterator[Any]:
    """Yield each way in which the second group makes a step impossible, early and late."""
    for name in NAMES:
        for words, (options, spoil) in BAD_STEPS[name].items():
            both = (0,) if words.startswith("new") else (0, 2)
            for steps_before in (2,) if words.startswith(LATE_ONLY) else both:
                label = f"{name}-{words}-{steps_before}"
                yield pytest.param(name, options, spoil, steps_before, id=label)


@pytest.mark.parametrize(("name", "options", "spoil", "steps_before"), list(bad_steps()))
def test_a_refused_step_changes_nothing_at_all(
    name: str, options: Options, spoil: Callable[[Side], None], steps_before: int
) -> None:
    pair = Pair(name, SMALL, **options)
    pair.step(steps_before)
    pair.set_gradients()
    for side in pair.sides:
        spoil(side)
    pair.refused(step)


@fused
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_scaled_step_is_refused_before_anything_changes(name: str, steps_before: int) -> None:
    pair = Pair(name, SMALL, foreach=False, **STATEFUL[name])
    pair.step(steps_before)
    pair.set_gradients()
    for side in pair.sides:
        scaled(grad_scale=2.0)(side)
    pair.refused(step)
    for side in pair.sides:
        del side.optimizer.grad_scale  # type: ignore[attr-defined]
    if steps_before:  # torch makes state before it refuses
        pair.step(2)


def test_rmsprop_does_not_know_scaling_and_ignores_it() -> None:
    pair = Pair("RMSprop")
    for side in pair.sides:
        scaled(grad_scale=2.0, found_inf=1.0)(side)
    pair.step(2)


# What torch.amp.GradScaler and a fused kernel agree on.


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("overflow", [None, 0.0, 1.0])
@pytest.mark.parametrize("options", [True, False], ids=["stateful", "plain"])
@fused
def test_a_fused_step_unscales_and_skips_as_torchs(
    name: str, options: bool, overflow: float | None, scale: float | None
) -> None:
    pair = Pair(name, SMALL, fused=True, **(STATEFUL[name] if options else {}))
    for found_inf in (overflow and 0.0, overflow, 0.0):
        pair.set_gradients()
        before = clone([param.detach() for param in pair.ours.params])
        for side in pair.sides:
            for key, value in (("grad_scale", scale), ("found_inf", found_inf)):
                setattr(side.optimizer, key, None if value is None else torch.tensor(value))
        pair.both(step)
        unmoved = [torch.equal(a, b) for a, b in zip(before, pair.ours.params, strict=True)]
        assert unmoved == [found_inf == 1.0] * len(SMALL)
    if name != "SGD":
        steps = [held["step"].item() for held in pair.ours.optimizer.state.values()]
        assert steps == [2.0 if overflow == 1.0 else 3.0] * len(SMALL)


@fused
def test_a_first_step_that_overflows_leaves_zeros(name: str) -> None:
    pair = Pair(name, SMALL, fused=True, **STATEFUL[name])
    pair.set_gradients()
    before = clone([param.detach() for param in pair.ours.params])
    for side in pair.sides:
        scaled(found_inf=1.0)(side)
        side.optimizer.step()
    assert_equal([param.detach() for param in pair.ours.params], before)
    for held in pair.ours.optimizer.state.values():
        assert not any(tensor.any() for tensor in held.values())
    if name != "SGD":  # whose momentum torch leaves to whatever the memory held
        pair.compare()


@ways
def test_only_a_fused_optimizer_says_that_it_unscales(name: str, way: Options) -> None:
    pair = Pair(name, **way)
    attribute = "_step_supports_amp_scaling"
    ours, theirs = (getattr(side.optimizer, attribute, None) for side in pair.sides)
    assert ours == theirs == (True if way.get("fused") else None)


# The step count and other state tensors.


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


@ways
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


def test_sgds_momentum_lies_in_memory_as_its_first_gradient_did() -> None:
    specs = (TensorSpec((4, 3), gradient_layout="transposed"),)
    pair = Pair("SGD", specs, momentum=0.9)
    pair.step(2)
    (held,) = pair.ours.optimizer.state.values()
    assert held["momentum_buffer"].stride() == (1, 4) != pair.ours.params[0].stride()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_has_state_only_with_momentum_and_never_counts(momentum: float) -> None:
    pair = Pair("SGD", momentum=momentum)
    pair.step(2)
    keys = [list(held) for held in pair.ours.optimizer.state.values()]
    assert keys == ([["momentum_buffer"]] * 4 if momentum else [])


@names
def test_looking_a_parameter_up_in_the_state_makes_an_entry_as_in_torch(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    assert pair.both(lambda side: side.optimizer.state[side.params[0]]) == {}
    pair.step(2)


# What people change by hand between two steps.


def transposed_state(side: Side) -> None:
    """Lay the state of the second parameter out in another way."""
    for key, value in side.optimizer.state[side.params[1]].items():
        if value.dim() == 2:
            side.optimizer.state[side.params[1]][key] = value.t().contiguous().t()


CHANGES: dict[str, Callable[[Side], Any]] = {
    "lr of a group": in_second_group(lr=0.5),
    "a tensor lr": in_second_group(lr=torch.tensor(0.5)),
    "lr 0": in_second_group(lr=0.0),
    "weight_decay": in_second_group(weight_decay=0.25),
    "maximize": in_second_group(maximize=True),
    "another implementation": in_second_group(foreach=True, fused=None),
    "one parameter less": lambda side: side.optimizer.state.pop(
        side.optimizer.param_groups[0]["params"].pop()
    ),
    "another order": lambda side: side.optimizer.param_groups[0]["params"].reverse(),
    "one group less": lambda side: [
        side.optimizer.state.pop(param) for param in side.optimizer.param_groups.pop()["params"]
    ],
    "a copied group": lambda side: side.optimizer.param_groups.append(
        dict(side.optimizer.param_groups.pop())
    ),
    "no state": lambda side: side.optimizer.state.clear(),
    "no state of one parameter": lambda side: side.optimizer.state.pop(side.params[1]),
    "state filled": lambda side: [
        value.fill_(0.5) for key, value in side.optimizer.state[side.params[1]].items()
    ],
    "state replaced": lambda side: side.optimizer.state[side.params[1]].update(
        {key: value * 0 + 2 for key, value in side.optimizer.state[side.params[1]].items()}
    ),
    "state laid out in another way": transposed_state,
    "new data": lambda side: setattr(side.params[1], "data", torch.full((4, 3), 0.5)),
    "new data in another layout": lambda side: setattr(
        side.params[1], "data", torch.full((3, 4), 0.5).t()
    ),
    "values": lambda side: side.params[1].detach().mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
@ways
def test_a_change_between_two_steps_is_seen(name: str, way: Options, change: str) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(3)
    for side in pair.sides:
        CHANGES[change](side)
    pair.compare()
    for _ in range(2):
        pair.set_gradients()
        ours, theirs = (raised(partial(step, side)) for side in pair.sides)
        assert ours == theirs
        if ours is not None:
            return
        pair.compare()


# Profiles.


@ways
def test_a_step_shows_in_a_profile_as_torchs_does(name: str, way: Options) -> None:
    pair = Pair(name, **way)
    pair.set_gradients()
    ours, theirs = (profiled(side.optimizer.step) for side in pair.sides)
    assert ours == theirs == [f"Optimizer.step#{name}.step"]
