"""Two recorded steps beside one another: their operations, and the numbers where they diverge."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence

import torch

from optimlab.lab.compare.integers import hexadecimal
from optimlab.lab.explain.divergence import Divergence
from optimlab.lab.explain.explanation import Line, Shown
from optimlab.lab.record.registers import Value
from optimlab.lab.record.writing import Operation

# ATen calls one argument differently in operations on lists.
_NUMBERS = dict.fromkeys(("other", "scalar", "scalars", "self"), "number") | {"weights": "weight"}


def lines_of(found: Divergence) -> tuple[Line, ...]:
    """Lay both sequences of operations side by side; results that both have stand on one line."""
    left, right = found.a.step.computing(), found.b.step.computing()
    keys = [[tuple(value.digest for value in o.results) for o in each] for each in (left, right)]
    lines: list[Line] = []
    matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for tag, i, j, k, end in matcher.get_opcodes():
        for ours, theirs in itertools.zip_longest(left[i:j], right[k:end]):
            diverges = {ours, theirs} & {*found.operations} - {None}
            mark = "=" if tag == "equal" else "≠" if diverges else ""
            lines.append(Line(mark, _short(ours), _short(theirs)))
    return tuple(lines)


def _short(operation: Operation | None) -> str:
    if operation is None:
        return ""
    long = [number for number in operation.scalars.values() if len(repr(number)) > 10]
    return operation.spelt({number: f"{number:.6g}" for number in long})


def values_at(found: Divergence, element: tuple[int, ...]) -> tuple[Shown, ...]:
    """Show operands and results of the two operations at an element."""
    ours, theirs = (_values(operation, element) for operation in found.operations)
    return tuple(
        Shown(name, ours.get(name, ""), theirs.get(name, "")) for name in {**ours, **theirs}
    )


def _values(operation: Operation | None, element: tuple[int, ...]) -> dict[str, str]:
    if operation is None:
        return {}
    shown = {value.name: _spelt(value, element) for value in operation.operands}
    for name, number in operation.scalars.items():
        shown[_NUMBERS.get(name, name)] = repr(number)
    for value in operation.results:
        name = "result" if len(operation.results) == 1 else f"{value.name}, result"
        shown[name] = _spelt(value, element)
    return shown


def _spelt(value: Value, element: Sequence[int]) -> str:
    tensor: torch.Tensor = value.kept
    if tensor.dim() and len(element) != tensor.dim():
        return ""
    number = tensor[tuple(element)] if tensor.dim() else tensor
    if not number.is_floating_point():
        return repr(number.item())
    return f"{number.item():.9g} ({hexadecimal(number.item(), number.dtype)})"
