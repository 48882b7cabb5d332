"""The cells of all tables as texts, for the terminal and for the document alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimlab.bench.bits import Comparison
from optimlab.bench.implementations import IMPLEMENTATIONS, OURS, default_of_torch
from optimlab.bench.results import Memory, Outcome, Results
from optimlab.bench.rules import RULES
from optimlab.lab.compare.bits import percent

SAME, DIFFERENT = "same", "DIFFER"
_MEBIBYTE = 2**20
_NAMED = 3


@dataclass(frozen=True)
class Table:
    """A table of texts: all columns but the first are numbers."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


def times(outcomes: Sequence[Outcome], names: Sequence[str]) -> Table:
    """Lay out the rules of a workload: milliseconds by implementation, limit, ratios, bits.

    Args:
        outcomes: a row each.
        names: the columns, keys of ``IMPLEMENTATIONS``.
    """
    heading = ("rule", *names, "limit", "x default", "x fused", "of limit", "bits")
    return Table(heading, [(each.rule.title, *_times_of(each, names)) for each in outcomes])


def phases(outcomes: Sequence[Outcome]) -> Table:
    """Lay out where the time of optimlab's step goes, in microseconds.

    Args:
        outcomes: a row each, of those that have phases.
    """
    outcomes = [each for each in outcomes if each.phases]
    names = list(outcomes[0].phases) if outcomes else []
    rows = [
        (each.rule.title, *(three_digits(1e6 * each.phases[name]) for name in names))
        for each in outcomes
    ]
    return Table(("microseconds", *names), rows)


def series(name: str, outcomes: Sequence[Outcome], names: Sequence[str]) -> Table:
    """Lay out a series: what grows in the first column, otherwise as :func:`times`.

    Args:
        name: ``"tensors"`` or ``"elements"``.
        outcomes: a row each.
        names: the columns.
    """
    heading = (name, *times([], names).heading[1:])
    return Table(heading, [(f"{size(name, each):,}", *_times_of(each, names)) for each in outcomes])


def size(name: str, outcome: Outcome) -> int:
    """Return how large a workload is, by what grows in its series."""
    workload = outcome.workload
    return len(workload.shapes) if name == "tensors" else workload.elements


def memory(measured: Sequence[Memory], names: Sequence[str]) -> Table:
    """Lay out the extra memory at the peak of a step in MiB, by implementation."""
    names = [name for name in names if any(name in each.extra for each in measured)]
    rows = []
    for each in measured:
        peaks = [f"{each.extra[n].peak / _MEBIBYTE:,.1f}" if n in each.extra else "" for n in names]
        parameters = 4 * each.workload.elements / _MEBIBYTE
        rows.append(
            (f"{each.workload.title}, {RULES[each.rule_name].title}", f"{parameters:,.1f}", *peaks)
        )
    return Table(("MiB", "parameters", *names), rows)


def bits(results: Results) -> list[str]:
    """Say for each implementation how far its bits are from those of torch's default."""
    reference = default_of_torch(str(results.settings["device"]))
    title = IMPLEMENTATIONS[reference].title
    return [
        f"{IMPLEMENTATIONS[name].title}: {counted(comparison)} {title}"
        for name, comparison in results.comparisons.items()
        if name != reference
    ]


def counted(comparison: Comparison) -> str:
    """Put a comparison into words."""
    share = f" ({percent(comparison.share)})" if comparison.differing else ""
    text = f"{comparison.differing:,} of {comparison.elements:,} elements of parameters and state"
    return f"{text} differ{share} from"


def behind(results: Results) -> str:
    """Say in how many comparisons torch was faster than optimlab, and in which most of all."""
    ratios = [
        (ratio, f"{name} with {each.rule.title} on {each.workload} ({ratio:.2f})")
        for each in results.all_outcomes
        for name, ratio in each.times_ours.items()
        if name != OURS
    ]
    faster = sorted(pair for pair in ratios if pair[0] < 1)
    text = f"torch is faster in {len(faster)} of {len(ratios)} comparisons"
    most = ", ".join(words for _, words in faster[:_NAMED])
    return f"{text}, most of all {most}" if faster else text


def description(environment: Mapping[str, object]) -> str:
    """Put where it was measured into words."""
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def milliseconds(seconds: float) -> str:
    """Print a time in milliseconds with three significant digits."""
    return three_digits(1e3 * seconds)


def three_digits(number: float) -> str:
    """Print a positive number with three significant digits, or more before the point."""
    return f"{number:,.0f}" if number >= 99.95 else f"{number:#.3g}"


def _times_of(outcome: Outcome, names: Sequence[str]) -> list[str]:
    timings = outcome.timings
    ratios = (outcome.times_ours.get(name) for name in (default_of_torch(outcome.device), "fused"))
    return [
        *(milliseconds(timings[name].median) if name in timings else "" for name in names),
        milliseconds(outcome.limit.seconds),
        *("" if ratio is None else three_digits(ratio) for ratio in ratios),
        f"{outcome.share_of_limit:#.2g}",
        DIFFERENT if outcome.differing else SAME,
    ]
