"""A rule that is read once gives the numbers that reading it at every step gives."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

import optimlab
from optimlab.native import self_check
from optimlab.native.bytecode import NUMBERS
from optimlab.native.formulas import learn
from optimlab.native.quantity import Script, UndeterminedError
from optimlab.optimizer import pure
from optimlab.parity import compare_tensors
from optimlab.values import T

pytestmark = pytest.mark.skipif(
    self_check.capabilities().kernel is None, reason=self_check.capabilities().reason
)

Number = Callable[[Any, dict[str, Any]], Any]
"""Computes the number by which a rule scales gradients from step count and hyperparameters."""


def run(number: Number, declare: Callable[[Any], Any], steps: int = 12) -> tuple[Tensor, Any]:
    """Train with a rule that is declared pure, or not."""

    class Rule(optimlab.Optimizer):
        counts_steps = True

        @declare
        def update(
            self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
        ) -> None:
            param.add_(grad, alpha=number(step, group))

    param = torch.linspace(-1, 1, 9).requires_grad_()
    optimizer = Rule([param], {"lr": 0.5, "beta": 0.75, "shift": 0.0, "table": (1.0, 0.25)})
    for step in range(steps):
        param.grad = torch.cos(param.detach() * step)
        optimizer.param_groups[0]["lr"] = 0.5 / (step + 1)
        if step == 7:
            optimizer.param_groups[0]["shift"] = 0.125
        optimizer.step()
    return param.detach(), optimizer


def unread(rule: Any) -> Any:
    """Leave a rule as it is: it is read at every step."""
    return rule


KEPT: dict[str, Number] = {
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
READ: dict[str, Number] = {
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


@pytest.mark.parametrize("number", KEPT.values(), ids=KEPT)
def test_what_is_computed_gives_the_bits_of_what_is_read(number: Number) -> None:
    computed, optimizer = run(number, pure)
    assert optimizer._cached_step.groups[0].formulas is not None
    expected, other = run(number, unread)
    assert other._cached_step.groups[0].formulas is None
    assert compare_tensors(computed, expected) is None


@pytest.mark.parametrize("number", READ.values(), ids=READ)
def test_what_a_step_count_chooses_is_read_at_every_step(number: Number) -> None:
    computed, optimizer = run(number, pure)
    assert optimizer._cached_step.groups[0].formulas is None
    assert compare_tensors(computed, run(number, unread)[0]) is None


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_our_rules_are_kept_while_every_hyperparameter_changes(name: str) -> None:
    ends = []
    for library in (optimlab, torch.optim):
        params = [torch.linspace(-1, 1, 9).requires_grad_(), torch.ones(3, requires_grad=True)]
        optimizer = getattr(library, name)(
            [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], weight_decay=0.25
        )
        for step in range(30):
            group = optimizer.param_groups[step % 2]
            group["lr"] = 1.0 / (step + 2)
            if step % 5 == 0:
                group["weight_decay"] = 0.0 if step % 10 else 0.5
            if step == 12 and "eps" in group:
                group["eps"] = 1e-3
            if step == 17 and "betas" in group:
                group["betas"] = (0.5, 0.75)
            if step == 19 and "momentum" in group:
                group["momentum"] = 0.5
                if name == "RMSprop":  # which makes its state at the first step only
                    group["momentum"] = 0
            for param in params:
                param.grad = torch.sin(param.detach() * step)
            optimizer.step()
        ends.append([param.detach() for param in params])
        if library is optimlab:
            assert all(each.formulas is not None for each in optimizer._cached_step.groups)
    for ours, theirs in zip(*ends, strict=True):
        assert compare_tensors(ours, theirs) is None


def test_hyperparameters_that_change_at_every_step_are_not_learned_for_ever() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optimlab.Adam([param])
    for step in range(30):
        optimizer.param_groups[0]["betas"] = (0.5 + step / 100, 0.9)
        param.grad = torch.ones(3)
        optimizer.step()
    kept = optimizer.__dict__["_cached_step"].groups[0]
    assert kept.formulas is None
    assert kept.lessons < 10


@pytest.mark.parametrize("lr", [1, True, np.float64(0.1), math.inf, 1e39, math.nan])
def test_a_rate_of_another_kind_ends_as_with_torch(lr: Any) -> None:
    ends = []
    for library in (optimlab, torch.optim):
        param = torch.ones(3, requires_grad=True)
        optimizer = library.SGD([param], lr=0.1)
        error = None
        for step in range(6):
            param.grad = torch.full((3,), 0.5)
            optimizer.param_groups[0]["lr"] = lr if step == 3 else 0.1
            try:
                optimizer.step()
            except (RuntimeError, TypeError) as raised:
                error = type(raised)
        ends.append((param.detach(), error))
    assert ends[0][1] == ends[1][1]
    assert compare_tensors(ends[0][0], ends[1][0]) is None


def test_a_rule_that_is_put_in_the_place_of_a_pure_one_is_read() -> None:
    param = torch.zeros(3, requires_grad=True)
    optimizer: Any = optimlab.SGD([param], lr=1.0)
    for _ in range(3):
        param.grad = torch.ones(3)
        optimizer.step()
    optimizer.update = lambda param, grad, state, step, group: param.add_(grad, alpha=10)
    optimizer.step()
    assert param.tolist() == [7.0] * 3


def changed(rule: Any, *changes: tuple[str, Any]) -> Tensor:
    """Train with a rule and change hyperparameters on the way."""
    param = torch.linspace(-1, 1, 5).requires_grad_()
    optimizer = type("Rule", (optimlab.Optimizer,), {"update": rule, "counts_steps": False})(
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
    if type(decay) is float and decay != 0:  # a quantity is of another type
        grad = grad.add(param, alpha=decay)
    param.add_(grad, alpha=-group["lr"])


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
        (unless_it_divides_by_zero, [("scale", 0.0), ("scale", 0.5)]),
    ],
    ids=["type", "division"],
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


def test_formulas_that_do_not_agree_with_what_was_read_are_not_cached_step() -> None:
    optimizer: Any = optimlab.SGD([torch.zeros(2)], lr=0.5)
    (param,) = optimizer.param_groups[0]["params"]
    for _ in range(2):
        param.grad = torch.ones(2)
        optimizer.step()
    group, (launch,) = optimizer.param_groups[0], optimizer._cached_step.launches
    assert learn(optimizer, group, launch) is not None
    launch.code[1 + NUMBERS - 1] = -0.25
    assert learn(optimizer, group, launch) is None


ANSWERS: list[Callable[[Any], Any]] = [
    *(bool, float, int, str, repr, hash, abs, round, complex, math.floor, math.ceil, math.trunc),
    *(format, math.sqrt, range),
    lambda q: q == 1,
    lambda q: q != 1,
    lambda q: q < 1,
    lambda q: 1 >= q,
    lambda q: q % 2,
    lambda q: 7 // q,
    lambda q: divmod(q, 2),
    lambda q: +q,
    lambda q: q.real,
    lambda q: q * None,
    lambda q: q + True,
    lambda q: q * math.inf,
    lambda q: {q: 1},
    lambda q: q in (1, 2),
    lambda q: max(q, 1),
    lambda q: np.float64(2) * q,
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_quantity_answers_nothing_that_depends_on_its_value(answer: Callable[[Any], Any]) -> None:
    script = Script()
    quantity: Any = script.quantity("x") * 2
    assert isinstance(quantity, float)
    with pytest.raises(UndeterminedError):
        answer(quantity)
    assert script.refused == {"x"}
