"""The one step: closures, gradients, what is refused, and what is changed between two steps.

Where torch refuses once something has changed, optimlab refuses before: see `docs/decisions.md`.
"""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from actions import (
    FOREACH,
    FUSED,
    LIBRARIES,
    Change,
    asked,
    in_group,
    same_outcome,
    scaled,
    step,
    taken,
)
from beside import (
    NAMES,
    SMALL,
    STATEFUL,
    Options,
    Pair,
    Side,
    assert_equal,
    names,
    profiled,
    raised,
    ways,
)
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

import optimlab
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec

# What there is besides torch.

PUBLIC = {
    *("check", "fused_update", "program", "state", "state_spec", "update"),
    *("complex_as_real", "keys", "scalars", "sparse_gradients", "state_dict_defaults"),
}
"""What optimizers of this package have besides torch's names."""


@names
def test_public_names_besides_torchs_are_few_and_documented(name: str) -> None:
    ours, theirs = (set(dir(getattr(library, name))) for library in LIBRARIES)
    added = {each for each in ours - theirs if not each.startswith("_")}
    assert added == PUBLIC
    documented = str(optimlab.Rule.__doc__)
    for each in added:
        declared = f"        {each}:" in documented
        assert declared or getattr(optimlab.Rule, each).__doc__


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
@asked
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


@asked
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


# Steps that are refused.


def sparse_gradient(side: Side) -> None:
    """Give the last parameter a sparse gradient."""
    shape = side.params[-1].shape
    side.params[-1].grad = torch.ones(shape).to_sparse()


def without_state(name: str) -> Change:
    """Take an entry out of the last parameter's state."""

    def take(side: Side) -> None:
        side.optimizer.state[side.params[-1]].pop(name, None)
        side.optimizer.state[side.params[-1]]["other"] = torch.ones(2)

    return take


def made_complex(index: int) -> Change:
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
Spoilt: TypeAlias = dict[str, tuple[Options, Change]]
COUNTED: Spoilt = {
    "lists that are to be differentiated": ({}, in_group(foreach=True, differentiable=True)),
    "a sparse gradient": ({}, sparse_gradient),
    "a sparse gradient, foreach": ({"foreach": True}, sparse_gradient),
    "capturable on CPU": ({}, in_group(capturable=True)),
    "capturable foreach on CPU": ({}, in_group(capturable=True, foreach=True)),
    "no step count": ({}, without_state("step")),
}
SCALED: Spoilt = {
    "grad_scale without fused": ({}, scaled(grad_scale=2.0)),
    "found_inf without fused": ({}, scaled(found_inf=0.0)),
    "both without fused, foreach": ({"foreach": True}, scaled(grad_scale=2.0, found_inf=0.0)),
}
ADAM: Spoilt = {
    "a complex parameter with fused": ({"fused": True}, made_complex(-1)),
    "tensor lr on lists": ({"foreach": True}, in_group(lr=TENSOR)),
    "tensor betas on lists": ({"foreach": True}, in_group(betas=BETAS)),
    "amsgrad from now on": ({}, in_group(amsgrad=True)),
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
        "centered from now on": ({}, in_group(centered=True)),
        "momentum from now on": ({}, in_group(momentum=0.9)),
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
    name: str, options: Options, spoil: Change, steps_before: int
) -> None:
    pair = Pair(name, SMALL, **options)
    pair.step(steps_before)
    pair.set_gradients()
    for side in pair.sides:
        spoil(side)
    pair.refused(step)


@pytest.mark.parametrize("name", FUSED)
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


# Entries of groups that are missing, or too many.


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
    for missing in combinations(keys, 2):
        pair = Pair(name, SMALL, **STATEFUL[name])
        pair.step(steps_before)
        pair.set_gradients()
        for side in pair.sides:
            without(*missing)(side)
            for param in side.params if not with_gradients else ():
                param.grad = None
        same_outcome(pair)


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


# What people change by hand between two steps.


def transposed_state(side: Side) -> None:
    """Lay the state of the second parameter out in another way."""
    for key, value in side.optimizer.state[side.params[1]].items():
        if value.dim() == 2:
            side.optimizer.state[side.params[1]][key] = value.t().contiguous().t()


def load_both(side: Side) -> None:
    """Load a checkpoint whose last group asks for foreach and fused."""
    saved = side.optimizer.state_dict()
    saved["param_groups"][-1].update(foreach=True, fused=True)
    side.optimizer.load_state_dict(saved)


CHANGES: dict[str, Callable[[Side], Any]] = {
    "lr of a group": in_group(lr=0.5),
    "a tensor lr": in_group(lr=torch.tensor(0.5)),
    "lr 0": in_group(lr=0.0),
    "weight_decay": in_group(weight_decay=0.25),
    "maximize": in_group(maximize=True),
    "another implementation": in_group(foreach=True, fused=None),
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
    "foreach and fused": in_group(foreach=True, fused=True),
    "foreach and fused, by loading": load_both,
    "an unknown default": lambda side: side.optimizer.defaults.update(mine=1),
    "an unknown entry": in_group(color="red"),
    "an unknown entry of state": lambda side: side.optimizer.state[side.params[0]].update(
        seen=[torch.zeros(2), "text"]
    ),
}
BOTH = ("foreach and fused", "foreach and fused, by loading")


@pytest.mark.parametrize(
    ("change", "steps_before"),
    [*((change, 3) for change in CHANGES), *((both, 0) for both in BOTH)],
)
@asked
def test_a_change_between_two_steps_is_seen(
    name: str, way: Options, change: str, steps_before: int
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    pair.step(steps_before)
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


@names
def test_a_hyperparameter_is_not_judged_where_no_parameter_has_a_gradient(name: str) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name])
    pair.step(3)
    for side in pair.sides:
        for key in ("momentum", "amsgrad"):
            group = side.optimizer.param_groups[1]
            group.update({key: torch.ones(2)} if key in group else {})
    for _ in range(3):
        pair.set_gradients()
        for side in pair.sides:
            for param in side.optimizer.param_groups[1]["params"]:
                param.grad = None
        ours, theirs = (raised(partial(step, side)) for side in pair.sides)
        assert ours == theirs
        if ours is not None:
            return
    pair.compare()


# Arguments of `step`, hooks that change them, and profiles.

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


def test_the_step_of_an_own_rule_is_named_after_its_class() -> None:
    assert Mine.step.__qualname__ == "Mine.step"
    assert Mine.step.__module__ == __name__


@ways
def test_a_step_shows_in_a_profile_as_torchs_does(name: str, way: Options) -> None:
    pair = Pair(name, **way)
    pair.set_gradients()
    ours, theirs = (profiled(side.optimizer.step) for side in pair.sides)
    assert ours == theirs == [f"Optimizer.step#{name}.step"]


def test_no_warning_is_given_without_a_reason() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            Pair(name).step(2)
