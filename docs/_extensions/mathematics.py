r"""Reads the mathematics of the documentation, and turns it into NumPy.

What a page prints, :math:`m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t`, becomes
``m[t] == beta_1 * m[t - 1] + (1 - beta_1) * g[t]``, so that a test can execute it. The reader
knows the notation of these pages and refuses everything else: a general parser of LaTeX that skips
what it does not understand would let a wrong formula pass.

Notation:
    ``x_t``, ``x_{t-1}``, ``x_1``: a sequence over the steps, at a step. ``\hat x``, ``\bar x`` and
    ``\tilde x`` are names of their own, and so is ``\Delta x``.
    ``\beta_1``, ``\gamma``: hyperparameters, as listed in ``HYPERPARAMETERS``.
    ``\nabla f(x)``: the gradient at a point. ``\pm``: minus where ``maximize`` is on.
    ``\frac{a}{b}``, ``a / b``, ``\sqrt{a}``, ``|a|``, ``\max(a, b)``, ``\operatorname{sign}(a)``.
    ``\sum_{i=1}^{t} a``; ``\lim_{t \to \infty} a``.
    ``\begin{cases} a & \text{option} \\ b & \text{otherwise} \end{cases}``, by options' names; the
    same after an equation, ``\text{(option)}``, says when the equation is meant.
    A line that begins with a relation goes on with the chain of the line before it, and one that
    begins with a plus or minus with its sum.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

HYPERPARAMETERS: Final = {
    "gamma": "lr",
    "lambda": "weight_decay",
    "mu": "momentum",
    "tau": "dampening",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "epsilon": "eps",
    "alpha": "alpha",
}
"""The Greek letters of hyperparameters, and how torch calls them."""
SEQUENCES: Final = {"theta", "phi"}
"""The Greek letters that change from step to step, as every Latin letter does."""

RELATIONS: Final = {
    "=": "==",
    "\\leftarrow": "==",
    "\\ge": ">=",
    "\\le": "<=",
    "<": "<",
    ">": ">",
    "\\in": "in",
}
FUNCTIONS: Final = {"max": "maximum", "min": "minimum", "sign": "sign"}
INDICES: Final = {"t", "i"}

_TOKEN: Final = re.compile(
    r"\\begin\{\w+\}|\\end\{\w+\}|\\operatorname\{\w+\}|\\text\{[^}]*\}"
    r"|\\[A-Za-z]+|\\\\|\\[,;:! ]|\d+(?:\.\d+)?|[A-Za-z]|\S"
)
_NAME: Final = r"\w+(\[[^\]]*\])?"
_SPACES: Final = {"\\,", "\\;", "\\:", "\\!", "\\ ", "\\left", "\\right", "\\displaystyle"}
_LINE_AND_INDENT: Final = {"\\\\", "&", "\\quad", "\\qquad"}
_BREAKS: Final = {"\\\\", "&", "\\quad", "\\qquad", ",", ".", ";", ":"}


class NotationError(ValueError):
    """A formula that cannot be read, and the place where reading it ended."""


@dataclass(frozen=True)
class Variable:
    """A name, and the step it is taken at.

    Attributes:
        name: as a Python identifier: ``m``, ``m_hat``, ``theta``, ``beta_1``.
        step: as Python: ``t``, ``t - 1``, ``1``; empty for a hyperparameter.
    """

    name: str
    step: str = ""

    def __str__(self) -> str:
        return f"{self.name}[{self.step}]" if self.step else self.name


@dataclass(frozen=True)
class Relation:
    """A chain of expressions and what is claimed between them: ``a = b = c``, or one alone.

    Attributes:
        text: as printed.
        sides: the expressions, as Python on NumPy arrays.
        claims: the relations between neighbours, as Python.
        left: the variable on the left, where it is one and nothing else.
        variables: every variable that occurs.
        condition: the option that the page says it is meant for; empty for none.
    """

    text: str
    sides: tuple[str, ...]
    claims: tuple[str, ...]
    left: Variable | None
    variables: frozenset[Variable]
    condition: str = ""

    def __str__(self) -> str:
        words = [self.sides[0]]
        for claim, side in zip(self.claims, self.sides[1:], strict=True):
            words += ["=" if claim == "==" else claim, side]
        return " ".join(words)


def read(text: str) -> tuple[list[Relation], list[str]]:
    """Read every equation and inequality of a formula.

    Args:
        text: LaTeX, as it stands between the dollars or under ``.. math::``. Equations end at a
            new line (two backslashes), a comma, a full stop or a wide space.

    Returns:
        The equations and inequalities, in the order of the page; and what stands there without
        either, as Python, where it is more than one name or number.

    Raises:
        NotationError: for what this module does not know, and for what stands beside equations
            without being one.
    """
    relations: list[Relation] = []
    expressions: list[str] = []
    chains: list[list[str]] = []
    for piece in pieces(sums_in_one_line(tokens(text))):
        if piece[0] in RELATIONS and chains:
            chains[-1] += piece  # a chain that goes on in the next line
        else:
            chains.append(piece)
    for chain in chains:
        reader = _Reader(chain)
        relation = reader.relation()
        if relation.claims:
            relations.append(relation)
        else:
            expressions += reader.listed
    if relations and expressions:
        raise NotationError(f"{', '.join(expressions)} stands beside equations, and is none")
    return relations, [e for e in expressions if not re.fullmatch(_NAME, e)]


def tokens(text: str) -> list[str]:
    """Divide a formula into its words, without comments and spaces."""
    without_comments = re.sub(r"(?<!\\)%.*", "", text)
    return [token for token in _TOKEN.findall(without_comments) if token not in _SPACES]


def sums_in_one_line(words: Sequence[str]) -> list[str]:
    """Take out the line breaks before a plus or minus, which end no equation."""
    found: list[str] = []
    at = 0
    while at < len(words):
        begin = at
        while begin < len(words) and words[begin] in _LINE_AND_INDENT:
            begin += 1
        goes_on = words[at] == "\\\\" and words[begin : begin + 1] in (["+"], ["-"])
        if goes_on and not _inside_cases(found) and found[-1:] not in ([","], ["."]):
            at = begin
        found.append(words[at])
        at += 1
    return found


def _inside_cases(before: Sequence[str]) -> bool:
    return before.count("\\begin{cases}") > before.count("\\end{cases}")


def pieces(words: Sequence[str]) -> Iterator[list[str]]:
    """Divide a formula where one equation ends and another begins."""
    piece: list[str] = []
    depth = 0
    for word in words:
        if word in ("(", "{", "[") or word.startswith("\\begin{cases}"):
            depth += 1
        elif word in (")", "}", "]") or word.startswith("\\end{cases}"):
            depth -= 1
        if word.startswith(("\\begin", "\\end")) and "cases" not in word:
            continue
        if depth <= 0 and word in _BREAKS and not _goes_on(piece, word):
            if piece:
                yield piece
            piece = []
        elif depth > 0 or word != "&":
            piece.append(word)
    if piece:
        yield piece


def _goes_on(piece: list[str], word: str) -> bool:
    r"""Say whether an equation goes on behind a ``&``, or a list of names behind a comma."""
    if word == "&":
        return True
    return word == "," and not any(w in RELATIONS for w in piece) and bool(piece)


@dataclass
class _Reader:
    """Recursive descent: a relation is a chain of sums, a sum of products, a product of powers."""

    words: Sequence[str]
    at: int = 0
    variables: set[Variable] = field(default_factory=set)
    condition: str = ""
    between_bars: bool = False
    listed: tuple[str, ...] = ()

    # Words.

    def error(self, what: str) -> NotationError:
        return NotationError(f"{' '.join(self.words)}: {what}")

    def peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def take(self, expected: str = "") -> str:
        word = self.peek()
        if not word or (expected and word != expected):
            wanted = f"{expected!r} before" if expected else "more before"
            raise self.error(f"{wanted} {word or 'its end'!r}")
        self.at += 1
        return word

    def accept(self, word: str) -> bool:
        if self.peek() == word:
            self.at += 1
            return True
        return False

    # Relations.

    def relation(self) -> Relation:
        sides, claims = [self.members()], []
        while self.peek() in RELATIONS:
            if self.accept("\\in"):
                claims.append("in")
                sides.append(self.interval())
            else:
                claims.append(RELATIONS[self.take()])
                sides.append(self.sum())
        if self.peek().startswith("\\text{"):
            self.condition = _option(self.take())
        if self.peek():
            raise self.error(f"cannot read on from {self.peek()!r}")
        return Relation(
            " ".join(self.words),
            tuple(sides),
            tuple(claims),
            next((v for v in self.variables if str(v) == sides[0]), None),
            frozenset(self.variables),
            self.condition,
        )

    def members(self) -> str:
        r"""Read one side, or the names in front of a set: ``a, b \in [0, 1)``."""
        names = [self.sum()]
        while self.accept(","):
            names.append(self.sum())
        self.listed = tuple(names)
        return ", ".join(names)

    def interval(self) -> str:
        opening, low = self.take(), self.sum()
        self.take(",")
        high, closing = self.sum(), self.take()
        return f"Interval({low}, {high}, {opening == '['}, {closing == ']'})"

    # Arithmetic.

    def sum(self) -> str:
        text = self.signed()
        while self.peek() in ("+", "-"):
            text = f"{text} {self.take()} {self.product()}"
        return text

    def signed(self) -> str:
        if self.accept("-"):
            return f"-{self.product()}"
        if self.accept("\\pm"):
            return f"sign_of_gradient * {self.product()}" if self.peek() else "sign_of_gradient"
        return self.product()

    def product(self) -> str:
        text = self.power()
        while True:
            if self.accept("/"):
                text = f"{text} / {self.power()}"
                if self.begins_a_factor():
                    raise self.error("a / b c reads in two ways")
            elif self.peek() in ("\\cdot", "\\times", "\\odot"):
                self.take()
                text = f"{text} * {self.power()}"
            elif self.begins_a_factor():
                text = f"{text} * {self.power()}"
            else:
                return text

    def begins_a_factor(self) -> bool:
        word = self.peek()
        if word == "|":
            return not self.between_bars
        if word in RELATIONS or word in _BREAKS or word.startswith(("\\text{", "\\end")):
            return False
        return bool(re.fullmatch(r"[A-Za-z(\[]|\d.*|\\[A-Za-z]+.*", word)) and word not in (
            "\\pm",
            "\\cdot",
            "\\times",
            "\\to",
            "\\infty",
        )

    def power(self) -> str:
        base = self.atom()
        if not self.accept("^"):
            return base
        exponent = self.argument()
        return f"{base}**{exponent if exponent.isalnum() else f'({exponent})'}"

    def argument(self) -> str:
        r"""Read what a superscript or a command takes: one word, or a group in braces."""
        if self.accept("{"):
            text = self.sum()
            self.take("}")
            return text
        return self.atom()

    def atom(self) -> str:
        word = self.take()
        if word == "(":
            text = self.sum()
            self.take(")")
            return f"({text})"
        if word == "|":
            self.between_bars = True
            text = self.sum()
            self.take("|")
            self.between_bars = False
            return f"abs({text})"
        if re.fullmatch(r"\d+(\.\d+)?", word):
            return word
        if re.fullmatch(r"[A-Za-z]", word):
            return self.variable(word)
        name = word.removeprefix("\\operatorname{").removeprefix("\\").removesuffix("}")
        if name in FUNCTIONS:
            return f"{FUNCTIONS[name]}({self.arguments()})"
        reader = getattr(self, f"read_{name.replace('{', '_')}", None)
        if reader is not None:
            return str(reader())
        if word.startswith("\\") and name.isalpha():
            return self.variable(name)
        raise self.error(f"{word!r} is not known here")

    def arguments(self) -> str:
        self.take("(")
        names = self.members()
        self.take(")")
        return names

    # Names.

    def variable(self, letter: str, accent: str = "") -> str:
        """Read a name with its index: a step, or part of a hyperparameter's name."""
        if letter in INDICES:
            return letter
        if letter == "f" and self.peek() == "(":
            return f"loss({self.arguments()})"
        if len(letter) == 1 or letter in SEQUENCES:
            name = f"{letter}_{accent}" if accent else letter
            found = Variable(name, self.argument() if self.accept("_") else "")
        else:
            name = f"{letter}_{self.take()}" if self.accept("_") else letter
            if name not in HYPERPARAMETERS or accent:
                raise self.error(f"no hyperparameter is {name!r}")
            found = Variable(HYPERPARAMETERS[name])
        self.variables.add(found)
        return str(found)

    def accented(self, accent: str) -> str:
        braces = self.accept("{")
        letter = self.take().removeprefix("\\")
        if braces:
            self.take("}")
        return self.variable(letter, accent)

    def read_hat(self) -> str:
        return self.accented("hat")

    def read_bar(self) -> str:
        return self.accented("bar")

    def read_tilde(self) -> str:
        return self.accented("tilde")

    def read_Delta(self) -> str:  # noqa: N802 - named as the command
        return self.accented("change")

    # Commands.

    def read_frac(self) -> str:
        top, bottom = self.argument(), self.argument()
        return f"({_bracketed(top)} / {_bracketed(bottom)})"

    def read_sqrt(self) -> str:
        return f"sqrt({self.argument()})"

    def read_nabla(self) -> str:
        self.take("f")
        return f"gradient({self.arguments()})" if self.peek() == "(" else "gradient"

    def read_sum(self) -> str:
        self.take("_")
        self.take("{")
        index = self.take()
        self.take("=")
        low = self.sum()
        self.take("}")
        self.take("^")
        high = self.argument()
        return f"sum({self.product()} for {index} in range({low}, {high} + 1))"

    def read_lim(self) -> str:
        for word in ("_", "{", "t", "\\to", "\\infty", "}"):
            self.take(word)
        return f"at_last(lambda t: {self.product()})"

    def read_begin_cases(self) -> str:
        text = ""
        while True:
            value = self.sum()
            self.accept("&")
            option = _option(self.take())
            self.accept("\\\\")
            if self.accept("\\end{cases}"):
                if option != "otherwise":
                    raise self.error("the last case is 'otherwise'")
                return f"({text}{value})"
            text += f"{value} if option({option!r}) else "


def _option(word: str) -> str:
    r"""Return the option that a condition names, such as ``\text{(centered)}``."""
    if not word.startswith("\\text{"):
        raise NotationError(f"a condition stands in \\text{{...}}, not as {word!r}")
    return word.removeprefix("\\text{").removesuffix("}").strip(" ().,").removeprefix("if ")


def _bracketed(text: str) -> str:
    """Put brackets around what is more than one name."""
    return text if re.fullmatch(_NAME, text) else f"({text})"
