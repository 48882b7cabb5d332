"""Situations worth seeing: what the controls are set to, and what to watch for."""

from __future__ import annotations

from typing import TypedDict


class Side(TypedDict):
    """One of the two optimizers: its key, and its hyperparameters."""

    optimizer: str
    lr: float
    momentum: float


class Situation(TypedDict):
    """What all controls are set to; ``start`` counts the surface's starts from 0."""

    title: str
    watch: str
    surface: str
    start: int
    step: int
    a: Side
    b: Side


def _side(optimizer: str, lr: float, momentum: float = 0.9) -> Side:
    return {"optimizer": optimizer, "lr": lr, "momentum": momentum}


NOTES = {
    "momentum_buffer": "the velocity",
    "exp_avg": "running mean of the gradients",
    "exp_avg_sq": "running mean of their squares",
    "max_exp_avg_sq": "its largest value so far",
    "square_avg": "running mean of squared gradients",
}
"""What each state tensor is, in a few words."""

OPENING: Situation = {
    "title": "Opening",
    "watch": "The bowl is sixteen times as steep along y as along x. SGD’s velocity "
    "swings across the valley floor; Adam began with steps of about lr along both coordinates, and "
    "its path is nearly straight. Go back to step 1 and read why.",
    "surface": "bowl",
    "start": 0,
    "step": 14,
    "a": _side("momentum", 0.02),
    "b": _side("adam", 0.2),
}
"""What is shown first."""

PRESETS: list[Situation] = [
    {
        "title": "Adam’s first step",
        "watch": "The gradient along y is 9.6 times that along x, and SGD’s step is too. Adam’s "
        "first step has the size of lr, 0.5, in both coordinates: exp_avg is a tenth "
        "of the gradient, denom its whole size, and the factor in the last operation is 10 lr.",
        "surface": "bowl",
        "start": 0,
        "step": 1,
        "a": _side("sgd", 0.05),
        "b": _side("adam", 0.5),
    },
    {
        "title": "Bias correction",
        "watch": "After one step exp_avg holds half of the gradient where beta1 is 0.5, and a "
        "hundredth of it where beta1 is 0.99. lr / (1 − beta1^step) makes up for it: it is 0.2 "
        "there, and 10 here. Both take the same step of 0.1.",
        "surface": "bowl",
        "start": 0,
        "step": 1,
        "a": _side("adam", 0.1, 0.5),
        "b": _side("adam", 0.1, 0.99),
    },
    {
        "title": "RMSprop’s first leap",
        "watch": "RMSprop corrects no bias: after one step square_avg is a hundredth of the "
        "squared gradient, its root a tenth of the gradient’s size, and so the first step is ten "
        "times lr, 1 / sqrt(1 − alpha). Adam, at the same lr, steps by 0.1.",
        "surface": "bowl",
        "start": 0,
        "step": 1,
        "a": _side("rmsprop", 0.1),
        "b": _side("adam", 0.1),
    },
    {
        "title": "Momentum overshoots",
        "watch": "At the valley floor the gradient along y turns round, but the velocity has yet "
        "to be used up: with momentum the path swings through to the other side. Along x, where "
        "the gradients agree, it is faster for the same reason: it is already at the minimum, and "
        "SGD is not halfway.",
        "surface": "bowl",
        "start": 0,
        "step": 14,
        "a": _side("sgd", 0.02),
        "b": _side("momentum", 0.02),
    },
    {
        "title": "Nesterov brakes",
        "watch": "Same learning rate, same momentum. Nesterov’s direction counts the newest "
        "gradient once more, grad + momentum × momentum_buffer, and so feels the opposite slope "
        "a step earlier: the swing along y dies out at once.",
        "surface": "bowl",
        "start": 0,
        "step": 15,
        "a": _side("momentum", 0.05),
        "b": _side("nesterov", 0.05),
    },
    {
        "title": "Too large a step",
        "watch": "A step of SGD multiplies y by 1 − 16 lr here. At lr 0.1 that is −0.6: a zigzag "
        "that settles. At lr 0.2 it is −2.2: each step lands farther out, while x converges. "
        "With lr 0.5, play to the end: the numbers become inf, then nan.",
        "surface": "bowl",
        "start": 0,
        "step": 4,
        "a": _side("sgd", 0.1),
        "b": _side("sgd", 0.2),
    },
    {
        "title": "Leaving a saddle",
        "watch": "Beside the ridge the gradient along y is small, and SGD first slides to the "
        "saddle point. Adam divides by the gradient’s own size and leaves sideways at once. Now "
        "start on the ridge: the gradient along y is exactly 0, 0 / eps is 0, and neither leaves.",
        "surface": "saddle",
        "start": 0,
        "step": 10,
        "a": _side("sgd", 0.1),
        "b": _side("adam", 0.1),
    },
    {
        "title": "Decay beside the gradient",
        "watch": "AdamW’s first operation on param multiplies it by 1 − lr × weight_decay = 0.95, "
        "before and apart from the gradient’s step. The rest is Adam: exp_avg, exp_avg_sq and "
        "denom have the same numbers for both.",
        "surface": "network",
        "start": 2,
        "step": 1,
        "a": _side("adam", 0.5),
        "b": _side("adamw", 0.5),
    },
    {
        "title": "Noise, averaged",
        "watch": "Both start at the minimum and are given the same noise. Momentum 0.9 at a tenth "
        "of the learning rate takes steps a fifth as long, and ends up as far from the minimum "
        "on average: momentum smooths the path, it does not remove the noise.",
        "surface": "noisy",
        "start": 2,
        "step": 50,
        "a": _side("sgd", 0.1),
        "b": _side("momentum", 0.01),
    },
]
"""What the page offers to try."""
