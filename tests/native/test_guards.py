"""Whatever changes between two steps is noticed: no address that is used is outdated."""

import itertools
import math
from collections import UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor
from twins import Run, Twins, names, needs_kernel, starts

import optimlab
from optimlab.lab.parity import compare_tensors
from optimlab.native.launch import DTYPES

pytestmark = needs_kernel

Change = Callable[[Run], object]


def with_state(param: int, change: Callable[[Tensor], Tensor]) -> Change:
    """Change a parameter's memory and its state, and drop its gradient."""

    def changed(run: Run) -> None:
        run.params[param].data = change(run.params[param].data)
        run.params[param].grad = None
        change_state(run, param, change)

    return changed


def change_state(run: Run, param: int, change: Callable[[Tensor], Tensor]) -> None:
    for name, value in list(run.state(param).items()):
        run.state(param)[name] = value if name == "step" else change(value)


def each_count(run: Run, change: Callable[[Tensor], Tensor]) -> None:
    """Put another step count in the place of each."""
    for place in range(len(run.params)):
        if "step" in run.state(place):
            run.state(place)["step"] = change(run.state(place)["step"])


def each_param(change: Callable[[Run, Tensor], object]) -> Change:
    return lambda run: [change(run, param) for param in run.params]


def set_data(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Give a tensor other memory."""

    def changed(tensor: Tensor) -> None:
        tensor.data = change(tensor.data)

    return changed


def each_state(change: Callable[[Tensor], object], *, names: str = "") -> Change:
    """Change every state tensor, or those of a name."""

    def changed(run: Run) -> None:
        for place in range(len(run.params)):
            for name, value in list(run.state(place).items()):
                if not names or name == names:
                    change(value)

    return changed


def another_dict_of_state(kind: Callable[[dict[str, Any]], Any]) -> Change:
    return each_param(lambda run, p: run.optimizer.state.update({p: kind(run.optimizer.state[p])}))


def another_parameter(run: Run) -> None:
    run.params[2] = torch.full((7,), 0.5, requires_grad=True)
    run.group["params"][2] = run.params[2]


def a_further_parameter(run: Run) -> Tensor:
    run.params.append(torch.full((9,), 0.5, requires_grad=True))
    return run.params[-1]


def other_state(run: Run) -> None:
    for place in range(len(run.params)):
        change_state(run, place, lambda t: t * 2)


def proxies_of_dicts(run: Run) -> None:
    if "SGD" not in repr(run.optimizer):  # torch's writes into them at every step
        another_dict_of_state(lambda held: MappingProxyType(dict(held)))(run)


def fused(run: Run) -> None:
    if isinstance(run.optimizer, (optimlab.Adam, torch.optim.Adam)):
        run.group["fused"] = True


def betas_in_a_list(run: Run) -> None:
    if "betas" in run.group:
        run.group["betas"] = [0.9, 0.99]


CHANGES: dict[str, Change] = {
    "other memory": each_param(lambda run, param: set_data(Tensor.clone)(param)),
    "the same address, fewer elements": with_state(3, lambda t: t[:20]),
    "the same address, other strides": with_state(4, Tensor.t),
    "only the parameter's strides": lambda run: set_data(Tensor.t)(run.params[-1]),
    "only the state's strides": lambda run: change_state(run, -1, Tensor.t),
    "another parameter": another_parameter,
    "another dict": lambda run: run.optimizer.param_groups.__setitem__(
        0, {**run.optimizer.param_groups[0], "lr": 0.75}
    ),
    "fused": fused,
    "other state": other_state,
    "state in other memory": each_state(set_data(lambda t: t + 1)),
    "other step counts": each_state(set_data(lambda t: t + 2), names="step"),
    "other dicts": another_dict_of_state(lambda held: {n: v.clone() for n, v in held.items()}),
    "edited state": lambda run: [value.add_(3) for value in run.state(2).values()],
    "no state": lambda run: run.optimizer.state.pop(run.params[2]),
    "a checkpoint": lambda run: run.optimizer.load_state_dict(run.optimizer.state_dict()),
    "a negated parameter": lambda run: set_data(torch._neg_view)(run.params[3]),
    "negated state": each_state(lambda t: t.dim() and set_data(torch._neg_view)(t)),
    "whole step counts": lambda run: each_count(run, lambda t: torch.tensor(int(t))),
    "a fraction of a step": each_state(lambda t: t.fill_(0.1), names="step"),
    "the last step that can be counted": each_state(lambda t: t.fill_(2.0**24 - 1), names="step"),
    "a shared count": lambda run: each_count(run, lambda _: run.state(2)["step"]),
    "hyperparameters": lambda run: run.group.update(lr=0.25, weight_decay=0.5),
    "a tensor lr": lambda run: run.group.update(lr=torch.tensor(0.125)),
    "lists": lambda run: run.group.update(foreach=True),
    "maximize": lambda run: run.group.update(maximize=not run.group["maximize"]),
    "another order": lambda run: run.group["params"].reverse(),
    "fewer": lambda run: run.group["params"].pop(2),
    "more": lambda run: run.group["params"].append(a_further_parameter(run)),
    "another list": lambda run: run.group.update(params=run.params[:3]),
    "a tuple": lambda run: run.group.update(params=tuple(run.params)),
    "groups in a tuple": lambda run: setattr(
        run.optimizer, "param_groups", tuple(run.optimizer.param_groups)
    ),
    "state in another kind of dict": lambda run: setattr(
        run.optimizer, "state", UserDict(run.optimizer.state)
    ),
    "dicts of another kind": another_dict_of_state(UserDict),
    "proxies of dicts": proxies_of_dicts,
    "betas in a list": betas_in_a_list,
    "another group": lambda run: run.optimizer.add_param_group(
        {"params": a_further_parameter(run), "lr": 0.5}
    ),
    "away and back": each_param(lambda run, param: set_data(lambda t: t.double().float())(param)),
}


def set_lr(lr: Any) -> Change:
    return lambda run: run.group.update(lr=lr)


@names
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_between_two_steps_is_noticed(name: str, change: Change) -> None:
    twins = Twins(name)
    twins.step(3)
    assert twins.ours.is_cached
    twins.both(change)
    twins.step(3)


@pytest.mark.parametrize("changes", list(itertools.combinations(list(CHANGES)[:5], 2)))
@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_two_changes_at_once_are_noticed(name: str, changes: tuple[str, str]) -> None:
    twins = Twins(name)
    twins.step(2)
    for change in changes:
        twins.both(CHANGES[change])
    twins.step(2)


def test_hyperparameters_that_change_by_themselves_are_noticed() -> None:
    twins = Twins("Adam")
    twins.both(betas_in_a_list)
    twins.step(4)
    twins.both(lambda run: run.group["betas"].__setitem__(0, 0.5))
    twins.step(3)


@names
def test_an_entry_that_takes_the_place_of_another_is_no_error(name: str) -> None:
    twins = Twins(name)
    twins.both(lambda run: run.group.update(mine=0.5))
    twins.step(4)
    twins.both(lambda run: run.group.pop("mine"))
    twins.both(lambda run: run.group.update(other=0.5))
    twins.step(3)


@names
@pytest.mark.parametrize(
    "cut", [lambda t: t[:2], lambda t: t[:, :2], lambda t: t[0], lambda t: t[:2, :2]]
)
def test_a_tensor_cut_down_in_its_memory_leaves_the_rest_alone(
    name: str, cut: Callable[[Tensor], Tensor]
) -> None:
    twins = Twins(name)
    twins.step(3)

    def cut_down(run: Run) -> None:
        run.params[-1].grad = None
        cut_ones = [run.params[-1], *(value for value in run.state(-1).values() if value.dim())]
        run.held = [tensor.data for tensor in cut_ones]
        for tensor in cut_ones:
            tensor.data = cut(tensor.data)

    twins.both(cut_down)
    twins.step(3)
    for ours, theirs in zip(twins.ours.held, twins.theirs.held, strict=True):
        assert compare_tensors(ours, theirs) is None


def viewed_as(*shape: int) -> Change:
    def changed(run: Run) -> None:
        run.params[4].data = run.params[4].data.view(shape)
        run.params[4].grad = torch.ones_like(run.params[4], requires_grad=False)

    return changed


def gradient(place: int, change: Callable[[Tensor], Tensor]) -> Change:
    def changed(run: Run) -> None:
        grad: Any = run.params[place].grad
        grad.data = change(grad.data)

    return changed


REFUSABLE: dict[str, Change] = {
    "shape": viewed_as(3, 5),
    "dimensions": viewed_as(15),
    "precision": gradient(3, lambda t: t.double() if t.dtype == torch.float32 else t.float()),
    "a complex gradient": gradient(3, lambda t: t.to(torch.complex64)),
    "a gradient's shape": gradient(4, lambda t: t.view(3, 5)),
    "a scale": lambda run: setattr(run.optimizer, "grad_scale", torch.tensor(2.0)),
    "an overflow": lambda run: setattr(run.optimizer, "found_inf", torch.tensor(1.0)),
    "no flag": lambda run: run.group.pop("foreach"),
    "counts of several elements": each_state(set_data(lambda t: t.expand(3)), names="step"),
    **{f"a rate of {lr}": set_lr(lr) for lr in (1, True, 1e39, math.inf, math.nan)},
}


@names
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("change", REFUSABLE.values(), ids=REFUSABLE)
def test_what_torch_refuses_between_two_steps_is_refused(
    name: str, dtype: torch.dtype, change: Change
) -> None:
    twins = Twins(name, starts(dtype))
    twins.step(3)
    assert twins.ours.is_cached
    twins.both(change)
    errors = []
    for run in (twins.ours, twins.theirs):
        try:
            run.optimizer.step()
            errors.append("")
        except Exception as error:  # noqa: BLE001 - which operation meets it first may vary
            errors.append(type(error).__name__)
    assert errors[0] == errors[1]
    if not errors[0]:
        twins.compare()


def test_a_rule_that_begins_to_keep_state_is_noticed() -> None:
    twins = Twins("SGD", momentum=0.0, nesterov=False)
    twins.step(2)
    twins.both(lambda run: run.group.update(momentum=0.9))
    twins.step(3)


@names
def test_gradients_come_and_go(name: str) -> None:
    twins = Twins(name)
    for absent in ((), (2,), (2, 4), (), tuple(range(10)), (0, 8)):
        twins.step()
        for place in absent:
            twins.ours.params[place].grad = twins.theirs.params[place].grad = None
        twins.step(fresh=False)


@names
def test_a_gradient_may_lie_otherwise_than_its_parameter(name: str) -> None:
    twins = Twins(name)
    twins.step(2)

    def turned(run: Run) -> None:
        for param in run.params:
            if param.dim() == 2:
                param.grad = torch.randn(tuple(param.t().shape), generator=run.generator).t()

    twins.both(turned)
    twins.step(fresh=False)
    twins.step(2)
    assert twins.ours.is_cached


@names
def test_a_gradient_that_is_a_lazy_negation_is_negated(name: str) -> None:
    twins = Twins(name)
    twins.step(2)

    def negated(run: Run) -> None:
        for param in run.params:
            values = normal_like(param, run.generator)
            param.grad = torch._neg_view(values)
            assert param.grad.is_neg()

    twins.both(negated)
    twins.step(fresh=False)


def normal_like(param: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(param, requires_grad=False).normal_(generator=generator)


@names
def test_a_gradient_in_the_memory_of_a_parameter_takes_the_plain_path(name: str) -> None:
    twins = Twins(name)
    twins.step(2)
    assert twins.ours.is_cached
    twins.both(lambda run: setattr(run.params[2], "grad", run.params[3].data[10:17]))
    twins.step(fresh=False)
    assert not twins.ours.is_cached


@names
def test_a_step_count_that_differs_far_behind_is_noticed(name: str) -> None:
    twins = Twins(name, [torch.full((3,), float(place)) for place in range(300)])
    twins.step(3)
    twins.both(lambda run: "step" in run.state(250) and run.state(250)["step"].add_(7))
    twins.step(2)


def test_denormals_that_begin_to_be_flushed_are_noticed() -> None:
    twins = Twins("Adam", weight_decay=0.0)
    twins.step(3)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        for run in (twins.ours, twins.theirs):
            for param in run.params:
                param.grad = torch.full_like(param, 1e-21)  # its square is denormal
        twins.step(fresh=False)
    finally:
        torch.set_flush_denormal(False)


class Doubled(Tensor):
    """A tensor that adds twice."""

    def add_(self, other: Any, *, alpha: Any = 1) -> Any:
        return super().add_(other, alpha=2 * alpha)

    def mul_(self, other: Any) -> Any:
        return super().mul_(2 * other)


@pytest.mark.parametrize("of_state", [False, True], ids=["parameter", "state"])
def test_a_tensor_that_is_given_another_class_is_noticed(of_state: bool) -> None:
    twins = Twins("SGD", [torch.ones(5)], nesterov=False, weight_decay=0)
    twins.step(5)

    def changed(run: Run) -> None:
        tensor = run.state(0)["momentum_buffer"] if of_state else run.params[0]
        tensor.__class__ = Doubled

    twins.both(changed)
    for run in (twins.ours, twins.theirs):
        for _ in range(4):
            run.params[0].grad = torch.full((5,), 0.5)
            run.optimizer.step()
    ends = [[value.tolist() for _, value in r.tensors()] for r in (twins.ours, twins.theirs)]
    assert ends[0] == ends[1]
