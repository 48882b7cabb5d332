"""Writes a formula as a program, to be read beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mathematics import Relation

LONGEST = 72
"""Characters in a line of a listing that a narrow window shows without scrolling."""


def as_numpy(equations: Sequence[Relation]) -> str:
    """Write equations that define quantities step by step as a loop.

    Sequences are arrays, indexed by the step, that begin at zero.
    """
    begun = {e.left.name: e.sides[-1] for e in equations if e.left and e.left.step == "1"}
    before = [f"{e.left} = {e.sides[-1]}" for e in equations if e.left and e.left.step == "0"]
    loop = []
    for equation in equations:
        left = equation.left
        if left is not None and left.step == "t":
            line = f"{left} = {_plain(equation.sides[1])}"
            if left.name in begun:
                line += f" if t > 1 else {begun[left.name]}"
            loop.append(f"    {wrapped(line)}")
    return "\n".join([*before, "for t in range(1, steps + 1):", *loop])


def _plain(side: str) -> str:
    """Spell options and signs as a program does."""
    plain = re.sub(r"option\('(\w+)'\)", r"\1", side)
    return plain.replace("sign_of_gradient", "(-1 if maximize else 1)")


def wrapped(line: str) -> str:
    """Put each summand of a long assignment on a line of its own."""
    if len(line) <= LONGEST:
        return line
    depth, summands = 0, [""]
    name, _, value = line.partition(" = ")
    for word in re.split(r"( [+-] |[()\[\]])", value):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        if depth == 0 and word in (" + ", " - "):
            summands.append(word.lstrip())
        else:
            summands[-1] += word
    return "\n        ".join([f"{name} = (", *summands]) + "\n    )"
