"""What a doctor answers: a report of all findings, which prints itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from optimlab.lab.findings import SEVERITIES, Finding, listed

MOST_OF_A_KIND = 8


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
