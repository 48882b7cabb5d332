"""Rules that declare their state as it was done before `state_spec` run, with a warning."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import assert_equal
from torch import Tensor

import optimlab
from optimlab.core.checks import check_autograd

WARNING = "Old (is derived from Optimizer|defines .*); (derive .*Rule|declare .*|it is .*)"


def old_rule() -> Any:
    """Adam as it was written for the last release."""

    class Old(optimlab.Optimizer):
        def __init__(self, params: Any, lr: float = 0.1, foreach: bool | None = None) -> None:
            super().__init__(params, {"lr": lr, "foreach": foreach})

        def state_names(self, group: Any) -> tuple[str, ...]:
            return ("exp_avg", "exp_avg_sq")

        def update(self, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
            state["exp_avg"].lerp_(grad, 1 - 0.9)
            state["exp_avg_sq"].mul_(0.999).addcmul_(grad, grad, value=1 - 0.999)
            root = state["exp_avg_sq"].sqrt()
            denom = optimlab.values.divide_(root, (1 - 0.999**step) ** 0.5).add_(1e-8)
            size = -(group["lr"] / (1 - 0.9**step))
            param.addcdiv_(state["exp_avg"], denom, value=size)

    return Old


def old_filling() -> Any:
    """A rule that counts no steps and begins its sum with a number."""

    class Old(optimlab.Optimizer):
        counts_steps = False

        def __init__(self, params: Any, lr: float = 0.1, foreach: bool | None = None) -> None:
            super().__init__(params, {"lr": lr, "foreach": foreach, "initial": 0.5})

        def state_names(self, group: Any) -> tuple[str, ...]:
            return ("sum",)

        def init_state(self, param: Tensor, group: Any) -> dict[str, Tensor]:
            (zeros,) = super().init_state(param, group).values()  # type: ignore[misc]
            return {"sum": zeros + group["initial"]}

        def update(self, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
            state["sum"].addcmul_(grad, grad)
            param.addcdiv_(grad, state["sum"].sqrt(), value=-group["lr"])

    return Old


def old_momentum() -> Any:
    """SGD, with the state that its rule makes under a name of its own."""

    class Old(optimlab.Optimizer):
        counts_steps = False
        rule_makes_state = True

        def __init__(self, params: Any, lr: float = 0.1, foreach: bool | None = None) -> None:
            super().__init__(params, {"lr": lr, "foreach": foreach})

        def state_names(self, group: Any) -> tuple[str, ...]:
            return ("momentum_buffer",)

        def update(self, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = grad.clone()
            else:
                state["momentum_buffer"].mul_(0.9).add_(grad, alpha=1.0)
            param.add_(state["momentum_buffer"], alpha=-group["lr"])

    return Old


def old_relative() -> Any:
    """A class below Adam that counts otherwise and calls what it overrides."""

    class Old(optimlab.Adam):
        step_device = None

        def state_names(self, group: Any) -> tuple[str, ...]:
            return super().state_names(group)  # type: ignore[misc, no-any-return]

        def collect_member(self, param: Tensor, grad: Tensor, group: Any) -> Any:
            return optimlab.Adam._collect_member(self, param, grad, group)

    return Old


OLD: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "Adam": (old_rule, torch.optim.Adam),
    "Adagrad": (
        old_filling,
        lambda params, lr, foreach: torch.optim.Adagrad(
            params, lr, initial_accumulator_value=0.5, eps=0, foreach=foreach
        ),
    ),
    "SGD": (
        old_momentum,
        lambda params, lr, foreach: torch.optim.SGD(params, lr, 0.9, foreach=foreach),
    ),
    "below Adam": (old_relative, torch.optim.Adam),
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("old", OLD)
def test_an_old_rule_has_its_bits_and_a_warning_that_names_the_new(old: str, foreach: bool) -> None:
    make, theirs = OLD[old]
    with pytest.warns(DeprecationWarning, match=WARNING) as given:
        rule = make()
    assert {warning.filename for warning in given} == {__file__}
    assert issubclass(rule, optimlab.Rule)
    ends = []
    for optimizer_class in (rule, theirs):
        params = [torch.linspace(-1, 1, 5).requires_grad_() for _ in range(2)]
        optimizer = optimizer_class(params, lr=0.1, foreach=foreach)
        for step in range(4):
            for param in params:
                param.grad = torch.cos(param.detach() + step)
            optimizer.step()
            if step == 1:  # through a checkpoint
                saved = optimizer.state_dict()
                optimizer = optimizer_class(params, lr=0.1, foreach=foreach)
                optimizer.load_state_dict(saved)
        ends.append([param.detach() for param in params])
    if old != "Adagrad":  # which adds eps
        assert_equal(*ends)
    torch.testing.assert_close(*ends)


def test_what_an_optimizer_was_asked_for_is_still_answered() -> None:
    param = torch.ones(2)
    optimizer: Any = optimlab.Adam([param], amsgrad=True)
    (group,) = optimizer.param_groups
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    answers: dict[str, Callable[[], Any]] = {
        "state_names": lambda: optimizer.state_names(group) == names,
        "counts_steps": lambda: optimizer.counts_steps,
        "init_state": lambda: tuple(optimizer.init_state(param, group)) == names,
        "init_step": lambda: optimizer.init_step(param, group).item() == 0,
        "foreach_by_default": lambda: not optimizer.foreach_by_default([param], group),
    }
    for answer in answers.values():
        with pytest.warns(DeprecationWarning, match="Adam.* is old"):
            assert answer()
    with pytest.raises(AttributeError, match=re.escape("'Adam' object has no attribute 'other'")):
        _ = optimizer.other
    assert check_autograd(optimizer._collect(group)) is None  # type: ignore[func-returns-value]


def test_old_places_of_names_lead_to_the_new() -> None:
    with pytest.warns(DeprecationWarning, match="optimlab.rule.pure"):
        from optimlab.optimizer import pure
    assert pure is optimlab.rule.pure
