"""What came of one configuration, and which differences were expected."""

from __future__ import annotations

import platform
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from optimlab.lab.compare.diff import Compared
from optimlab.lab.lockstep.outcome import Difference, Equal, EqualError, Outcome
from optimlab.lab.parity.configurations import Configuration, printed
from optimlab.lab.parity.table import Options
from optimlab.version import __version__

Grouped = TypeVar("Grouped", bound=Hashable)

#: Told of progress: how many configurations are done, how many there are, and which is next.
Progress: TypeAlias = Callable[[int, int, str], None]

#: What came of a configuration. ``"random"``: torch's own kernel has no defined result there.
Kind: TypeAlias = Literal[
    "same", "different", "excepted", "refused by mine", "refused by reference", "refused", "random"
]


@dataclass(frozen=True)
class ExpectedFailure:
    """A known difference: all configurations of which everything said here is true.

    Attributes:
        reason: why they differ, for whoever reads the report.
        implementation: such as ``"fused"``; any if empty.
        dtype: such as ``"bfloat16"``; any if empty.
        event: such as ``"two groups"``; any if empty.
        options: options with their values, which the configuration has beside others.

    Raises:
        ValueError: if the reason is empty, or nothing at all is said about the configurations.
    """

    reason: str
    implementation: str = ""
    dtype: str = ""
    event: str = ""
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("an exception needs a reason")
        if not self.facts:
            raise ValueError("an exception of everything would leave nothing to check")

    @property
    def facts(self) -> tuple[str, ...]:
        """Say what the configurations have in common."""
        options = (f"{name}={printed(value)}" for name, value in self.options.items())
        return tuple(filter(None, (self.implementation, self.dtype, self.event, *options)))

    def covers(self, configuration: Configuration) -> bool:
        """Tell whether a configuration is one of those that are excepted."""
        return {*self.facts} <= {*configuration.facts}

    def __str__(self) -> str:
        return f"{', '.join(self.facts)}: {self.reason}"


def excepted(
    reason: str,
    implementation: str = "",
    dtype: str = "",
    circumstance: str = "",
    options: Options | None = None,
) -> ExpectedFailure:
    """Make an :class:`ExpectedFailure` with the words of its old name, for one release."""
    return ExpectedFailure(reason, implementation, dtype, circumstance, options or {})


@dataclass(frozen=True)
class CaseResult:
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

    def kind(self, strict: bool, exceptions: Sequence[ExpectedFailure]) -> Kind:
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


def total(results: Iterable[CaseResult]) -> Compared:
    """Add up how much was compared."""
    return sum((each.outcome.compared for each in results if each.outcome), Compared())


def grouped(
    results: Iterable[CaseResult], key: Callable[[CaseResult], Grouped]
) -> dict[Grouped, list[CaseResult]]:
    """Put results together that have the same key."""
    found: dict[Grouped, list[CaseResult]] = {}
    for each in results:
        found.setdefault(key(each), []).append(each)
    return found


def environment(device: str) -> Mapping[str, Any]:
    """Name all that the bits depend on: releases, device, instruction set, threads."""
    on_cuda = device == "cuda"
    return {
        "optimlab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if on_cuda else f"cpu ({platform.machine()})",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
