"""Which textbook rule each of two steps computes: variants of it, carried out in double precision.

Where the two sides compute different variants of one rule, what differs is said in the rule's own
words, such as eps, betas and bias correction, however each of them spells its operations. The first
variant of each is the rule of the class itself, which the tests hold it to; what is compared with
variants is a cause, and never whether bits are the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.explain.explanation import Cause
from optimlab.lab.record.pair import number_of

Choice: TypeAlias = Mapping[str, str]  # by trait
Moved: TypeAlias = tuple[Tensor, list[Tensor]]  # a parameter and the moments of its state

_MOST_DEVIATIONS = 2
# What is told where the mathematics is the same, or nothing is told.
_ROUNDING = {"unknown", "FMA", "reciprocal", "a rounded scalar"}
COUNTS = ("step", "steps", "t", "iteration", "num_steps")

_DECAY = {
    "L2": "adds weight_decay * param to the gradient",
    "decoupled": "decays the parameter by 1 - lr * weight_decay",
    "after": "decays by 1 - lr * weight_decay after the update",
    "bare": "decays by 1 - weight_decay, without lr",
    "none": "has no weight decay",
}
_EPS = {
    "after": "adds eps behind the root",
    "inside": "adds eps inside the root",
    "none": "adds no eps",
}
_VELOCITY = {
    "plain": "multiplies the momentum buffer by lr",
    "with lr": "takes lr into the momentum buffer",
    "mean": "keeps a mean in the momentum buffer, of gradients times 1 - momentum",
}
_ADAM: Mapping[str, Mapping[str, str]] = {
    "decay": _DECAY,
    "eps": _EPS
    | {
        "after": "adds eps behind the root, after the bias correction",
        "before": "adds eps behind the root, before the bias correction",
        "inside": "adds eps inside the root, after the bias correction",
        "inside before": "adds eps inside the root, before the bias correction",
    },
    "correction": {
        "both": "corrects the bias of both moments",
        "none": "has no bias correction",
        "first": "has the bias correction of the first moment alone",
        "second": "has the bias correction of the second moment alone",
    },
    "betas": {
        "right": "takes beta1 for the mean of gradients and beta2 for that of squares",
        "swapped": "has betas swapped, beta2 for the mean of gradients and beta1 for squares",
    },
    "count": {
        "0": "corrects the bias with the number of this step",
        "1": "corrects the bias with a step count that is one too large",
        "-1": "corrects the bias with a step count that is one too small",
    },
}
_SGD: Mapping[str, Mapping[str, str]] = {
    "decay": _DECAY,
    "velocity": _VELOCITY,
    "first": {
        "grad": "starts the momentum buffer with the first gradient, without dampening",
        "damped": "applies dampening to the first gradient, too",
    },
    "nesterov": {
        "no": "steps along the momentum buffer",
        "yes": "looks ahead along the momentum buffer (nesterov)",
    },
}
_RMSPROP: Mapping[str, Mapping[str, str]] = {
    "decay": _DECAY,
    "eps": _EPS,
    "velocity": {name: _VELOCITY[name] for name in ("plain", "with lr")},
    "alpha": {
        "right": "keeps alpha of the mean of squares",
        "swapped": "keeps 1 - alpha of the mean of squares",
    },
    "start": {
        "zeros": "starts the mean of squares at 0",
        "ones": "starts the mean of squares at 1",
    },
}


@dataclass(frozen=True)
class StepOfRule:
    """A step on one parameter, in double precision: hyperparameters, start and end."""

    group: Mapping[str, Any]
    grad: Tensor
    count: int  # of this step
    start: Moved
    end: Moved
    eps: float  # of the dtype

    def number(self, name: str, default: float = 0.0) -> float:
        """Return a hyperparameter."""
        return float(self.group.get(name) or default)

    def decayed(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """Return parameter and gradient as decay leaves them before the update."""
        (param, _), decay, lr = self.start, self.number("weight_decay"), self.number("lr")
        share = {"decoupled": lr * decay, "bare": decay}.get(choice["decay"], 0.0)
        grad = self.grad + decay * param if choice["decay"] == "L2" else self.grad
        return param * (1 - share), grad

    def moved(self, param: Tensor, update: Tensor, choice: Choice) -> Tensor:
        """Return the parameter as update and decay behind it leave it."""
        after = self.number("lr") * self.number("weight_decay") * (choice["decay"] == "after")
        return (param - update) * (1 - after)

    def moment(self, place: int) -> Tensor:
        """Return a tensor of the state before the step, zeros where there is none yet."""
        held = self.start[1]
        return held[place] if place < len(held) else torch.zeros_like(self.grad)

    def rounded(self, place: int, moment: Tensor) -> Tensor:
        """Return a moment as the step ends with it, where that is the same but for rounding.

        The squares of tiny gradients lose digits to underflow, which a root would show.
        """
        if place >= len(self.end[1]):
            return moment
        end, start = self.end[1][place], self.moment(place)
        return end if self._close(end, moment, self._spread(start, moment)) else moment

    def ends_with(self, moved: Moved) -> bool:
        """Tell whether it ends with some numbers, up to the rounding of its dtype."""
        (before, held), (param, moments) = self.start, moved
        # The parameter is rounded once or twice, and what is added to it a few times more.
        update = (param - before).abs().max()
        allowed = 1.25 * torch.maximum(before.abs(), param.abs()) + 8 * update
        if not self._close(self.end[0], param, allowed):
            return False
        was = [*held, *(torch.zeros_like(param) for _ in moments)]
        return all(
            self._close(end, moment, self._spread(start, moment))
            for end, moment, start in zip(self.end[1], moments, was, strict=False)
        )

    def _spread(self, start: Tensor, moment: Tensor) -> Tensor:
        # The summands of an L2 term may cancel; of a mean or, never negative, a mean of squares.
        decay = self.number("weight_decay") * self.start[0].abs()
        summands = (decay + self.grad.abs()) ** (1 if (moment < 0).any() else 2)
        return 8 * (start.abs() + moment.abs() + summands * bool(self.number("weight_decay")))

    def _close(self, one: Tensor, other: Tensor, scale: Tensor) -> bool:
        near = (one - other).abs() <= self.eps * scale + 1e-37
        return bool((near & other.isfinite()).all())


def _adam(step: StepOfRule, choice: Choice) -> Moved:
    param, grad = step.decayed(choice)
    beta1, beta2 = (float(beta) for beta in step.group["betas"])
    if choice["betas"] == "swapped":
        beta1, beta2 = beta2, beta1
    mean = beta1 * step.moment(0) + (1 - beta1) * grad
    square = beta2 * step.moment(1) + (1 - beta2) * grad * grad
    mean, square = step.rounded(0, mean), step.rounded(1, square)
    count, which = step.count + int(choice["count"]), choice["correction"]
    first = 1 - beta1**count if which in ("both", "first") else 1.0
    second = 1 - beta2**count if which in ("both", "second") else 1.0
    eps, root = step.number("eps"), math.sqrt(second)
    where = choice["eps"]
    inside = {"inside": eps * second, "inside before": eps}.get(where, 0.0)
    behind = {"after": eps, "before": eps / root}.get(where, 0.0)
    divisor = (square + inside).sqrt() / root + behind
    return step.moved(param, step.number("lr") * mean / first / divisor, choice), [mean, square]


def _sgd(step: StepOfRule, choice: Choice) -> Moved:
    param, grad = step.decayed(choice)
    momentum, lr = step.number("momentum"), step.number("lr")
    if not momentum:
        return step.moved(param, lr * grad, choice), []
    scaled = {"plain": 1.0, "with lr": lr, "mean": 1 - momentum}[choice["velocity"]]
    if step.start[1] or choice["first"] == "damped":
        scaled *= 1 - step.number("dampening")
    buffer = step.rounded(0, momentum * step.moment(0) + scaled * grad)
    factor = 1.0 if choice["velocity"] == "with lr" else lr
    update = factor * buffer
    if choice["nesterov"] == "yes":
        update = lr * grad + momentum * factor * buffer
    return step.moved(param, update, choice), [buffer]


def _rmsprop(step: StepOfRule, choice: Choice) -> Moved:
    param, grad = step.decayed(choice)
    alpha, momentum, lr = (step.number(name) for name in ("alpha", "momentum", "lr"))
    alpha = alpha if choice["alpha"] == "right" else 1 - alpha
    start = step.moment(0) + (choice["start"] == "ones" and not step.start[1])
    square, eps = alpha * start + (1 - alpha) * grad * grad, step.number("eps")
    square = step.rounded(0, square)
    inside, behind = (eps * (choice["eps"] == each) for each in ("inside", "after"))
    update = grad / ((square + inside).sqrt() + behind)
    if not momentum:
        return step.moved(param, lr * update, choice), [square]
    scale, factor = (lr, 1.0) if choice["velocity"] == "with lr" else (1.0, lr)
    buffer = momentum * step.moment(1) + scale * update
    return step.moved(param, factor * buffer, choice), [square, buffer]


_Rule: TypeAlias = Callable[[StepOfRule, Choice], Moved]


def _rule_of(group: Mapping[str, Any]) -> tuple[_Rule, Mapping[str, Mapping[str, str]]] | None:
    if group.get("amsgrad") or group.get("centered") or group.get("differentiable"):
        return None
    if {"betas", "eps"} <= group.keys():
        return (_adam, _ADAM) if len(group["betas"]) == 2 else None
    if {"alpha", "eps"} <= group.keys():
        return _rmsprop, _RMSPROP
    return (_sgd, _SGD) if {"lr"} <= group.keys() and "eps" not in group else None


def _choices(traits: Mapping[str, Mapping[str, str]], step: StepOfRule) -> Iterator[Choice]:
    """Go through the variants of a rule that deviate from it in a few traits, the fewest first."""
    decays = step.number("weight_decay") != 0
    every = [
        list(words) if decays or name != "decay" else ["none"] for name, words in traits.items()
    ]
    usual = [words[0] for words in every]

    def deviations(chosen: Sequence[str]) -> int:
        # Neither kind of decay is a deviation.
        pairs = zip(traits, chosen, usual, strict=True)
        return sum(c != u and (n, c) != ("decay", "decoupled") for n, c, u in pairs)

    some = [each for each in itertools.product(*every) if deviations(each) <= _MOST_DEVIATIONS]
    for chosen in sorted(some, key=deviations):
        yield dict(zip(traits, chosen, strict=True))


Held: TypeAlias = tuple[Moved, Mapping[str, Any], Mapping[str, Any]]


def held_by(optimizer: Optimizer, number: int) -> Held:
    """Return copies of a parameter and the moments of its state, its group and step counts."""
    param = parameters(optimizer)[number]
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    state = {**groups[number], **optimizer.state.get(param, {})}
    moments = [
        value.detach().clone()
        for name, value in optimizer.state.get(param, {}).items()
        if isinstance(value, Tensor) and value.shape == param.shape and name not in COUNTS
    ]
    counts = {name: count for name in COUNTS if (count := number_of(state.get(name))) is not None}
    return (param.detach().clone(), moments), dict(groups[number]), counts


def step_of_rule(
    group: Mapping[str, Any], step: int, grad: Tensor, start: Moved, end: Moved, state: Any
) -> StepOfRule:
    """Take a step down in double precision; ``step`` counts if nothing of the state does."""
    counts = [state[name] for name in COUNTS if name in state]
    count = int(counts[0]) + 1 if counts else step
    signed = -grad if group.get("maximize") else grad
    before, after = (
        (param.double(), [each.double() for each in held]) for param, held in (start, end)
    )
    return StepOfRule(group, signed.double(), count, before, after, torch.finfo(grad.dtype).eps)


def in_the_rules_words(cause: Cause, names: tuple[str, str], a: StepOfRule, b: StepOfRule) -> Cause:
    """Say first in which traits of the rule the two sides differ, if that can be told."""
    sides = [replace(own, group={**other.group, **own.group}) for own, other in ((a, b), (b, a))]
    rules = [_rule_of(side.group) for side in sides]
    if rules[0] is None or rules[0] != rules[1]:
        return cause
    rule, traits = rules[0]
    fits = [
        [choice for choice in _choices(traits, side) if _is_of(rule, side, choice)]
        for side in sides
    ]
    pairs = list(itertools.product(*fits))
    if not pairs:
        return cause
    ours, theirs = min(pairs, key=lambda pair: sum(pair[0][n] != pair[1][n] for n in traits))
    different = [name for name in traits if ours[name] != theirs[name]]
    if not different:
        return cause  # the same up to rounding
    said = "; ".join(
        f"{names[0]} {traits[name][ours[name]]}, {names[1]} {traits[name][theirs[name]]}"
        for name in different
    )
    shown = "in double precision, rules with these differences give both sides' numbers"
    if cause.kind in _ROUNDING or "same mathematics" in cause.text:
        return Cause("another formula", said, shown)
    return Cause(cause.kind, f"{said}; {cause.text}", f"{cause.evidence}; {shown}")


def _is_of(rule: _Rule, step: StepOfRule, choice: Choice) -> bool:
    try:
        return step.ends_with(rule(step, choice))
    except (ArithmeticError, ValueError, TypeError, RuntimeError):
        # A bias correction with a step count of 0, or hyperparameters of another kind.
        return False
