"""What differs between an optimizer that somebody wrote and torch's, in the words of the rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import pytest
import torch
from beside import one_thread
from torch import Tensor
from torch.optim import Optimizer

import optimlab
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.explain import rules
from optimlab.lab.explain.explanation import Explanation

__all__ = ["one_thread"]


class HandWritten(Optimizer):
    """A rule on one parameter: counts steps in Python's numbers, and starts its state at zeros."""

    def __init__(self, params: Any, rule: Callable[..., object], **options: Any) -> None:
        super().__init__(params, options)
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.rule(param, param.grad, self.state[param], **group)


def zeros(state: Any, param: Tensor, *names: str) -> list[Tensor]:
    if not state:
        state.update({name: torch.zeros_like(param) for name in names}, step=0)
    state["step"] += 1
    return [state[name] for name in names]


def adam(
    p: Tensor,
    g: Tensor,
    state: Any,
    *,
    params: Any,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    eps_at: str = "behind",
    late: int = 0,
    corrected: str = "mv",
    decay: str = "",
    square: str = "addcmul",
    names: tuple[str, str] = ("exp_avg", "exp_avg_sq"),
) -> None:
    mean, second = zeros(state, p, *names)
    if decay == "L2":
        g = g + weight_decay * p
    elif decay in ("lr", "bare"):
        p.mul_(1 - (lr if decay == "lr" else 1) * weight_decay)
    mean.mul_(betas[0]).add_(g, alpha=1 - betas[0])
    second.mul_(betas[1])
    if square == "addcmul":
        second.addcmul_(g, g, value=1 - betas[1])
    else:
        second.add_((1 - betas[1]) * g**2)
    count = state["step"] + late
    first_bias = 1 - betas[0] ** count if "m" in corrected else 1.0
    root = math.sqrt(1 - betas[1] ** count) if "v" in corrected else 1.0
    divisor = {
        "behind": lambda: (second.sqrt() / root).add_(eps),
        "before": lambda: (second.sqrt() + eps) / root,
        "inside": lambda: (second + eps * root**2).sqrt() / root,
        "inside before": lambda: (second + eps).sqrt() / root,
        "": lambda: second.sqrt() / root,
    }[eps_at]()
    p.addcdiv_(mean, divisor, value=-lr / first_bias)
    if decay == "after":
        p.mul_(1 - lr * weight_decay)


def sgd(
    p: Tensor,
    g: Tensor,
    state: Any,
    *,
    params: Any,
    lr: float,
    momentum: float,
    dampening: float = 0.0,
    velocity: str = "",
    nesterov: bool = False,
) -> None:
    (buffer,) = zeros(state, p, "momentum_buffer")
    scale = {"lr": lr, "mean": 1 - momentum}.get(velocity, 1.0) * (1 - dampening)
    buffer.mul_(momentum).add_(g, alpha=scale)
    update = g.add(buffer, alpha=momentum) if nesterov else buffer
    p.sub_(buffer) if velocity == "lr" else p.add_(update, alpha=-lr)


Options: TypeAlias = dict[str, Any]
MOMENTUM: Options = {"lr": 1e-2, "momentum": 0.9}
ADAM: Options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def explained(changes: Options, dampening: float = 0.0) -> Explanation:
    if changes.keys() & {"velocity", "nesterov", "dampening"}:
        mine: Any = partial(HandWritten, rule=partial(sgd, **changes), **MOMENTUM)
        if dampening:
            mine = partial(mine, dampening=dampening)
        return optimlab.explain(mine, partial(torch.optim.SGD, **MOMENTUM, dampening=dampening))
    decay = 0.01 if "decay" in changes else 0.0
    options = {**ADAM, "weight_decay": decay}
    mine = partial(HandWritten, rule=partial(adam, **changes), **options)
    reference: Any = torch.optim.AdamW if decay else torch.optim.Adam
    return optimlab.explain(mine, partial(reference, **options))


WORDS = [
    ({"eps_at": "before"}, "eps behind the root, before the bias correction"),
    ({"eps_at": "inside"}, "eps inside the root, after the bias correction"),
    ({"eps_at": "inside before"}, "eps inside the root, before the bias correction"),
    ({"eps_at": ""}, "adds no eps"),
    ({"corrected": ""}, "HandWritten has no bias correction"),
    ({"corrected": "m"}, "bias correction of the first moment alone"),
    ({"corrected": "v"}, "bias correction of the second moment alone"),
    ({"late": 1}, "a step count that is one too large"),
    ({"decay": "L2"}, "HandWritten adds weight_decay * param to the gradient"),
    ({"decay": "bare"}, "1 - weight_decay, without lr"),
    ({"decay": "after"}, "after the update"),
    ({"decay": "none"}, "HandWritten has no weight decay"),
    ({"velocity": "lr"}, "takes lr into the momentum buffer"),
    ({"velocity": "mean"}, "of gradients times 1 - momentum"),
    ({"nesterov": True}, "(nesterov)"),
]


@pytest.mark.parametrize(("changes", "words"), WORDS, ids=str)
def test_what_differs_is_said_in_the_words_of_the_rule(changes: Options, words: str) -> None:
    found = explained(changes)
    assert found.step == 1
    assert found.cause is not None
    assert words in found.cause.text
    assert found.cause.kind not in ("unknown", "FMA")
    assert "both sides' numbers" in found.cause.evidence
    assert max(map(len, str(found).splitlines())) <= 100


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"square": "pow"}, {"order of operations", "FMA"}),
        ({"eps_at": "behind"}, {"order of operations", "FMA"}),
        ({"decay": "lr"}, {"order of operations", "FMA"}),
    ],
)
def test_the_same_rule_that_rounds_differently_is_not_called_another_rule(
    changes: Options, kinds: set[str]
) -> None:
    found = explained(changes)
    if not found.equal:  # as on a processor that contracts nothing
        assert found.cause is not None
        assert found.cause.kind in kinds
        assert "both sides' numbers" not in found.cause.evidence


def test_state_under_other_names_is_no_operation_missing() -> None:
    found = explained({"eps_at": "inside", "names": ("m", "v")})
    assert found.cause is not None
    assert found.cause.kind == "another formula"
    assert "eps inside the root" in found.cause.text


def test_a_hand_written_sgd_has_the_same_bits_with_a_python_step_count() -> None:
    assert explained({"velocity": ""}).equal


def test_dampening_of_the_first_gradient_is_told() -> None:
    found = explained({"velocity": ""}, dampening=0.5)
    assert found.cause is not None
    assert "dampening to the first gradient" in found.cause.text


def swapped(p: Tensor, g: Tensor, state: Any, *, betas: Any, **options: Any) -> None:
    adam(p, g, state, betas=betas[::-1], **options)


def root_of_both(p: Tensor, g: Tensor, state: Any, **options: Any) -> None:
    (square,) = zeros(state, p, "square_avg")
    square.mul_(options["alpha"]).addcmul_(g, g, value=1 - options["alpha"])
    p.addcdiv_(g, (square + options["eps"]).sqrt_(), value=-options["lr"])


@pytest.mark.parametrize(
    ("rule", "options", "reference", "words"),
    [
        (swapped, {**ADAM, "weight_decay": 0.0}, torch.optim.Adam, "betas swapped"),
        (
            root_of_both,
            {"lr": 0.01, "alpha": 0.99, "eps": 1e-8},
            torch.optim.RMSprop,
            "eps inside the root",
        ),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_words_are_the_same_from_either_side(
    rule: Any, options: Options, reference: Any, words: str, reverse: bool
) -> None:
    mine, theirs = partial(HandWritten, rule=rule, **options), partial(reference, **options)
    found = optimlab.explain(theirs, mine) if reverse else optimlab.explain(mine, theirs)
    assert found.cause is not None
    assert words in found.cause.text


DECAY: Options = {"weight_decay": 0.1}
OWN: dict[str, tuple[str, Options, dict[str, str]]] = {
    "Adam": ("Adam", {}, {"decay": "none"}),
    "Adam, decay": ("Adam", DECAY, {"decay": "L2"}),
    "AdamW": ("AdamW", DECAY, {"decay": "decoupled"}),
    "SGD": ("SGD", {"lr": 0.1}, {"decay": "none"}),
    "SGD, momentum": ("SGD", {**MOMENTUM, **DECAY, "dampening": 0.3}, {"decay": "L2"}),
    "SGD, Nesterov": ("SGD", {**MOMENTUM, "nesterov": True}, {"decay": "none", "nesterov": "yes"}),
    "RMSprop": ("RMSprop", DECAY, {"decay": "L2"}),
    "RMSprop, momentum": ("RMSprop", {"momentum": 0.9}, {"decay": "none"}),
}


@pytest.mark.parametrize("name", OWN)
def test_the_first_variant_of_a_rule_is_the_rule_of_the_class(name: str) -> None:
    cls, options, traits = OWN[name]
    values = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(50, generator=values, dtype=torch.float64))
    optimizer = getattr(optimlab, cls)([weight], **options)
    for number in range(1, 5):
        grad = torch.randn(50, generator=values, dtype=torch.float64)
        (start, group, state) = rules.held_by(optimizer, 0)
        weight.grad = grad
        optimizer.step()
        end, _, counts = rules.held_by(optimizer, 0)
        step = rules.step_of_rule(group, number, grad, start, end, state)
        found = rules._rule_of(group)
        assert found is not None
        rule, words = found
        choice = {trait: next(iter(each)) for trait, each in words.items()} | traits
        assert step.ends_with(rule(step, choice))
        assert parameters(optimizer)[0] is weight
        assert counts.get("step", number) == number
