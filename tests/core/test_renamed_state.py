"""Rules that declare their state as it was done before `state_spec` run, with a warning."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from beside import Options, assert_equal

import optimlab

WARNING = "Old (is derived from Optimizer|defines .*); (derive .*Rule|declare .*|it is .*)"


def init(self: Any, params: Any, lr: float = 0.1, foreach: bool | None = None) -> None:
    super(type(self), self).__init__(params, {"lr": lr, "foreach": foreach, "initial": 0.5})


def adam(self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    state["exp_avg"].lerp_(grad, 1 - 0.9)
    state["exp_avg_sq"].mul_(0.999).addcmul_(grad, grad, value=1 - 0.999)
    root = state["exp_avg_sq"].sqrt()
    denom = optimlab.values.divide_(root, (1 - 0.999**step) ** 0.5).add_(1e-8)
    param.addcdiv_(state["exp_avg"], denom, value=-(group["lr"] / (1 - 0.9**step)))


def adagrad(self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    state["sum"].addcmul_(grad, grad)
    param.addcdiv_(grad, state["sum"].sqrt().add_(1e-10), value=-group["lr"])


def filled(self: Any, param: Any, group: Any) -> Any:
    (zeros,) = super(type(self), self).init_state(param, group).values()
    return {"sum": zeros + group["initial"]}


def momentum(self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = grad.clone()
    else:
        state["momentum_buffer"].mul_(0.9).add_(grad, alpha=1.0)
    param.add_(state["momentum_buffer"], alpha=-group["lr"])


def rule(update: Any, *names: str, **members: Any) -> Options:
    """Return the members of a rule as it was written for the last release."""
    named = {"state_names": lambda self, group: names}
    return {"__init__": init, "__module__": __name__, "update": update, **named, **members}


OLD: dict[str, tuple[Any, Options, Callable[..., Any]]] = {
    "Adam": (optimlab.Optimizer, rule(adam, "exp_avg", "exp_avg_sq"), torch.optim.Adam),
    "Adagrad": (
        optimlab.Optimizer,
        rule(adagrad, "sum", counts_steps=False, init_state=filled),
        partial(torch.optim.Adagrad, initial_accumulator_value=0.5),
    ),
    "SGD": (
        optimlab.Optimizer,
        rule(momentum, "momentum_buffer", counts_steps=False, rule_makes_state=True),
        partial(torch.optim.SGD, momentum=0.9),
    ),
    "below Adam": (
        optimlab.Adam,
        {
            "step_device": None,
            "state_names": lambda self, group: super(type(self), self).state_names(group),
            "collect_member": optimlab.Adam._collect_member,
        },
        torch.optim.Adam,
    ),
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("old", OLD)
def test_an_old_rule_has_its_bits_and_a_warning_that_names_the_new(old: str, foreach: bool) -> None:
    base, members, theirs = OLD[old]
    with pytest.warns(DeprecationWarning, match=WARNING) as given:
        ours = type("Old", (base,), members)
    assert {warning.filename for warning in given} == {__file__}
    assert issubclass(ours, optimlab.Rule)
    ends = []
    both: tuple[Any, ...] = (ours, theirs)
    for optimizer_class in both:
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
    assert_equal(*ends)


def test_what_an_optimizer_was_asked_for_is_still_answered() -> None:
    param = torch.ones(2)
    optimizer: Any = optimlab.Adam([param], amsgrad=True)
    (group,) = optimizer.param_groups
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    answers: list[Callable[[], Any]] = [
        lambda: optimizer.state_names(group) == names,
        lambda: optimizer.counts_steps,
        lambda: tuple(optimizer.init_state(param, group)) == names,
        lambda: optimizer.init_step(param, group).item() == 0,
        lambda: not optimizer.foreach_by_default([param], group),
    ]
    for answer in answers:
        with pytest.warns(DeprecationWarning, match="Adam.* is old"):
            assert answer()
    with pytest.raises(AttributeError, match=re.escape("'Adam' object has no attribute 'other'")):
        _ = optimizer.other


def test_old_places_of_names_lead_to_the_new() -> None:
    with pytest.warns(DeprecationWarning, match="optimlab.rule.pure"):
        from optimlab.optimizer import pure
    with pytest.warns(DeprecationWarning, match="optimlab.adamw.AdamW"):
        from optimlab.adam import AdamW
    assert pure is optimlab.rule.pure
    assert AdamW is optimlab.AdamW
