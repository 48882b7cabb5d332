"""A rule that is traced once gives the numbers that running it at every step gives."""

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

import optimlab
from optimlab.core.scalar import Scalars, is_symbolic
from optimlab.core.values import T
from optimlab.lab.parity import compare_tensors
from optimlab.native import self_check
from optimlab.native.bytecode import INSTRUCTION_SIZE
from optimlab.native.traced import traced
from optimlab.rule import Count, StateSpec, pure

pytestmark = pytest.mark.skipif(
    self_check.capabilities().kernel is None, reason=self_check.capabilities().reason
)

Number = Callable[[Any, dict[str, Any]], Any]
"""Computes the number by which a rule scales gradients from step count and hyperparameters."""


def run(number: Number, declare: Callable[[Any], Any], steps: int = 12) -> tuple[Tensor, Any]:
    """Train with a rule that is declared pure, or not."""

    class Rule(optimlab.Rule):
        state_spec = StateSpec(Count())

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


def undeclared(rule: Any) -> Any:
    """Leave a rule as it is: it is traced at every step."""
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


def runs_of_the_rule(number: Number, declare: Callable[[Any], Any]) -> tuple[Tensor, list[int]]:
    """Train, and return in which steps the rule itself was run."""
    ran: list[int] = []

    def counted(step: Any, group: dict[str, Any]) -> Any:
        ran.append(int(getattr(step, "value", step)))
        return number(step, group)

    end, _ = run(counted, declare)
    return end, ran


@pytest.mark.parametrize("number", COMPUTED.values(), ids=COMPUTED)
def test_what_is_computed_gives_the_bits_of_what_the_rule_gives(number: Number) -> None:
    computed, ran = runs_of_the_rule(number, pure)
    expected, always = runs_of_the_rule(number, undeclared)
    assert compare_tensors(computed, expected) is None
    assert set(always) == set(range(1, 13))
    assert set(ran) <= {1, 2, 8}  # the first ones, and where a hyperparameter chooses another way


@pytest.mark.parametrize("number", CHOOSING.values(), ids=CHOOSING)
def test_what_a_step_count_chooses_is_right_by_its_guards(number: Number) -> None:
    computed, _ = run(number, pure)
    assert compare_tensors(computed, run(number, undeclared)[0]) is None


def test_a_rule_that_branches_on_the_step_count_is_traced_once_for_each_branch() -> None:
    number: Number = lambda step, group: -group["lr"] / step if step > 5 else -group["lr"]  # noqa: E731
    _, ran = runs_of_the_rule(number, pure)
    assert set(ran) == {1, 2, 6}
    every_other: Number = lambda step, group: -0.1 if step % 2 == 0 else -0.2  # noqa: E731
    _, ran = runs_of_the_rule(every_other, pure)
    assert set(ran) == {1, 2, 3}


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
            assert all(each.traces for each in optimizer._cached_step.groups)
    for ours, theirs in zip(*ends, strict=True):
        assert compare_tensors(ours, theirs) is None


def test_betas_that_change_at_every_step_are_computed_with() -> None:
    ends = []
    for library in (optimlab, torch.optim):
        param = torch.linspace(-1, 1, 3).requires_grad_()
        optimizer: Any = library.Adam([param])
        for step in range(30):
            betas = (0.5 + step / 100, 0.9)
            optimizer.param_groups[0]["betas"] = betas if step != 25 else list(betas)
            param.grad = torch.cos(param.detach() * step)
            optimizer.step()
            if library is optimlab and step == 24:
                (group,) = optimizer._cached_step.groups
                assert len(group.traces) == 1
        ends.append(param.detach())
    assert compare_tensors(*ends) is None


def test_a_rule_that_goes_another_way_at_every_step_is_not_traced_for_ever() -> None:
    number: Number = lambda step, group: -0.1 * math.sqrt(step)  # noqa: E731
    _, optimizer = run(number, pure, steps=30)
    (group,) = optimizer._cached_step.groups
    assert len(group.traces) <= 8


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


def test_a_trace_that_does_not_agree_with_what_was_run_is_not_kept() -> None:
    optimizer: Any = optimlab.SGD([torch.zeros(2)], lr=0.5)
    (param,) = optimizer.param_groups[0]["params"]
    for _ in range(2):
        param.grad = torch.ones(2)
        optimizer.step()
    (launch,) = optimizer._cached_step.launches
    kernel = self_check.capabilities().kernel
    assert kernel is not None
    assert traced(kernel, optimizer, launch) is not None
    launch.code[INSTRUCTION_SIZE] = -0.25
    assert traced(kernel, optimizer, launch) is None


ANSWERS: list[Callable[[Any], Any]] = [
    *(bool, float, int, str, repr, hash, abs, round, complex, math.floor, math.ceil, math.trunc),
    *(format, lambda q: list(range(int(q)))),
    lambda q: math.sqrt(abs(q)),
    lambda q: q == 1,
    lambda q: q != 1,
    lambda q: q < 1,
    lambda q: 1 >= q,
    lambda q: q % 2,
    lambda q: 2 % q,
    lambda q: 7 // q,
    lambda q: divmod(q, 2),
    lambda q: +q,
    lambda q: -q,
    lambda q: q.real,
    lambda q: q.is_integer(),
    lambda q: q + True,
    lambda q: q * math.inf,
    lambda q: q - math.inf,
    lambda q: {q: 1}.get(3.0),
    lambda q: q in (1, 2, 3.0),
    lambda q: max(q, 1),
    lambda q: min(0.5, q, 2.5),
    lambda q: np.float64(2) * q,
    lambda q: q * np.float64(2),
    lambda q: math.copysign(1, q),
    lambda q: q**0.5 if q >= 0 else 0,
    lambda q: 1 / q if q else math.inf,
    lambda q: f"{q:.2f}",
    lambda q: [1, 2, 3][int(q) % 3],
    lambda q: isinstance(q, float) and not isinstance(q, int),
    lambda q: (q > 2) + (q > 0) * 2,
]
VALUES = (3.0, 1.0, 0.0, -0.0, -2.5, 3.0000000000000004, 1e300, math.inf, math.nan)


def answered(answer: Callable[[Any], Any], value: Any) -> Any:
    """Return what an answer is for a number, as a text: NaN equals NaN, and 0.0 is not -0.0."""
    try:
        return shown(answer(value))
    except Exception as error:  # noqa: BLE001 - an error is an answer, too
        return type(error)


def shown(found: Any) -> str:
    return repr(float(found) if isinstance(found, np.floating) else found)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("value", VALUES)
def test_whatever_a_symbolic_scalar_answers_is_right_wherever_its_guards_hold(
    answer: Callable[[Any], Any], value: float
) -> None:
    scalars = Scalars()
    symbol = scalars.group({"x": value})["x"]
    assert isinstance(symbol, float)
    assert is_symbolic(symbol)
    try:
        found = answer(symbol)
    except Exception:  # noqa: BLE001 - nothing is kept of a rule that raises
        return
    is_symbol = is_symbolic(found)
    assert shown(found.value if is_symbol else found) == answered(answer, value)
    compute = scalars.compiled([(1, found)] if is_symbol else [])
    for other in VALUES:
        code = [0.0, 0.0]
        try:
            holds = compute(code, 7.0, {"x": other})
        except ArithmeticError:
            continue  # the rule has to be run
        if holds:
            expected = answered(answer, other)
            assert shown(code[1] if is_symbol else found) == expected, other


def test_betas_of_another_kind_are_not_computed_with() -> None:
    scalars = Scalars()
    beta1, _ = scalars.group({"betas": (0.5, 0.75)})["betas"]
    compute = scalars.compiled([(1, 1 - beta1)])
    code = [0.0, 0.0]
    assert compute(code, 1.0, {"betas": (0.25, 0.5)})
    assert code[1] == 0.75
    for betas in ([0.5, 0.75], (0.5, 0.75, 0.9), (0.5,), (1, 0.5), (np.float64(0.5), 0.5), 0.5):
        found = 0.5 if isinstance(betas, float) else betas
        assert not compute(code, 1.0, {"betas": found})


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_a_repeated_step_is_few_calls_of_python(name: str) -> None:
    params = [torch.ones(4, requires_grad=True) for _ in range(3)]
    optimizer = getattr(optimlab, name)(params)

    def step() -> None:
        for param in params:
            param.grad = torch.ones(4)
        optimizer.step()

    for _ in range(6):
        step()
    calls: list[str] = []
    deepest, depth = 0, 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal depth, deepest
        if event == "call":
            calls.append(frame.f_code.co_name)
            depth += 1
            if calls[-1] == "_run":  # which makes the one call into C
                deepest = depth
        elif event == "return":
            depth -= 1

    sys.setprofile(count)
    optimizer.step()
    sys.setprofile(None)
    assert deepest == 4
    assert 8 < len(calls) <= 20, calls
