"""The tables and sentences of the results, for the terminal and for the document alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from optimlab.bench.implementations import IMPLEMENTATIONS, OURS, default_of_torch
from optimlab.bench.results import Memory, Outcome, Results, measured
from optimlab.lab.compare.bits import percent

SAME, DIFFERENT = "same", "DIFFER"
_MEBIBYTE = 2**20
_NAMED = 3

#: Headings and rows; all columns but the first are numbers.
Table: TypeAlias = tuple[list[str], list[list[str]]]


def times(
    outcomes: Sequence[Outcome],
    device: str,
    first: str = "rule",
    label: Callable[[Outcome], str] = lambda outcome: outcome.title,
) -> Table:
    """Lay out milliseconds by implementation, the limit, ratios and bits, an outcome in a row."""
    names, default = measured(outcomes), default_of_torch(device)
    rows = []
    for each in outcomes:
        seconds = [each.seconds[n].median if n in each.seconds else None for n in names]
        ratios = [each.times_optimlab.get(name) for name in (default, "fused")]
        rows.append(
            [
                label(each),
                *("" if second is None else milliseconds(second) for second in seconds),
                milliseconds(each.limit.seconds),
                *("" if ratio is None else three_digits(ratio) for ratio in ratios),
                f"{each.share_of_limit:#.2g}",
                DIFFERENT if each.bits[OURS].differing else SAME,
            ]
        )
    return [first, *names, "limit", "x default", "x fused", "of limit", "bits"], rows


def series(name: str, outcomes: Sequence[Outcome], device: str) -> Table:
    """Lay out a series, ``"tensors"`` or ``"elements"``, with what grows in the first column."""
    return times(outcomes, device, name, lambda outcome: f"{getattr(outcome, name):,}")


def phases(outcomes: Sequence[Outcome]) -> Table:
    """Lay out where the time of optimlab's step goes, in microseconds."""
    outcomes = [each for each in outcomes if each.phases]
    names = list(outcomes[0].phases) if outcomes else []
    rows = [
        [each.title, *(three_digits(1e6 * each.phases[name]) for name in names)]
        for each in outcomes
    ]
    return ["microseconds", *names], rows


def memory(found: Sequence[Memory]) -> Table:
    """Lay out the extra memory at the peak of a step in MiB, by implementation."""
    names = [name for name in IMPLEMENTATIONS if any(name in each.extra_bytes for each in found)]
    rows = []
    for each in found:
        sizes = [each.extra_bytes[n].peak if n in each.extra_bytes else None for n in names]
        cells = ["" if n is None else f"{n / _MEBIBYTE:,.1f}" for n in (4 * each.elements, *sizes)]
        rows.append([f"{each.workload}, {each.title}", *cells])
    return ["MiB", "parameters", *names], rows


def bits(results: Results) -> list[str]:
    """Say for each implementation how far its bits are from those of torch's default."""
    reference = default_of_torch(str(results.settings["device"]))
    lines = []
    for name, found in results.bits.items():
        share = f" ({percent(found.differing / found.elements)})" if found.differing else ""
        counted = f"{found.differing:,} of {found.elements:,} elements of parameters and state"
        title, theirs = IMPLEMENTATIONS[name].title, IMPLEMENTATIONS[reference].title
        if name != reference:
            lines.append(f"{title}: {counted} differ{share} from {theirs}")
    return lines


def behind(results: Results) -> str:
    """Say in how many comparisons torch was faster than optimlab, and in which most of all."""
    ratios = [
        (ratio, f"{name} with {each.title} on {each.described} ({ratio:.2f})")
        for each in results.all_outcomes
        for name, ratio in each.times_optimlab.items()
        if name != OURS
    ]
    faster = sorted(pair for pair in ratios if pair[0] < 1)
    text = f"torch is faster in {len(faster)} of {len(ratios)} comparisons"
    most = ", ".join(words for _, words in faster[:_NAMED])
    return f"{text}, most of all {most}" if faster else text


def described(environment: Mapping[str, object]) -> str:
    """Put where it was measured into words."""
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def milliseconds(seconds: float) -> str:
    """Print a time in milliseconds with three significant digits."""
    return three_digits(1e3 * seconds)


def three_digits(number: float) -> str:
    """Print a positive number with three significant digits, or more before the point."""
    return f"{number:,.0f}" if number >= 99.95 else f"{number:#.3g}"
