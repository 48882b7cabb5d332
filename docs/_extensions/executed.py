r"""Executes the formulas of a text, and compares them with the optimizer they are about.

A text is a page or a docstring. Everything in it that is set as mathematics is read by
:mod:`mathematics`, in order, and every equation is put to the test along a run of an optimizer of
100 steps in double precision:

* what defines quantities step by step (``m_t = ...``, ``theta_t = ...``) is executed in NumPy
  from the same start; where the optimizer has that quantity too (parameters, gradients, state), the
  two must agree at every step;
* any other equation is evaluated at every step at which its quantities exist;
* what is said about a hyperparameter's range must be what the constructor accepts.

Which run: a comment in the formula, which readers do not see, says with which options or under
which gradients it holds, and what follows holds to that until the next one::

    % with momentum=0.9, nesterov=True
    % with every option
    % under constant gradients

A page that compares its optimizer with another names that one, ``% of SGD``: then the formula must
hold in a run of the other.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import re
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from mathematics import HYPERPARAMETERS, NotationError, Relation, Variable, read

import optimlab

Array = npt.NDArray[np.float64]
Sequences: TypeAlias = "dict[str, _Steps]"
"""Quantities that change from step to step: a list for each, the start at 0."""

STEPS: Final = 100
ACCURACY: Final = 1e-11
"""The largest difference that rounding in double precision may make over a run, relative to the
largest value of the run: 100 steps of a dozen roundings of 1e-16 each, and some growth."""
START: Final = np.array([0.7, -1.3, 0.02, 2.5])


class WrongFormulaError(AssertionError):
    """An equation that does not hold, or that nothing can be made of."""


# What is minimized.


def wavy_gradient(theta: Array) -> Array:
    """Return a gradient of changing sign and size, different for every element."""
    frequency = np.array([1.0, 2.0, 0.5, 3.0])
    result: Array = np.array([1.0, 0.2, 8.0, 1.0]) * np.cos(frequency * theta) + 0.1 * theta
    return result


def constant_gradient(theta: Array) -> Array:
    """Return the gradient of a plane."""
    return np.array([1.0, -0.2, 8.0, 0.01]) + 0 * theta


GRADIENTS: Final = {"any": wavy_gradient, "constant": constant_gradient}


# Which optimizers, and how the pages call their state.


@dataclass(frozen=True)
class Subject:
    """An optimizer, and the letters of its texts.

    Attributes:
        name: of its class in optimlab.
        letters: the letters of its state entries.
        options: the values of every option that its formula has to cover.
        plain: the options of a run for which a text says nothing else.
        path: where the class is, if it is not optimlab's: a file seen from ``docs``, and a name.
    """

    name: str
    letters: Mapping[str, str]
    options: Mapping[str, tuple[Any, ...]]
    plain: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""

    def make(self, params: Sequence[torch.Tensor], **options: Any) -> torch.optim.Optimizer:
        """Build the optimizer with options as the pages call them."""
        given = dict(options)
        made = _class_in(self.path) if self.path else getattr(optimlab, self.name)
        if self.name not in ("SGD", "RMSprop"):
            given["betas"] = (given.pop("beta1", 0.8), given.pop("beta2", 0.95))
        optimizer: torch.optim.Optimizer = made(params, **given)
        return optimizer

    def state_letters(self, options: Mapping[str, Any]) -> set[str]:
        """Return the letters of the state that the optimizer has with these options."""
        param = torch.zeros(1, requires_grad=True)
        optimizer = self.make([param], **options)
        param.grad = torch.ones(1)
        optimizer.step()
        return {self.letters[name] for name in optimizer.state[param] if name in self.letters}

    def every_option(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the options that the optimizer accepts."""
        for values in itertools.product(*self.options.values()):
            options = dict(zip(self.options, values, strict=True))
            try:
                self.make([torch.zeros(1, requires_grad=True)], **options)
            except ValueError:
                continue  # such as Nesterov without momentum
            yield options


@functools.cache
def _class_in(path: str) -> Any:
    file, _, name = path.partition(":")
    return runpy.run_path(str(Path(__file__).parents[1] / file))[name]


# Large enough that every term of every formula can be seen in the result.
LEARNING_RATE: Final = 0.05
EPSILON: Final = 0.01

_COMMON: Final = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
_ADAM: Final = Subject(
    "Adam",
    {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "u"},
    {**_COMMON, "amsgrad": (False, True)},
    {"weight_decay": 0.0, "eps": EPSILON},
)
SUBJECTS: Final = {
    "SGD": Subject(
        "SGD",
        {"momentum_buffer": "b"},
        {
            **_COMMON,
            "momentum": (0.0, 0.6),
            "dampening": (0.0, 0.3),
            "nesterov": (False, True),
        },
    ),
    "Adam": _ADAM,
    "AdamW": Subject("AdamW", _ADAM.letters, _ADAM.options, _ADAM.plain),
    "RMSprop": Subject(
        "RMSprop",
        {"square_avg": "v", "grad_avg": "g_bar", "momentum_buffer": "b"},
        {**_COMMON, "momentum": (0.0, 0.6), "centered": (False, True)},
        {"eps": EPSILON},
    ),
    **{
        name: Subject(name, {"exp_avg": "m"}, {"weight_decay": (0.0, 0.1)}, path=path)
        for name, path in {
            "Lion": "own/lion.py:Lion",
            "the benchmark's Lion": "../optimlab/bench/lion.py:Lion",
        }.items()
    },
}


@dataclass(frozen=True)
class Setting:
    """Which run a formula is about.

    Attributes:
        options: the optimizer's, as the pages call them.
        gradients: a key of ``GRADIENTS``.
        of: the optimizer, a key of ``SUBJECTS``; empty for the one that the text is about.
    """

    options: Mapping[str, Any]
    gradients: str = "any"
    of: str = ""


class _Steps(list[Array]):
    """A sequence that has no steps before its start."""

    def __getitem__(self, step: Any) -> Any:
        if not 0 <= step < len(self):
            raise _NotYetError(before=step < 0)
        return super().__getitem__(step)


class _NotYetError(LookupError):
    """A step before the first, or after the last that is known."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before


class Run:
    """An optimizer's own course, and the namespace in which formulas are evaluated.

    Attributes:
        sequences: what is known of the run: ``theta``, the state under the letters of the text,
            and ``g``, the gradient, where nothing is added to it.
        numbers: the hyperparameters.
    """

    def __init__(self, subject: Subject, setting: Setting) -> None:
        self.subject = subject
        self.setting = setting
        self.gradient = GRADIENTS[setting.gradients]
        self.group, course = _course(
            subject.name, tuple(setting.options.items()), setting.gradients
        )
        self.sequences = dict(course)
        self.own = frozenset(course)
        self.numbers = {name: value for name, value in self.group.items() if name != "params"}
        if "betas" in self.numbers:
            self.numbers["beta1"], self.numbers["beta2"] = self.numbers["betas"]
        self.begun: set[str] = set()
        self.used: set[str] = set()

    def copy(self) -> Run:
        """Return a run of which as much is known, and that can be followed in another way."""
        other = copy.copy(self)
        other.sequences = dict(self.sequences)
        other.begun, other.used = {*self.begun}, {*self.used}
        return other

    # Formulas.

    def follow(self, equations: Sequence[Relation]) -> set[str]:
        """Execute what defines quantities step by step, and check everything.

        Args:
            equations: of one formula, in its order.

        Returns:
            The names of the optimizer's own quantities that were computed anew.

        Raises:
            WrongFormulaError: where the optimizer, or one side of an equation, says something else.
        """
        meant = [e for e in equations if not e.condition or self.option(e.condition)]
        for equation in meant:
            names = {variable.name for variable in equation.variables if variable.step}
            left = equation.left
            if left and left.step == "t" and left.name not in self.sequences:
                names.remove(left.name)  # that it is defined puts it to no test
            self.used |= names
        self.begun |= {e.left.name for e in meant if e.left and e.left.step == "1"}
        for variable in frozenset().union(*(e.variables for e in meant)):
            if not variable.step and variable.name not in self.numbers:
                raise WrongFormulaError(f"at which step is {variable.name} meant?")
        # A wrong formula may well take the root of a negative number: then it is nan, and seen.
        with np.errstate(all="ignore"):
            defined = self._defined(meant)
            for name, values in defined.items():
                if name in self.sequences:
                    self._compare(name, values, self.sequences[name])
            self.sequences.update({n: v for n, v in defined.items() if n not in self.sequences})
            for equation in meant:
                self._hold(equation)
        return set(defined) & self.own

    def option(self, name: str) -> bool:
        if name not in self.group:
            raise WrongFormulaError(f"{self.subject.name} has no option {name!r}")
        return bool(self.group[name])

    def _defined(self, equations: Sequence[Relation]) -> Sequences:
        rules: list[tuple[str, Any]] = []
        starts: dict[str, Any] = {}
        for equation in equations:
            left = equation.left
            if left is None or not left.step or equation.claims[0] != "==":
                continue
            if left.step == "t":
                rules.append((left.name, _compiled(equation.sides[1])))
            elif left.step.isdigit():
                chain = [s for s in equation.sides[:-1] if re.fullmatch(r"\w+\[\d+\]", s)]
                if starts.keys() & set(chain):
                    raise WrongFormulaError(f"{self}: {equation} is given twice")
                starts.update(dict.fromkeys(chain, _compiled(equation.sides[-1])))
        named = dict.fromkeys(name for name, _ in rules)
        if len(named) < len(rules):
            raise WrongFormulaError(f"{self}: one formula gives a quantity twice")
        found: Sequences = {name: _Steps() for name in named}
        scope = self.namespace() | found
        for name in named:
            if f"{name}[0]" in starts:
                found[name].append(self._step(name, starts[f"{name}[0]"], scope) + 0 * START)
            elif name in self.own:
                found[name].append(self.sequences[name][0])
            elif name in self.subject.letters.values():  # all state starts at zero
                found[name].append(np.zeros_like(START))
            else:
                found[name].append(np.full_like(START, math.nan))
        for scope["t"] in range(1, STEPS + 1):
            for name, code in rules:
                at_this_step = starts.get(f"{name}[{scope['t']}]", code)
                found[name].append(self._step(name, at_this_step, scope))
        return found

    def _step(self, name: str, code: Any, scope: dict[str, Any]) -> Array:
        """Compute one value of a sequence, or begin it where its equation needs earlier steps."""
        value: Array
        try:
            value = self._evaluated(code, scope)
        except _NotYetError as missing:
            if missing.before and name in self.own:
                value = self.sequences[name][scope["t"]]
                return value
            raise WrongFormulaError(f"{self}: {name} needs steps that are not there yet") from None
        return value

    def _hold(self, equation: Relation) -> None:
        """Evaluate both sides of every claim, at every step where they exist."""
        codes = [_compiled(side) for side in equation.sides]
        steps = range(STEPS + 1) if self._changes(equation) else [STEPS]
        evaluated = 0
        scope = self.namespace()
        for t in steps:
            scope["t"] = t
            if equation.left and equation.left.step == "t" and self._starts(equation.left, t):
                continue
            try:
                values = [self._evaluated(code, scope) for code in codes]
            except _NotYetError:
                continue
            if t == 0 and any(np.isnan(np.asarray(v, dtype=float)).any() for v in values):
                continue
            evaluated += 1
            for claim, left, right in zip(equation.claims, values, values[1:], strict=False):
                self._claim(equation, claim, left, right, t)
        if not evaluated:
            raise WrongFormulaError(f"{self}: {equation} is about no step of the run")

    def _changes(self, equation: Relation) -> bool:
        return any("t" in re.findall(r"\b[a-z]+\b", v.step) for v in equation.variables) or any(
            re.search(r"\bt\b", side) for side in equation.sides
        )

    def _starts(self, quantity: Variable, t: int) -> bool:
        """Say whether a quantity is defined apart at a step, as in ``b_1 = g_1``."""
        return t == 0 or (t == 1 and quantity.name in self.begun)

    def _claim(self, equation: Relation, claim: str, left: Any, right: Any, t: int) -> None:
        sizes = [float(np.abs(side).max()) for side in (left, right) if claim != "in"]
        if not all(map(math.isfinite, sizes)):
            raise WrongFormulaError(f"{self}, step {t}: {equation}: {left} {claim} {right}")
        if claim == "==":
            holds = bool(np.all(np.abs(left - right) <= ACCURACY * max(1.0, *sizes)))
        elif claim == "in":
            low, high, with_low, with_high = right
            members = left if isinstance(left, tuple) else (left,)
            holds = all(
                (low <= m if with_low else low < m) and (m <= high if with_high else m < high)
                for m in members
            )
        else:
            holds = bool(np.all(eval(f"left {claim} right", {"left": left, "right": right})))
        if not holds:
            raise WrongFormulaError(
                f"{self}, step {t}: {equation}: {left} {claim} {right} is not so"
            )

    def _compare(self, name: str, mine: list[Array], optimizers: list[Array]) -> None:
        scale = max(1.0, float(np.abs(list(optimizers)[1:]).max()))
        if not math.isfinite(scale):  # of which any difference would be a small share
            raise WrongFormulaError(f"{self}: the optimizer's {name} is not finite")
        for t, (a, b) in enumerate(zip(mine, optimizers, strict=True)):
            if t and not np.all(np.abs(a - b) <= ACCURACY * scale):
                raise WrongFormulaError(f"{self}, step {t}: {name} is {a}, the optimizer has {b}")

    def _evaluated(self, code: Any, scope: dict[str, Any]) -> Any:
        try:
            # What is evaluated is made by the reader of formulas, out of names and arithmetic.
            return eval(code, scope)
        except NameError as error:
            raise WrongFormulaError(f"{self}: {error.name!r} is given nowhere") from None
        except ZeroDivisionError:
            raise WrongFormulaError(f"{self}: a division by zero") from None

    def namespace(self) -> dict[str, Any]:
        """Return the names that formulas are made of, and no others."""
        return {
            "__builtins__": {},
            **self.numbers,
            **self.sequences,
            "gradient": self.gradient,
            "sign_of_gradient": -1.0 if self.group.get("maximize") else 1.0,
            "option": self.option,
            "sqrt": np.sqrt,
            "maximum": np.maximum,
            "minimum": np.minimum,
            "sign": np.sign,
            "abs": np.abs,
            "sum": sum,
            "range": range,
            "Interval": lambda *bounds: bounds,
            "at_last": lambda of_step: of_step(STEPS),
        }

    def __str__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.setting.options.items())
        return f"{self.subject.name}({options})"


@functools.cache
def _course(
    name: str, given: tuple[tuple[str, Any], ...], gradients: str
) -> tuple[dict[str, Any], Sequences]:
    """Run an optimizer, and record everything that a formula may speak of, with its group."""
    subject, gradient = SUBJECTS[name], GRADIENTS[gradients]
    options = {"lr": LEARNING_RATE, **subject.plain, **dict(given)}
    param = torch.tensor(START.copy(), requires_grad=True)
    optimizer = subject.make([param], **options)
    (group,) = optimizer.param_groups
    found: Sequences = {"theta": _Steps([START.copy()])}
    grads = _Steps([np.full_like(START, math.nan)])
    for _ in range(STEPS):
        grads.append(gradient(found["theta"][len(grads) - 1]))
        param.grad = torch.from_numpy(grads[len(grads) - 1].copy())
        optimizer.step()
        found["theta"].append(param.detach().numpy().copy())
        for entry, letter in subject.letters.items():
            if entry in optimizer.state[param]:
                value = optimizer.state[param][entry].numpy().copy()
                found.setdefault(letter, _Steps([np.zeros_like(START)])).append(value)
    decoupled = group.get("decoupled_weight_decay", False)
    if not group.get("maximize") and (decoupled or not group["weight_decay"]):
        found["g"] = grads
    return group, found


@functools.cache
def _compiled(text: str) -> Any:
    return compile(text, text, "eval")


# Texts.


@dataclass(frozen=True)
class Formula:
    """Something set as mathematics.

    Attributes:
        text: its LaTeX.
        line: in its source, the first being 1.
        start: how many characters of the source are before its LaTeX.
    """

    text: str
    line: int
    start: int


_MARKDOWN: Final = re.compile(
    r"^(?P<fence>`{3,}|:{3,})(?!\{math\}).*?^(?P=fence)[ ]*$"
    r"|`[^`\n]+`"
    r"|^```\{math\}\n(?P<fenced>.*?)^```"
    r"|\$\$(?P<block>.*?)\$\$"
    r"|(?<![\\$])\$(?P<inline>[^$\n]+(?:\n[^$\n]+)?)\$",
    re.MULTILINE | re.DOTALL,
)
_DOCSTRING: Final = re.compile(
    r"^(?P<indent>[ ]*)\.\. math::\n(?P<block>(?:(?:(?P=indent)[ ]+\S.*)?\n)+)"
    r"|:math:`(?P<inline>[^`]+)`",
    re.MULTILINE,
)


def formulas(text: str, markdown: bool) -> Iterator[Formula]:
    """Find everything that is set as mathematics, in a page or a docstring."""
    for match in (_MARKDOWN if markdown else _DOCSTRING).finditer(text + "\n"):
        name = next((n for n in ("block", "fenced", "inline") if match.groupdict().get(n)), None)
        if name:
            line = text.count("\n", 0, match.start()) + 1
            yield Formula(match[name], line, match.start(name))


@dataclass(frozen=True)
class Executed:
    """What became of a text's formulas.

    Attributes:
        equations: how many were put to the test.
        computed: for each set of options, the optimizer's quantities that were computed.
    """

    equations: int
    computed: Mapping[str, frozenset[str]]


class Execution:
    """The formulas of a text, put to the test one after the other.

    Args:
        subject: the optimizer that the text is about.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._settings = [Setting({})]
        self._runs: dict[str, Run] = {}
        self._said: list[Relation] = []
        self._parts: list[tuple[int, str]] = []
        self._computed: dict[str, set[str]] = {}

    def copy(self) -> Execution:
        """Return what can be continued in another way."""
        other = Execution(self.subject)
        other._settings = self._settings
        other._runs = {key: run.copy() for key, run in self._runs.items()}
        other._said, other._parts = [*self._said], [*self._parts]
        other._computed = {name: {*computed} for name, computed in self._computed.items()}
        return other

    def take(self, formula: Formula) -> None:
        """Put the next formula to the test.

        Raises:
            NotationError: for mathematics that cannot be read; what cannot be read is not proven.
            WrongFormulaError: for an equation that does not hold.
        """
        try:
            found = _settings(formula.text, self.subject)
            self._settings = found or self._settings
            equations, expressions = read(formula.text)
            _check_ranges(equations, self.subject)
            met = []
            for setting in self._settings:
                about = SUBJECTS[setting.of] if setting.of else self.subject
                key = repr(setting)
                run = self._runs[key] = self._runs.get(key) or Run(about, setting)
                self._computed.setdefault(str(run), set()).update(run.follow(equations))
                met.append(run)
            _check_that_all_matters(equations, met)
        except (WrongFormulaError, NotationError) as error:
            raise type(error)(f"line {formula.line}: {error}") from None
        self._said += equations
        self._parts += [(formula.line, expression) for expression in expressions]

    def end(self) -> Executed:
        """Check what only the whole text can show, and return what was done.

        What stands in the text as mathematics without an equals sign, such as a sum that a sentence
        speaks of, must be a part of one of its equations.

        Raises:
            WrongFormulaError: for what is put to no test.
        """
        for run in self._runs.values():
            if idle := set(run.sequences) - run.own - run.used:
                raise WrongFormulaError(
                    f"{run}: nothing puts {', '.join(sorted(idle))} to the test"
                )
        for line, part in self._parts:
            if not any(part in side for equation in self._said for side in equation.sides):
                raise WrongFormulaError(f"line {line}: {part} stands in no equation of this text")
        computed = {name: frozenset(names) for name, names in self._computed.items()}
        return Executed(len(self._said), computed)


def execute(text: str, subject: Subject, *, markdown: bool) -> Executed:
    """Put every equation of a text to the test.

    Args:
        text: a page in Markdown, or a docstring.
        subject: the optimizer that it is about.
        markdown: whether it is a page.

    Returns:
        What was done.

    Raises:
        NotationError: for mathematics that cannot be read; what cannot be read is not proven.
        WrongFormulaError: for an equation that does not hold.
    """
    execution = Execution(subject)
    for formula in formulas(text, markdown):
        execution.take(formula)
    return execution.end()


def _check_that_all_matters(equations: Sequence[Relation], runs: Sequence[Run]) -> None:
    """Check that hyperparameters are not always 0, and options not always on, or always off."""
    for equation in equations:
        if any(variable.step for variable in equation.variables):
            for variable in equation.variables:
                if not variable.step and not any(run.numbers[variable.name] for run in runs):
                    raise WrongFormulaError(f"{variable.name} is 0 wherever {equation} is tested")
        named = re.findall(r"option\('(\w+)'\)", str(equation))
        for option in [*named, *([equation.condition] if equation.condition else [])]:
            if len({run.option(option) for run in runs}) < 2:
                raise WrongFormulaError(f"{option} is always the same where {equation} is tested")


def _settings(text: str, subject: Subject) -> list[Setting]:
    """Read the comments that say which runs a formula is about."""
    options: list[dict[str, Any]] = [{}]
    gradients, of = "any", ""
    comments = re.findall(r"(?<!\\)%\s*(with|under|of)\s+(.*)", text)
    if len(comments) != len(re.findall(r"(?<!\\)%", text)):
        raise WrongFormulaError("a comment that says nothing about the run")
    if len({kind for kind, _ in comments}) != len(comments):
        raise WrongFormulaError("two comments say the same kind of thing")
    for kind, what in comments:
        if kind == "under":
            gradients = what.split()[0]
        elif kind == "of":
            of = what.strip()
        elif what.strip() == "every option":
            options = list(subject.every_option())
        else:
            options = [eval(f"dict({what})", {"__builtins__": {}, "dict": dict})]
    return [Setting(o, gradients, of) for o in options] if comments else []


def _check_ranges(equations: Sequence[Relation], subject: Subject) -> None:
    """Check what a text says about the range of hyperparameters against the constructor."""
    for equation in equations:
        names = equation.sides[0].split(", ")
        if any(v.step for v in equation.variables) or not equation.variables:
            continue
        if not set(names) <= set(HYPERPARAMETERS.values()) or set(equation.claims) - {">=", "in"}:
            if "==" in equation.claims and re.search(r"\bt\b", " ".join(equation.sides)):
                continue  # such as a geometric series
            raise WrongFormulaError(f"{equation}: whose range is this?")
        for name, claim in itertools.product(names, equation.claims):
            if claim == ">=":
                low = float(equation.sides[1])
                _check_range(subject, name, inside=[low], outside=[math.nextafter(low, -1.0)])
            elif claim == "in":
                low, high, with_low, with_high = _evaluate_interval(equation.sides[1])
                bounds = {low: with_low, high: with_high}
                beyond = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
                within = [math.nextafter(low, math.inf), math.nextafter(high, -math.inf)]
                _check_range(
                    subject,
                    name,
                    inside=[*(b for b, included in bounds.items() if included), *within],
                    outside=[*(b for b, included in bounds.items() if not included), *beyond],
                )


def _evaluate_interval(text: str) -> tuple[float, float, bool, bool]:
    bounds: Callable[..., Any] = lambda *given: given  # noqa: E731
    low, high, with_low, with_high = eval(text, {"__builtins__": {}, "Interval": bounds})
    return float(low), float(high), with_low, with_high


def _check_range(
    subject: Subject, name: str, inside: Sequence[float], outside: Sequence[float]
) -> None:
    for value, accepted in [*((v, True) for v in inside), *((v, False) for v in outside)]:
        try:
            subject.make([torch.zeros(1, requires_grad=True)], **{name: value})
        except (TypeError, ValueError):  # no such option, or not this value
            done = False
        else:
            done = True
        if done != accepted:
            answer = "accepts" if done else "refuses"
            raise WrongFormulaError(f"{subject.name} {answer} {name}={value!r}")
