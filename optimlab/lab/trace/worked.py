"""A traced step as a worked example, and as a document for a viewer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from optimlab.lab.compare.integers import hexadecimal
from optimlab.lab.record.formulas import filled_in, formulas_of, named
from optimlab.lab.record.provenance import Provenance
from optimlab.lab.record.registers import Value, short
from optimlab.lab.record.writing import Operation
from optimlab.lab.report import WIDTH

Index: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class TracedStep:
    """One step on one parameter.

    Attributes:
        step: which step of the trace, 1 for the first.
        parameter: number of the parameter, counted through all groups.
        shape: its shape.
        dtype: its dtype.
        elements: the indices that were looked at.
        operations: the operations that compute something, in order. The ``kept`` of their values
            are numbers, one for each of ``elements``; ``None`` for a tensor of another shape.
        provenance: for numbers among the operands, the hyperparameters that they came from.
    """

    step: int
    parameter: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    elements: tuple[Index, ...]
    operations: tuple[Operation, ...]
    provenance: Provenance = field(default_factory=Provenance)

    def worked(self, optimizer: str) -> Iterator[str]:
        """Print the step as a worked example, once for each element."""
        for place, index in enumerate(self.elements):
            head = f"{optimizer}, step {self.step}, parameter {self.parameter} {list(self.shape)}"
            lines = [line for o in self.operations for line in _lines(o, place, self.provenance)]
            yield "\n".join([f"{head}, element {list(index)}", *lines])

    def as_json(self) -> dict[str, Any]:
        """Lay the step out as :meth:`optimlab.lab.trace.trace.Trace.to_json` documents."""
        return {
            "step": self.step,
            "parameter": self.parameter,
            "shape": list(self.shape),
            "dtype": short(self.dtype),
            "elements": [list(index) for index in self.elements],
            "operations": [_operation(each, self.provenance) for each in self.operations],
        }


def _lines(operation: Operation, place: int, texts: Provenance) -> Iterator[str]:
    name = operation.name.strip("_")
    arguments = [(key, value) for key, value in operation.shown_arguments() if key != "out"]
    code = f"{name}({', '.join(_code(key, value) for key, value in arguments)})"
    notes = [texts.of(operation.name, number) for _, number in arguments]
    note = ", ".join(filter(None, notes))
    numbers = _computed(name, arguments, place)
    # Of a fused kernel's results, which are all that it may write, the gradient is left out.
    results = [v for v in operation.results if v.label != "grad" or len(operation.results) < 2]
    if len(results) == 1:
        line = f"  {results[0].name} = {code}"
        ending = " = ".join(["", *([numbers] if numbers else []), _number(results[0], place)])
        if len(line) + len(ending) > WIDTH:
            yield line
            line = "     "
        yield from _noted(line + ending, note)
        return
    yield from textwrap.wrap(f"  {code}", WIDTH, subsequent_indent="      ")
    yield from _noted(
        "      " + ", ".join(f"{v.name} = {_number(v, place)}" for v in results), note
    )


def _noted(line: str, note: str) -> Iterator[str]:
    """Put a note behind a line, or below it where there is no room."""
    if not note:
        yield line
    elif len(line) + len(note) + 4 <= WIDTH:
        yield f"{line}  # {note}"
    else:
        yield line
        yield f"      # {note}"


def _computed(name: str, arguments: Sequence[tuple[str, Any]], place: int) -> str:
    """Show how an operation is computed, ``""`` where that is not known."""
    shown = [_number(value, place) for _, value in arguments]
    formulas = formulas_of(name, shown)
    if not formulas or "…" in shown:
        return ""
    return filled_in(formulas[0], {"value": "1", **named(name, shown)})


def _code(key: str, value: Any) -> str:
    keyword = f"{key}=" if key in ("alpha", "value", "lr", "eps", "dtype") else ""
    if isinstance(value, Value):
        return f"{keyword}{value.name}"
    if isinstance(value, float):
        return f"{keyword}{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(_code('', item) for item in value)}]"
    return keyword + (short(value) if isinstance(value, torch.dtype) else str(value))


def _number(value: Any, place: int) -> str:
    if isinstance(value, Value):
        value = "…" if value.kept is None else value.kept[place]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):  # the parts of a complex number, each computed with by itself
        return f"[{value[0]:.6g}, {value[1]:.6g}]"
    return f"({value:.6g})" if isinstance(value, complex) else str(value)


def _operation(operation: Operation, texts: Provenance) -> dict[str, Any]:
    return {
        "operation": operation.name,
        "function": str(operation.function),
        "code": str(operation),
        "in_place": operation.in_place,
        "operands": [_tensor(value) for value in operation.operands],
        "scalars": [
            {
                "argument": name,
                "origin": texts.of(operation.name, number),
                "value": exact(number, None),
            }
            for name, number in operation.scalars.items()
        ],
        "results": [_tensor(value) for value in operation.results],
    }


def _tensor(value: Value) -> dict[str, Any]:
    kept = value.kept
    dtype = value.dtype.to_real() if value.dtype.is_complex else value.dtype
    return {
        "name": value.name,
        "dtype": short(value.dtype),
        "shape": list(value.shape),
        "values": None if kept is None else [exact(number, dtype) for number in kept],
    }


def exact(number: Any, dtype: torch.dtype | None) -> dict[str, Any]:
    """Spell a number exactly: decimal, hexadecimal, and its bits in a dtype."""
    if isinstance(number, complex):
        number = (number.real, number.imag)
    if isinstance(number, tuple):
        parts = [exact(part, dtype) for part in number]
        return {key: [part[key] for part in parts] for key in parts[0]}
    spelt = {"decimal": repr(number)}
    if isinstance(number, float):
        spelt["hex"] = number.hex()
        if dtype is not None:
            spelt["bits"] = hexadecimal(number, dtype)
    return spelt
