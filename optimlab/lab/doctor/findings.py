"""What a doctor says: findings, and a report of them that prints itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]
MOST_OF_A_KIND = 8
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


@dataclass(frozen=True)
class Report:
    """Everything a doctor found, worst first.

    Attributes:
        subject: what was looked at.
        findings: errors, then warnings, then notes.
        looked_at: how much was looked at, in words.
    """

    subject: str
    findings: tuple[Finding, ...]
    looked_at: str

    @property
    def healthy(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The whole report in one line."""
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        said = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts.items() if n)
        return f"{self.subject}: {said or 'nothing found'} ({self.looked_at})"

    def of_kind(self, kind: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """Return the report as a value that the json module can write."""
        fields = asdict(self)
        fields["looked at"] = fields.pop("looked_at")
        return {"verdict": self.verdict, "healthy": self.healthy, **fields}

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {finding}" for finding in self.findings)])


def report(subject: str, findings: Iterable[Finding], looked_at: str) -> Report:
    """Make a report: worst first, what many tensors have in common said once."""
    alike = _grouped(dict.fromkeys(findings), lambda f: (f.severity, f.kind, f.what, f.advice))
    merged = [replace(same[0], where=listed([f.where for f in same], most=2)) for same in alike]
    kinds = _grouped(merged, lambda f: (f.severity, f.kind))
    kept = [finding for kind in kinds for finding in _few(kind)]
    ordered = sorted(kept, key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(subject, tuple(ordered), looked_at)


def _grouped(
    findings: Iterable[Finding], key: Callable[[Finding], tuple[str, ...]]
) -> list[list[Finding]]:
    groups: defaultdict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[key(finding)].append(finding)
    return list(groups.values())


def _few(findings: list[Finding]) -> list[Finding]:
    """Keep the first few of many findings of a kind, and say how many there are."""
    first, more = findings[:MOST_OF_A_KIND], len(findings) - MOST_OF_A_KIND
    if more <= 0:
        return findings
    return [*first, replace(first[0], where="elsewhere", what=f"{more} more like these")]


def listed(items: Sequence[Any], most: int = 4) -> str:
    """Put the first few of many items into words."""
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
