"""What :func:`optimlab.parity.check` answers: every configuration's outcome, and the sum of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from optimlab.lab.compare.diff import Compared
from optimlab.lab.lockstep.outcome import Difference, Equal, EqualError, Outcome
from optimlab.lab.parity.configurations import Configuration, printed
from optimlab.lab.parity.report import environment
from optimlab.lab.parity.table import Options
from optimlab.lab.parity.views import BEGINNING, Key

#: What came of a configuration. ``"random"``: torch's own kernel has no defined result there.
Kind: TypeAlias = Literal[
    "same", "different", "excepted", "refused by mine", "refused by reference", "refused", "random"
]


@dataclass(frozen=True)
class Excepted:
    """A known difference: all configurations of which everything said here is true.

    Attributes:
        reason: why they differ, for whoever reads the report.
        implementation: such as ``"fused"``; any if empty.
        dtype: such as ``"bfloat16"``; any if empty.
        circumstance: such as ``"two groups"``; any if empty.
        options: options with their values, which the configuration has beside others.

    Raises:
        ValueError: if the reason is empty, or nothing at all is said about the configurations.
    """

    reason: str
    implementation: str = ""
    dtype: str = ""
    circumstance: str = ""
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("an exception needs a reason")
        if not self.facts:
            raise ValueError("an exception of everything would leave nothing to check")

    @property
    def facts(self) -> tuple[str, ...]:
        """Say what the configurations have in common."""
        named = (self.implementation, self.dtype, self.circumstance)
        options = (f"{name}={printed(value)}" for name, value in self.options.items())
        return (*filter(None, named), *options)

    def covers(self, configuration: Configuration) -> bool:
        """Tell whether a configuration is one of those that are excepted."""
        return {*self.facts} <= {*configuration.facts}

    def __str__(self) -> str:
        return f"{', '.join(self.facts)}: {self.reason}"


@dataclass(frozen=True)
class Tried:
    """What came of one configuration.

    Attributes:
        configuration: which.
        outcome: the answer, ``None`` where torch's own kernel has no defined result.
        crashed: whether mine alone raised in the first step, for which neither the implementation
            nor the dtype nor an option is to blame: with the same ones it makes plain steps.
    """

    configuration: Configuration
    outcome: Outcome | None
    crashed: bool = False

    @property
    def refused(self) -> bool:
        """Whether one side, or both, did not get through the first step."""
        return isinstance(self.outcome, EqualError | Difference) and (
            self.error is not None and self.outcome.step <= 1 and not self.crashed
        )

    @property
    def error(self) -> tuple[str, str] | None:
        """What mine and what the reference raised, empty for nothing."""
        if isinstance(self.outcome, EqualError):
            return self.outcome.error, self.outcome.error
        if isinstance(self.outcome, Difference) and self.outcome.mismatch.what == "raised":
            found = self.outcome.mismatch
            return str(found.ours or ""), str(found.theirs or "")
        return None

    @property
    def compared(self) -> bool:
        """Whether both accepted it, so that there was something to compare."""
        return self.outcome is not None and not self.refused

    @property
    def moved(self) -> bool:
        """Whether the steps changed a parameter, as far as that is known."""
        return not isinstance(self.outcome, Equal) or self.outcome.changed > 0

    def kind(self, strict: bool, exceptions: Sequence[Excepted]) -> Kind:
        """Say in a word what came of it."""
        if self.outcome is None:
            return "random"
        if self.refused and not (strict and not self.outcome.equal):
            mine, theirs = self.error or ("", "")
            if mine and theirs:
                return "refused"
            return "refused by mine" if mine else "refused by reference"
        if self.outcome.equal:
            return "same"
        covered = any(each.covers(self.configuration) for each in exceptions)
        return "excepted" if covered else "different"


@dataclass(frozen=True)
class Verdict:
    """Everything there is to tell about a check. It prints itself.

    Attributes:
        mine: name of the optimizer under test.
        reference: name of the one it was compared with.
        tried: all configurations, with what came of each.
        forms: keys of state and of parameter groups that only one side has, or that are of
            another form there, with both forms and all configurations in which that is so.
        defaults: options whose defaults are not the same: mine, the reference's.
        ignored: each key that was to be ignored, and whether it had to be.
        exceptions: what was declared.
        narrowed: whether only some configurations were asked for.
        strict: whether a refusal by one side is a difference.
        device: where it ran.
    """

    mine: str
    reference: str
    tried: tuple[Tried, ...]
    forms: Mapping[tuple[Key, str, str], list[Configuration]]
    defaults: Mapping[str, tuple[Any, Any]]
    ignored: Mapping[Key, bool]
    exceptions: tuple[Excepted, ...]
    narrowed: bool = False
    strict: bool = False
    device: str = "cpu"

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what is excepted, and all that is excepted occurs."""
        kept = self.forms or self.defaults
        return not (self.differences or kept or self.outdated)

    @cached_property
    def kinds(self) -> Mapping[Kind, tuple[Tried, ...]]:
        """The configurations by what came of them."""
        found: dict[Kind, tuple[Tried, ...]] = {}
        for tried in self.tried:
            kind = tried.kind(self.strict, self.exceptions)
            found[kind] = (*found.get(kind, ()), tried)
        return found

    @property
    def same(self) -> tuple[Tried, ...]:
        """The configurations in which every step gave the same bits."""
        return self.kinds.get("same", ())

    @property
    def differences(self) -> tuple[Tried, ...]:
        """The configurations that differ without being excepted."""
        return self.kinds.get("different", ())

    @property
    def compared(self) -> Compared:
        """How much was compared, in all configurations."""
        done = (tried.outcome.compared for tried in self.tried if tried.outcome and tried.compared)
        return sum(done, Compared())

    @property
    def outdated(self) -> list[str]:
        """What was excepted or ignored without need, and had better be taken from the list."""
        differing = (*self.differences, *self.kinds.get("excepted", ()))
        exceptions = [
            f"excepted, but no longer different: {each}"
            for each in self.exceptions
            if not any(each.covers(tried.configuration) for tried in differing)
            if not self.narrowed or any(each.covers(t.configuration) for t in self.same)
        ]
        ignored = [
            f"ignored without need: {spelt(key)}"
            for key, needed in self.ignored.items()
            if not (needed or self.narrowed)
        ]
        return exceptions + ignored

    def refusals(self) -> list[tuple[str, list[Tried]]]:
        """Return each error with which configurations were refused, with these."""
        found: dict[str, list[Tried]] = {}
        for tried in self.tried:
            if tried.refused and tried.kind(self.strict, ()) != "different":
                found.setdefault(self._refusal(tried), []).append(tried)
        return list(found.items())

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
            "counts": {kind: len(tried) for kind, tried in self.kinds.items()},
            "compared": vars(self.compared),
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
        from optimlab.lab.parity.account import account

        return account(self)

    def _entries(self) -> Iterator[dict[str, Any]]:
        for kind, found in self.kinds.items():
            for tried in found:
                configuration = tried.configuration
                yield {
                    "implementation": configuration.implementation,
                    "dtype": configuration.dtype,
                    "circumstance": configuration.circumstance,
                    "options": {k: printed(v) for k, v in configuration.options.items()},
                    "result": kind,
                    **({} if kind == "same" else {"text": str(tried.outcome or "")}),
                }

    def _refusal(self, tried: Tried) -> str:
        mine, theirs = tried.error or ("", "")
        if mine == theirs:
            return f"both: {mine}"
        sides = ((self.mine, mine), (self.reference, theirs))
        return "; ".join(f"{name} alone: {error}" for name, error in sides if error)


def spelt(key: Key) -> str:
    """Print a key of the state or of the parameter groups."""
    if key == BEGINNING:
        return "state is made"
    if key[0] == "saved":
        return f"state_dict() {key[1]!r}"
    return f"{key[0]} {key[1]!r}"
