"""What a tool says of something that is, or may be, wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is, or may be, wrong.

    Attributes:
        severity: ``"error"``: the next step is refused or has wrong bits. ``"warning"``: it does
            what was asked for, but probably not what was meant. ``"note"``: good to know.
        kind: one or two words to find it by, such as ``"order"`` or ``"aliasing"``.
        where: the parameter, state tensor or group.
        what: what is the matter, with the values.
        advice: what to do about it.
    """

    severity: Severity
    kind: str
    where: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.where}: {self.what}\n    {self.advice}"


error = partial(Finding, "error")
warning = partial(Finding, "warning")
note = partial(Finding, "note")


def listed(items: Sequence[Any], most: int = 4) -> str:
    """Put the first few of many items into words."""
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
