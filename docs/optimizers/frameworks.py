"""Measures where optax's and Keras's optimizers take other paths than the formulas of these pages.

The formula of a page, the one that covers every option, is read and executed in NumPy; optax or
Keras takes the same steps from the same start, all in double precision. Printed is the largest
difference between the two paths, as a share of the way that the formula's path goes: after the
first step, over 100 steps, and over 100 steps in which the learning rate is divided by ten halfway.
Rounding makes 1e-13 and less. A measurement that is not what the pages say is marked, and the
program then exits with status 1.

It needs neither torch nor optimlab, only the two frameworks beside NumPy::

    pip install optax keras
    python docs/optimizers/frameworks.py
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "_extensions"))

from mathematics import read  # noqa: E402 - found by the line above

Array = npt.NDArray[np.float64]
Course = list[Array]
Rates = Sequence[float]

STEPS: Final = 100
ROUNDING: Final = 1e-13
START: Final = np.array([0.7, -1.3, 0.02, 2.5])
CONSTANT: Final = [0.05] * STEPS
FALLING: Final = [0.05] * (STEPS // 2) + [0.005] * (STEPS // 2)
PLAIN: Final = {
    "sgd": {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    "rmsprop": {"alpha": 0.9, "eps": 0.01, "weight_decay": 0.0, "momentum": 0.0, "centered": False},
    "adam": {"beta1": 0.9, "beta2": 0.99, "eps": 0.01, "weight_decay": 0.0, "amsgrad": False},
    "adamw": {"beta1": 0.9, "beta2": 0.99, "eps": 0.01, "weight_decay": 0.0, "amsgrad": False},
}
"""Options that a comparison does not name; an eps that can be seen."""
OPTAX_ADAM: Final = {"b1": 0.9, "b2": 0.99, "eps": 0.01}
KERAS_ADAM: Final = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 0.01}


def gradient(theta: Array) -> Array:
    """Return a gradient of changing sign and size, different for every weight."""
    size, frequency = np.array([1.0, 0.2, 8.0, 1.0]), np.array([1.0, 2.0, 0.5, 3.0])
    found: Array = size * np.cos(frequency * theta) + 0.1 * theta
    return found


# The formula of a page.


def formula_path(page: str, options: dict[str, Any], rates: Rates) -> Course:
    """Carry the formula of a page out, step by step."""
    text = (HERE / f"{page}.md").read_text(encoding="utf-8")
    (formula,) = re.findall(r"\$\$\n% with every option\n(.*?)\$\$", text, re.DOTALL)
    equations = [equation for equation in read(formula)[0] if equation.left]
    kept: dict[str, dict[int, Any]] = {e.left.name: {0: 0 * START} for e in equations if e.left}
    kept["theta"][0] = START
    given = {**PLAIN[page], **options}
    names = {
        **given,
        **kept,
        "gradient": gradient,
        "sign_of_gradient": 1.0,
        "option": lambda name: bool(given[name]),
        "sqrt": np.sqrt,
        "maximum": np.maximum,
    }
    first = {e.left.name: e.sides[1] for e in equations if e.left and e.left.step == "1"}
    for t, lr in enumerate(rates, start=1):
        for equation in equations:
            if equation.left and equation.left.step == "t":
                name = equation.left.name
                side = first[name] if t == 1 and name in first else equation.sides[1]
                kept[name][t] = eval(side, {"__builtins__": {}}, {**names, "t": t, "lr": lr})
    return [kept["theta"][t] for t in range(len(rates) + 1)]


# The frameworks.


def optax_path(make: Callable[[Any], Any], rates: Rates) -> Course:
    """Take optax's steps, with the learning rate given as its schedule."""
    optax, numpy = map(importlib.import_module, ("optax", "jax.numpy"))
    optimizer = make(lambda count: numpy.asarray(rates)[count])
    theta = numpy.asarray(START)
    state = optimizer.init(theta)
    path = [START]
    for _ in rates:
        updates, state = optimizer.update(gradient(path[-1]), state, theta)
        theta = optax.apply_updates(theta, updates)
        path.append(np.asarray(theta))
    return path


def keras_path(make: Callable[[Any], Any], rates: Rates) -> Course:
    """Take Keras's steps, with the learning rate set before each."""
    keras = importlib.import_module("keras")
    keras.config.set_floatx("float64")
    optimizer = make(rates[0])
    theta = keras.Variable(START)
    optimizer.build([theta])
    path = [START]
    for lr in rates:
        optimizer.learning_rate = lr
        optimizer.apply([keras.ops.convert_to_tensor(gradient(path[-1]))], [theta])
        path.append(np.asarray(theta.value))
    return path


PATHS: Final = {"optax": optax_path, "keras": keras_path}


def frameworks() -> tuple[Any, Any]:
    """Import Keras's optimizers and optax, for double precision on the CPU."""
    os.environ.update(KERAS_BACKEND="jax", JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")
    return importlib.import_module("keras").optimizers, importlib.import_module("optax")


# Comparing.


@dataclass(frozen=True)
class Comparison:
    """What one line of the table is about.

    Attributes:
        page: whose formula.
        options: of the formula, where they are not the plain ones.
        what: the other side, as a reader would write it.
        make: builds it, given the learning rate.
        same: at which of the three measurements the pages say that both take the same path.
    """

    page: str
    options: dict[str, Any]
    what: str
    make: Callable[[Any], Any]
    same: tuple[bool, bool, bool]

    def measure(self) -> tuple[float, float, float]:
        path_of = PATHS[re.split(r"\W", self.what)[0]]
        ours = [formula_path(self.page, self.options, rates) for rates in (CONSTANT, FALLING)]
        theirs = [path_of(self.make, rates) for rates in (CONSTANT, FALLING)]
        first = apart(ours[0][:2], theirs[0][:2])
        return first, apart(ours[0], theirs[0]), apart(ours[1], theirs[1])


def apart(ours: Course, theirs: Course) -> float:
    """Return the largest difference of two paths, as a share of how far the first one goes."""
    way = max(float(np.abs(theta - START).max()) for theta in ours)
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / way


SAME: Final = (True, True, True)
OTHER: Final = (False, False, False)
UNTIL_LR_CHANGES: Final = (True, True, False)
AFTER_FIRST: Final = (True, False, False)


def comparisons() -> Iterator[Comparison]:
    """Yield everything that the pages say about optax and Keras."""
    yield from _sgd()
    yield from _rmsprop()
    yield from _adam()
    yield from _adamw()


def _sgd() -> Iterator[Comparison]:
    k, o = frameworks()
    ball, decay = {"momentum": 0.9}, {"weight_decay": 0.1}
    nesterov, averaged = {**ball, "nesterov": True}, {**ball, "dampening": 0.9}
    said = partial(Comparison, "sgd")
    yield said({}, "optax.sgd()", o.sgd, SAME)
    yield said({}, "keras.SGD()", k.SGD, SAME)
    yield said(ball, "optax.sgd(momentum)", partial(o.sgd, **ball), SAME)
    yield said(ball, "keras.SGD(momentum)", partial(k.SGD, **ball), UNTIL_LR_CHANGES)
    yield said(nesterov, "optax.sgd(nesterov)", partial(o.sgd, **nesterov), SAME)
    yield said(nesterov, "keras.SGD(nesterov)", partial(k.SGD, **nesterov), UNTIL_LR_CHANGES)
    ema = after(o.ema(0.9, debias=False), o.sgd)
    yield said(averaged, "optax.ema(debias=False), sgd()", ema, OTHER)
    both, decayed = {**ball, **decay}, o.add_decayed_weights(0.1)
    penalized = after(decayed, partial(o.sgd, **ball))
    yield said(both, "optax.add_decayed_weights, sgd(momentum)", penalized, SAME)
    yield said(decay, "keras.SGD(weight_decay)", partial(k.SGD, **decay), SAME)
    yield said(both, "keras.SGD(momentum, weight_decay)", partial(k.SGD, **both), AFTER_FIRST)


def _rmsprop() -> Iterator[Comparison]:
    k, o = frameworks()
    ball, decay, exact, centered = (
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"eps": 0.0},
        {"centered": True},
    )
    inside = partial(o.rmsprop, decay=0.9, eps=0.01)
    outside = partial(inside, eps_in_sqrt=False)
    keras_inside = partial(k.RMSprop, rho=0.9, epsilon=0.01)
    without = partial(keras_inside, epsilon=0.0)
    said = partial(Comparison, "rmsprop")
    yield said({}, "optax.rmsprop()", inside, OTHER)
    yield said({}, "optax.rmsprop(eps_in_sqrt=False)", outside, SAME)
    yield said(
        centered, "optax.rmsprop(eps_in_sqrt=False, centered)", partial(outside, **centered), SAME
    )
    yield said(
        ball,
        "optax.rmsprop(eps_in_sqrt=False, momentum)",
        partial(outside, **ball),
        UNTIL_LR_CHANGES,
    )
    yield said({}, "keras.RMSprop()", keras_inside, OTHER)
    yield said(exact, "keras.RMSprop(epsilon=0)", without, SAME)
    yield said(
        {**exact, **ball},
        "keras.RMSprop(epsilon=0, momentum)",
        partial(without, **ball),
        UNTIL_LR_CHANGES,
    )
    yield said(
        {**exact, **decay},
        "keras.RMSprop(epsilon=0, weight_decay)",
        partial(without, **decay),
        OTHER,
    )


def _adam() -> Iterator[Comparison]:
    k, o = frameworks()
    largest, decay, exact = {"amsgrad": True}, {"weight_decay": 0.1}, {"eps": 0.0}
    with_eps = partial(k.Adam, **KERAS_ADAM)
    without = partial(with_eps, epsilon=0.0)
    said = partial(Comparison, "adam")
    yield said({}, "optax.adam()", partial(o.adam, **OPTAX_ADAM), SAME)
    yield said({}, "keras.Adam()", with_eps, OTHER)
    yield said(exact, "keras.Adam(epsilon=0)", without, SAME)
    yield said(largest, "optax.amsgrad()", partial(o.amsgrad, **OPTAX_ADAM), AFTER_FIRST)
    yield said(
        {**exact, **largest}, "keras.Adam(epsilon=0, amsgrad)", partial(without, **largest), SAME
    )
    penalized = after(o.add_decayed_weights(0.1), partial(o.adam, **OPTAX_ADAM))
    yield said(decay, "optax.add_decayed_weights, adam()", penalized, SAME)
    yield said(
        {**exact, **decay}, "keras.Adam(epsilon=0, weight_decay)", partial(without, **decay), OTHER
    )


def _adamw() -> Iterator[Comparison]:
    k, o = frameworks()
    decay, exact = {"weight_decay": 0.1}, {"eps": 0.0, "weight_decay": 0.1}
    keras_exact = {**KERAS_ADAM, "epsilon": 0.0, **decay}
    said = partial(Comparison, "adamw")
    yield said(decay, "optax.adamw()", partial(o.adamw, **OPTAX_ADAM, **decay), SAME)
    yield said(exact, "keras.AdamW(epsilon=0)", partial(k.AdamW, **keras_exact), SAME)
    yield said(exact, "keras.Adam(epsilon=0, weight_decay)", partial(k.Adam, **keras_exact), SAME)
    yield said(
        decay, "optax, the paper's with decay 0.1 * lr", papers_adamw(0.1 * CONSTANT[0]), SAME
    )
    yield said(decay, "optax, the paper's with decay 0.1", papers_adamw(0.1), OTHER)


def after(transformation: Any, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Put a transformation of gradients before an optimizer of optax."""
    _, o = frameworks()
    return lambda lr: o.chain(transformation, make(lr))


def papers_adamw(decay: float) -> Callable[[Any], Any]:
    """Build algorithm 2 of the paper: a step size that stays, and the schedule's multiplier."""
    _, o = frameworks()
    return lambda lr: o.chain(
        o.scale_by_adam(**OPTAX_ADAM),
        o.scale(CONSTANT[0]),
        o.add_decayed_weights(decay),
        o.scale_by_learning_rate(lambda count: lr(count) / CONSTANT[0]),
    )


def main() -> int:
    """Print the table, and return 1 if the pages say otherwise anywhere."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("optax", "keras", "jax"))
    print(f"{', '.join(versions)}, {datetime.date.today()}\n")
    print(f"{'formula':<46}{'other side':<45}{'step 1':>8}{'lr constant':>13}{'lr falls':>10}")
    wrong = 0
    for comparison in comparisons():
        found = comparison.measure()
        as_said = tuple(number <= ROUNDING for number in found) == comparison.same
        wrong += not as_said
        options = ", ".join(f"{name}={value}" for name, value in comparison.options.items())
        first, constant, falling = (f"{number:.0e}" for number in found)
        print(
            f"{f'{comparison.page}({options})':<46}{comparison.what:<45}"
            f"{first:>8}{constant:>13}{falling:>10}{'' if as_said else '  NOT WHAT THE PAGES SAY'}"
        )
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
