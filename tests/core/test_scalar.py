"""A symbolic scalar is the number that it stands for, and right wherever its guards hold."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optimlab.core.scalar import Scalars, is_symbolic

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
        code = [7.0, 0.0]
        try:
            holds = compute(code, {"x": other})
        except ArithmeticError:
            continue  # the rule has to be run
        if holds:
            expected = answered(answer, other)
            assert shown(code[1] if is_symbol else found) == expected, other


def test_hyperparameters_of_another_kind_are_not_computed_with() -> None:
    scalars = Scalars()
    group = {"lr": 0.5, "betas": (0.5, 0.75), "amsgrad": False, "{}": 2, "foreach": None}
    symbols = scalars.group(group)
    number = (symbols["lr"] - symbols["betas"][0]) * symbols["{}"] - scalars.step_count(3.0)
    compute = scalars.compiled([(1, number)], guarded={"foreach"})
    code = [4.0, 0.0]
    assert compute(code, {**group, "lr": 1.0, "betas": (0.25, 0.5), "foreach": True})
    assert code[1] == (1.0 - 0.25) * 2 - 4.0
    for betas in ([0.5, 0.75], (0.5, 0.75, 0.9), (0.5,), (1, 0.5), (np.float64(0.5), 0.5), 0.5):
        assert not compute(code, {**group, "betas": betas})
    for change in ({"lr": 1}, {"lr": np.float64(0.5)}, {"amsgrad": True}, {"{}": 3}, {"{}": 2.0}):
        assert not compute(code, {**group, **change})


@pytest.mark.parametrize(
    "text",
    [
        *("a - (b - c)", "a - b - c", "a / (b / c)", "a / b * c", "(a + b) * c", "a + b * c"),
        *("(a**b)**c", "a**b**c", "-(a - b)", "(-a)**b", "1 - a", "2 * a", "3 / a", "2**a"),
        "a + 1",
    ],
)
def test_expressions_keep_the_parentheses_they_need(text: str) -> None:
    values = {"a": 5.0, "b": 2.0, "c": 0.5}
    number = eval(text, dict(Scalars().group(values)))
    assert number.text == text
    assert number.value == eval(text, dict(values))
