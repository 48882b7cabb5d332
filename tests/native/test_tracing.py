"""A rule that is traced once gives the numbers that reading it at every step gives."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor
from twins import Run, Twins, names, needs_kernel

import optimlab
from optimlab.core.values import T
from optimlab.lab.parity import compare_tensors
from optimlab.native.bytecode import INSTRUCTION_SIZE
from optimlab.native.tracing import specialise
from optimlab.rule import Count, StateSpec, pure

pytestmark = needs_kernel

Number = Callable[[Any, dict[str, Any]], Any]
"""Computes the number by which a rule scales gradients from step count and hyperparameters."""


def trained(
    number: Number, declare: Callable[[Any], Any], steps: int = 12
) -> tuple[Tensor, set[int], Any]:
    """Train with a rule that is declared pure, or not; return in which steps it was run, too."""
    ran: set[int] = set()

    class Rule(optimlab.Rule):
        state_spec = StateSpec(Count())

        @declare
        def update(
            self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
        ) -> None:
            ran.add(int(getattr(step, "value", step)))  # type: ignore[arg-type]
            param.add_(grad, alpha=number(step, group))

    param = torch.linspace(-1, 1, 9).requires_grad_()
    optimizer = Rule([param], {"lr": 0.5, "beta": 0.75, "shift": 0.0, "table": (1.0, 0.25)})
    for step in range(steps):
        param.grad = torch.cos(param.detach() * step)
        optimizer.param_groups[0]["lr"] = 0.5 / (step + 1)
        if step == 7:
            optimizer.param_groups[0]["shift"] = 0.125
        optimizer.step()
    return param.detach(), ran, optimizer


def undeclared(rule: Any) -> Any:
    """Leave a rule as it is: it is read at every step."""
    return rule


COMPUTED: dict[str, Number] = {
    "a hyperparameter": lambda step, group: -group["lr"],
    "a power": lambda step, group: -group["lr"] / (1 - group["beta"] ** step),
    "a root": lambda step, group: -((1 - group["beta"] ** step) ** 0.5),
    "a negative base": lambda step, group: -(2.0 - (-0.5) * group["lr"] - -0.25 * step),
    "both ways round": lambda step, group: (
        -(group["lr"] * 2 + 1 / step - (3 - step) / (2 * group["lr"]) ** 2) * 1e-3
    ),
    "a constant": lambda step, group: -0.125,
    "another constant": lambda step, group: -0.125 if isinstance(step, float) else 0.5,
    "a chosen one": lambda step, group: -group["lr"] if group["shift"] == 0 else -2 * group["lr"],
    "one out of a table": lambda step, group: -group["lr"] * group["table"][1],
    "a long sum": lambda step, group: -1e-3 * sum(group["beta"] ** k for k in range(250)),
    "Newton's root": lambda step, group: -0.1 * newtons_root(group["lr"] + 0 * step),
}
CHOOSING: dict[str, Number] = {
    "a root of math": lambda step, group: -0.1 * math.sqrt(step),
    "a root of NumPy": lambda step, group: float(-0.1 * np.sqrt(float(step))),
    "warming up": lambda step, group: -0.1 * min(1.0, step / 5),
    "warming up with a root": lambda step, group: -0.1 * min(1.0, math.sqrt(step) / 3),
    "every other step": lambda step, group: -0.1 * (step % 2),
    "from some step on": lambda step, group: -0.1 if step > 5 else -0.2,
    "unless it is zero": lambda step, group: -0.1 * (step or 3),
    "whole halves": lambda step, group: -0.1 * (int(step) // 2),
    "an index": lambda step, group: -0.1 * [1, 2, 3][round(step) % 3],
    "a key": lambda step, group: -0.1 * {1.0: 3, 2.0: 4}.get(step, 5),
    "a text": lambda step, group: -0.1 * len(f"{step:.0f}"),
    "a method": lambda step, group: -0.1 * float(step.is_integer()) * step,
    "an absolute": lambda step, group: -0.1 * abs(step - 4),
    "what is caught": lambda step, group: -0.1 * caught(step),
}


def newtons_root(x: Any) -> Any:
    """Use each intermediate value three times, forty times over."""
    root = x
    for _ in range(40):
        root = root - (root * root - x) / (2.0 * root)
    return root


def caught(step: Any) -> Any:
    """Swallow whatever goes wrong on the way."""
    try:
        return math.floor(step / 2)
    except Exception:  # noqa: BLE001 - that is the point
        return 7.0


@pytest.mark.parametrize("number", COMPUTED.values(), ids=COMPUTED)
def test_what_is_computed_gives_the_bits_of_what_the_rule_gives(number: Number) -> None:
    computed, ran, _ = trained(number, pure)
    expected, always, _ = trained(number, undeclared)
    assert compare_tensors(computed, expected) is None
    assert always == set(range(1, 13))
    assert ran <= {1, 2, 8}  # the first ones, and where a hyperparameter chooses another way


@pytest.mark.parametrize("number", CHOOSING.values(), ids=CHOOSING)
def test_what_a_step_count_chooses_is_right_by_its_guards(number: Number) -> None:
    assert compare_tensors(trained(number, pure)[0], trained(number, undeclared)[0]) is None


def test_a_rule_that_branches_on_the_step_count_is_traced_once_for_each_branch() -> None:
    number: Number = lambda step, group: -group["lr"] / step if step > 5 else -group["lr"]  # noqa: E731
    assert trained(number, pure)[1] == {1, 2, 6}
    every_other: Number = lambda step, group: -0.1 if step % 2 == 0 else -0.2  # noqa: E731
    assert trained(every_other, pure)[1] == {1, 2, 3}


def test_a_rule_that_goes_another_way_at_every_step_is_not_traced_for_ever() -> None:
    _, _, optimizer = trained(lambda step, group: -0.1 * math.sqrt(step), pure, steps=30)
    (group,) = optimizer._cached_step.groups
    assert len(group.traces) <= 8


@names
def test_our_rules_stay_traced_while_every_hyperparameter_changes(name: str) -> None:
    twins = Twins(name, [torch.linspace(-1, 1, 9)], weight_decay=0.25)
    twins.both(lambda run: run.params.append(torch.ones(3, requires_grad=True)))
    twins.both(lambda run: run.optimizer.add_param_group({"params": run.params[1], "lr": 0.5}))
    once: dict[int, dict[str, Any]] = {
        12: {"eps": 1e-3},
        17: {"betas": (0.5, 0.75)},
        19: {"momentum": 0.5},
        23: {"maximize": True, "eps": 0.5},
    }
    for step in range(30):
        changes: dict[str, Any] = {"lr": 1.0 / (step + 2), **once.get(step, {})}
        if step % 5 == 0:
            changes["weight_decay"] = 0.0 if step % 10 else 0.5

        def change(run: Run, step: int = step, changes: dict[str, Any] = changes) -> None:
            group = run.optimizer.param_groups[step % 2]
            group.update({name: value for name, value in changes.items() if name in group})

        twins.both(change)
        twins.step()
    assert all(each.traces for each in twins.ours.optimizer._cached_step.groups)


def test_betas_that_change_at_every_step_are_computed_with() -> None:
    twins = Twins("Adam", [torch.linspace(-1, 1, 3)])
    for step in range(30):
        betas = [0.5 + step / 100, 0.9]
        for run in (twins.ours, twins.theirs):
            run.group["betas"] = tuple(betas) if step != 25 else list(betas)
        twins.step()
        if step == 24:
            (group,) = twins.ours.optimizer._cached_step.groups
            assert len(group.traces) == 1


def test_a_rate_that_is_a_number_of_numpy_is_read_at_every_step() -> None:
    twins = Twins("SGD", [torch.ones(3)])
    for step in range(6):
        for run in (twins.ours, twins.theirs):
            run.group["lr"] = np.float64(0.5) / (step + 1)
        twins.step()
        assert twins.ours.is_cached or not step


def test_a_rule_that_is_put_in_the_place_of_a_pure_one_is_read() -> None:
    param = torch.zeros(3, requires_grad=True)
    optimizer: Any = optimlab.SGD([param], lr=1.0)
    for step in range(5):
        param.grad = torch.ones(3)
        if step == 3:
            optimizer.update = lambda param, grad, state, step, group: param.add_(grad, alpha=10)
        optimizer.step()
    assert param.tolist() == [17.0] * 3


def changed(rule: Any, *changes: tuple[str, Any]) -> Tensor:
    """Train with a rule and change hyperparameters on the way."""
    param = torch.linspace(-1, 1, 5).requires_grad_()
    optimizer = type("Rule", (optimlab.Rule,), {"update": rule})(
        [param], {"lr": 0.5, "decay": 0.0, "scale": 0.5}
    )
    for change in (None, *changes):
        if change:
            optimizer.param_groups[0][change[0]] = change[1]
        for step in range(4):
            param.grad = torch.cos(param.detach() * step)
            optimizer.step()
    return param.detach()


def of_a_type(self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    decay = group["decay"]
    if type(decay) is float and decay != 0:  # a symbolic scalar is of another type
        grad = grad.add(param, alpha=decay)
    param.add_(grad, alpha=-group["lr"])


def of_a_class(self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    param.add_(grad, alpha=-group["lr"] if isinstance(group["decay"], float) else -0.1)


def of_what_is_there(self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    param.add_(grad, alpha=-group.get("late", 0.1))


def unless_it_divides_by_zero(
    self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any
) -> None:
    rate = group["lr"]
    try:
        1 / group["scale"]
    except ZeroDivisionError:
        rate = 1.0
    param.add_(grad, alpha=-rate)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (of_a_type, [("decay", 0.25), ("decay", 0.0)]),
        (of_a_class, [("decay", None), ("decay", 0.0)]),
        (of_what_is_there, [("late", 0.5), ("late", 0.25)]),
        (unless_it_divides_by_zero, [("scale", 0.0), ("scale", 0.5)]),
    ],
    ids=["type", "class", "presence", "division"],
)
def test_what_a_rule_decides_otherwise_is_noticed(
    rule: Callable[..., None], changes: list[tuple[str, float]]
) -> None:
    expected = changed(rule, *changes)
    assert compare_tensors(changed(pure(rule), *changes), expected) is None


def test_a_rule_that_wraps_a_pure_one_is_not_pure() -> None:
    @functools.wraps(optimlab.SGD.update)
    def scaled(
        self: Any, param: Any, grad: Any, state: Any, step: Any, group: dict[str, Any]
    ) -> None:
        lr = group["lr"] * self.factor
        optimlab.SGD.update(self, param, grad, state, step, {**group, "lr": lr})

    Scaled: Any = type("Scaled", (optimlab.SGD,), {"update": scaled})  # noqa: N806
    ours, theirs = (torch.ones(5, requires_grad=True) for _ in range(2))
    mine, other = Scaled([ours], lr=0.5), torch.optim.SGD([theirs], lr=0.5)
    for step in range(6):
        mine.factor = 1.0 / (step + 1)
        other.param_groups[0]["lr"] = 0.5 * mine.factor
        ours.grad = theirs.grad = torch.ones(5)
        mine.step()
        other.step()
    assert compare_tensors(ours.detach(), theirs.detach()) is None


def test_a_trace_that_does_not_agree_with_what_was_read_is_not_kept() -> None:
    run = Twins("SGD", [torch.ones(2)]).ours
    run.step(3)
    (launch,) = run.optimizer._cached_step.launches
    assert specialise(run.optimizer, launch) is not None
    launch.code[INSTRUCTION_SIZE] = -0.25
    assert specialise(run.optimizer, launch) is None
