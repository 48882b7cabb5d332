"""What a check answers: all configurations, what came of them, and the sum of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from optimlab import renamed
from optimlab.lab.compare.diff import Compared
from optimlab.lab.parity import report
from optimlab.lab.parity.case_result import (
    CaseResult,
    ExpectedFailure,
    Kind,
    environment,
    grouped,
    total,
)
from optimlab.lab.parity.configurations import Configuration, printed
from optimlab.lab.parity.extent import Extent, extent
from optimlab.lab.parity.mask import Key


@dataclass(frozen=True)
class ParityResult:
    """Everything there is to tell about a check. It prints itself.

    Attributes:
        mine: name of the optimizer under test.
        reference: name of the one it was compared with.
        results: what came of each configuration.
        forms: keys of state and of parameter groups that only one side has, or that are of
            another form there, with both forms and all configurations in which that is so.
        defaults: options whose defaults are not the same: mine, the reference's.
        ignored: each key that was to be ignored, and whether it had to be.
        exceptions: what was declared.
        narrowed: whether only some configurations were asked for.
        strict: whether a refusal by one side is a difference.
        device: where it ran.
        thorough: whether what takes minutes was tried, too.
    """

    mine: str
    reference: str
    results: tuple[CaseResult, ...]
    forms: Mapping[tuple[Key, str, str], list[Configuration]]
    defaults: Mapping[str, tuple[Any, Any]]
    ignored: Mapping[Key, bool]
    exceptions: tuple[ExpectedFailure, ...]
    narrowed: bool = False
    strict: bool = False
    device: str = "cpu"
    thorough: bool = False

    tried = renamed.attribute("tried", "results")

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what is excepted, and all that is excepted occurs."""
        return not (self.differences or self.forms or self.defaults or self.outdated)

    @cached_property
    def kinds(self) -> Mapping[Kind, list[CaseResult]]:
        """The configurations by what came of them."""
        return grouped(self.results, lambda each: each.kind(self.strict, self.exceptions))

    @property
    def same(self) -> Sequence[CaseResult]:
        """The configurations in which every step gave the same bits."""
        return self.kinds.get("same", ())

    @property
    def differences(self) -> Sequence[CaseResult]:
        """The configurations that differ without being excepted."""
        return self.kinds.get("different", ())

    @property
    def compared(self) -> Compared:
        """How much was compared, in all configurations."""
        return total(each for each in self.results if each.compared)

    @property
    def outdated(self) -> list[str]:
        """What was excepted or ignored without need, and had better be taken from the list."""
        differing = (*self.differences, *self.kinds.get("excepted", ()))
        exceptions = [
            f"excepted, but no longer different: {expected}"
            for expected in self.exceptions
            if not any(expected.covers(each.configuration) for each in differing)
            if not self.narrowed or any(expected.covers(each.configuration) for each in self.same)
        ]
        ignored = [
            f"ignored without need: {report.key_name(key)}"
            for key, needed in self.ignored.items()
            if not (needed or self.narrowed)
        ]
        return exceptions + ignored

    @property
    def extent(self) -> Extent:
        """How far the configurations went in which something was compared."""
        return extent([each for each in self.results if each.compared])

    def refusals(self) -> list[tuple[str, list[CaseResult]]]:
        """Return each error with which configurations were refused, with these."""
        kept = ("refused", "refused by mine", "refused by reference")
        refused = [each for each in self.results if each.kind(self.strict, ()) in kept]
        return [*grouped(refused, self._refusal).items()]

    def require(self) -> None:
        """Check that both are equal.

        Raises:
            AssertionError: with the whole report as its message, if they are not.
        """
        __tracebackhide__ = True
        if not self.equal:
            raise AssertionError(str(self))

    def as_json(self) -> dict[str, Any]:
        """Return everything as a value that the json module can write."""
        return {
            **environment(self.device),
            "mine": self.mine,
            "reference": self.reference,
            "equal": self.equal,
            "counts": {kind: len(found) for kind, found in self.kinds.items()},
            "compared": asdict(self.compared),
            "extent": asdict(self.extent),
            "thorough": self.thorough,
            "kept": [
                {"what": key[0], "name": key[1], "mine": mine, "reference": theirs}
                | {"configurations": len(found)}
                for (key, mine, theirs), found in self.forms.items()
            ],
            "defaults": {
                name: {"mine": printed(mine), "reference": printed(theirs)}
                for name, (mine, theirs) in self.defaults.items()
            },
            "exceptions": [str(each) for each in self.exceptions],
            "outdated": self.outdated,
            "configurations": [*self._entries()],
        }

    def __str__(self) -> str:
        names = (self.mine, self.reference)
        compared = [each for each in self.results if each.compared]
        declared = self.kinds.get("excepted", ())
        return report.page(
            [
                report.heading(names, self.device),
                report.matrix(compared),
                report.totals(names, self.kinds, compared, self.thorough),
                report.kept(names, self.forms, self.defaults),
                report.differences(self.differences, compared),
                report.expected(declared, self.exceptions, self.ignored, self.outdated),
                report.refusals(self.refusals()),
                [self._conclusion()],
            ]
        )

    def _conclusion(self) -> str:
        if self.equal:
            excepted = " but what is excepted" if self.exceptions or self.ignored else ""
            return f"The same bits{excepted}: {self.mine} and {self.reference}."
        if not (self.differences or self.forms or self.defaults):
            return "Not equal: exceptions are declared that no longer occur."
        if not self.differences:
            return "Not equal: the same bits in every step, but what they keep is not the same."
        count = len(self.differences)
        differ = "configuration differs" if count == 1 else "configurations differ"
        return f"Not equal: {count:,} {differ}."

    def _entries(self) -> Iterator[dict[str, Any]]:
        for kind, found in self.kinds.items():
            for each in found:
                configuration = each.configuration
                yield {
                    "implementation": configuration.implementation,
                    "dtype": configuration.dtype,
                    "circumstance": configuration.event,
                    "options": {k: printed(v) for k, v in configuration.options.items()},
                    "result": kind,
                    **({} if kind == "same" else {"text": str(each.outcome or "")}),
                }

    def _refusal(self, result: CaseResult) -> str:
        mine, theirs = result.error or ("", "")
        if mine == theirs:
            return f"both: {mine}"
        sides = ((self.mine, mine), (self.reference, theirs))
        return "; ".join(f"{name} alone: {error}" for name, error in sides if error)
