"""The answer of :func:`optimlab.explain`, and how it reads."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from optimlab.lab.compare.bits import Distance
from optimlab.lab.report import WIDTH

_COLUMN = 47


@dataclass(frozen=True)
class Cause:
    """What makes the difference.

    Attributes:
        kind: the class of cause, such as ``"FMA"``; ``"unknown"`` where no experiment told it.
        text: what differs, in a sentence.
        evidence: which experiment shows it.
    """

    kind: str
    text: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}\n  shown by: {self.evidence}"


@dataclass(frozen=True)
class Shown:
    """A number at the element in question, on both sides.

    Attributes:
        name: of the tensor, with the operation in which it is an operand or the result.
        ours: the number, and its bits in hexadecimal; empty where our side has none.
        theirs: the same of the other side.
    """

    name: str
    ours: str
    theirs: str


@dataclass(frozen=True)
class Line:
    """A line of the two sequences of operations side by side.

    Attributes:
        mark: ``"="`` for a result that both have, ``"≠"`` for where they part, else ``""``.
        ours: an operation of our step.
        theirs: one of the other.
    """

    mark: str
    ours: str
    theirs: str


@dataclass(frozen=True)
class Explanation:
    """Where two optimizers part, and why; prints itself.

    Attributes:
        names: what the two are called.
        steps: how many steps were made by both.
        elements: how many pairs of elements were compared.
        step: the first step after which bits differ, 1 for the first; ``None`` if none does, 0 if
            the two did not start from equal bits.
        parameter: number of the first parameter concerned, counted through all groups.
        shape: its shape.
        tensors: the optimizer's tensors of that parameter that differ: ``"param"``, ``"grad"``,
            names of state.
        element: index of the first differing element of the operations' results, or of the first
            of ``tensors``; ``None`` where a dtype or type differs.
        operations: the operations at which the steps part, spelt as code.
        operation_names: their names without an underscore at the end, such as ``"lerp"``.
        values: operands and results of those operations at the element.
        cause: what makes the difference, as far as experiments told.
        lines: the two sequences of operations on the parameter, side by side.
        distances: how far apart each of ``tensors`` is, where elements differ and not the dtype.
        relative_error: the largest difference of an element of the parameter, divided by the
            largest update that the other optimizer made; ``None`` where the parameter has still
            the same bits.
        note: what else there is to know.
    """

    names: tuple[str, str]
    steps: int
    elements: int
    step: int | None = None
    parameter: int | None = None
    shape: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    element: tuple[int, ...] | None = None
    operations: tuple[str, str] = ("", "")
    operation_names: tuple[str, str] = ("", "")
    values: tuple[Shown, ...] = ()
    cause: Cause | None = None
    lines: tuple[Line, ...] = ()
    distances: Mapping[str, Distance] = field(default_factory=dict)
    relative_error: float | None = None
    note: str = ""

    @property
    def equal(self) -> bool:
        """Whether no bit differed."""
        return self.step is None

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as a value that the json module can write."""
        return {"equal": self.equal, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self._text())

    def _text(self) -> Iterator[str]:
        a, b = self.names
        if self.equal:
            compared = f"{self.elements:,} elements over {self.steps} steps"
            yield f"{a} and {b}: the same bits in {compared}"
            yield from _wrapped("", self.note)
            return
        where = "before the first step" if self.step == 0 else f"at step {self.step}"
        yield f"{a} and {b} part {where}, parameter {self.parameter} {list(self.shape)}"
        element = "" if self.element is None else f", first at element {list(self.element)}"
        yield f"  different after it: {', '.join(self.tensors)}{element}"
        for name, operation in zip(self.names, self.operations, strict=True):
            yield from _wrapped(f"  {name}: ", operation or "nothing")
        if self.cause is not None:
            yield from _wrapped("cause: ", f"{self.cause.kind}. {self.cause.text}")
            yield from _wrapped("  shown by: ", self.cause.evidence)
        yield from self._values_text()
        yield from self._distance_text()
        yield from self._lines_text()
        yield from _wrapped("note: ", self.note)

    def _values_text(self) -> Iterator[str]:
        if self.values:
            yield ""
            yield from _columns("at that element", *self.names)
            for shown in self.values:
                yield from _columns(shown.name, shown.ours, shown.theirs)

    def _distance_text(self) -> Iterator[str]:
        if self.distances:
            yield ""
        for name, distance in self.distances.items():
            yield f"{name}: {distance}"
            counts = enumerate(distance.histogram)
            bins = [f"{_ulps(i)} ulp: {count:,}" for i, count in counts if count]
            yield from _wrapped("  ", ", ".join(bins))
        if self.relative_error is not None:
            yield f"largest error of the parameter: {self.relative_error:.2g} of the largest update"

    def _lines_text(self) -> Iterator[str]:
        if self.lines:
            yield ""
            yield f"{self.names[0]:<{_COLUMN}}   {self.names[1]}"
            for line in self.lines:
                ours, theirs = _cut(line.ours), _cut(line.theirs)
                yield f"{ours:<{_COLUMN}} {line.mark:^1} {theirs}"


def _ulps(place: int) -> str:
    return "1" if place == 0 else f"{2**place} to {2 ** (place + 1) - 1}"


def _columns(name: str, ours: str, theirs: str) -> Iterator[str]:
    yield f"  {name[:24]:<24} {ours:<36} {theirs:<36}"


def _cut(text: str) -> str:
    return text if len(text) <= _COLUMN else text[: _COLUMN - 1] + "…"


def _wrapped(head: str, text: str) -> list[str]:
    if not text:
        return []
    indent = " " * max(4, len(head) - len(head.lstrip()) + 2)
    return textwrap.wrap(head + text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
