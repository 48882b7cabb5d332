"""The text of a verdict: what was compared, what differs and where, what is excepted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from textwrap import TextWrapper

import torch

from optimlab.lab.compare.diff import Path
from optimlab.lab.lockstep.outcome import Difference
from optimlab.lab.parity.configurations import PLAIN, Configuration
from optimlab.lab.parity.report import environment
from optimlab.lab.parity.table import DTYPES, IMPLEMENTATIONS
from optimlab.lab.parity.verdict import Tried, Verdict, spelt
from optimlab.lab.parity.views import ABSENT, Key

WIDTH = 100
SHOWN = 5


def account(verdict: Verdict) -> str:
    """Tell everything about a verdict in lines of at most 100 columns."""
    return "\n".join(_wrapped(_lines(verdict)))


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        filled = TextWrapper(
            WIDTH, subsequent_indent=indent, drop_whitespace=True, break_on_hyphens=False
        ).wrap(line)
        yield from filled or [""]


def _lines(verdict: Verdict) -> Iterator[str]:
    about = environment(verdict.device)
    releases = ", ".join(f"{name} {about[name]}" for name in ("optimlab", "torch", "python"))
    yield f"{verdict.mine} beside {verdict.reference}, bit by bit"
    yield f"{releases}, {about['device']}, {about['cpu capability']}, threads {about['threads']}"
    yield ""
    yield from _matrix(verdict)
    yield ""
    yield from _totals(verdict)
    yield from _kept(verdict)
    yield from _differences(verdict)
    yield from _excepted(verdict)
    yield from _refusals(verdict)
    yield ""
    yield _last_line(verdict)


def _matrix(verdict: Verdict) -> Iterator[str]:
    """Lay out how many configurations are the same, by implementation and dtype."""
    counts: Counter[tuple[str, str]] = Counter()
    equal: Counter[tuple[str, str]] = Counter()
    for tried in verdict.tried:
        if tried.compared:
            cell = (tried.configuration.implementation, tried.configuration.dtype)
            counts[cell] += 1
            equal[cell] += tried.outcome is not None and tried.outcome.equal
    ways = [way for way in IMPLEMENTATIONS if any(cell[0] == way for cell in counts)]
    dtypes = [dtype for dtype in DTYPES if any(cell[1] == dtype for cell in counts)]
    yield "same bits in        " + "".join(f"{dtype:>11}" for dtype in dtypes)
    for way in ways:
        cells = (
            f"{equal[way, dtype]} of {counts[way, dtype]}" if counts[way, dtype] else "-"
            for dtype in dtypes
        )
        yield f"{way:<20}" + "".join(f"{cell:>11}" for cell in cells)


def _totals(verdict: Verdict) -> Iterator[str]:
    done, count = verdict.compared, {kind: len(tried) for kind, tried in verdict.kinds.items()}
    stepped = sum(tried.compared for tried in verdict.tried)
    excepted = f", {count['excepted']:,} excepted" if count.get("excepted") else ""
    yield (
        f"{_times(stepped)} compared: {count.get('same', 0):,} the same, "
        f"{count.get('different', 0):,} different{excepted}."
    )
    yield (
        f"{done.steps:,} steps, {done.tensors:,} tensors with {done.elements:,} elements and "
        f"{done.values:,} other values compared."
    )
    ran = [tried.configuration.scenario for tried in verdict.tried if tried.compared]
    largest = max(torch.Size(spec.shape).numel() for each in ran for spec in each.tensors)
    yield (
        f"At most {max(each.steps for each in ran)} steps in a configuration; the largest tensor "
        f"has {largest:,} elements."
    )
    by = {
        "refused": "both",
        "refused by mine": f"{verdict.mine} alone",
        "refused by reference": f"{verdict.reference} alone",
    }
    refused = [f"{count[kind]:,} by {who}" for kind, who in by.items() if kind in count]
    if refused:
        yield f"Refused, and so not compared: {', '.join(refused)}."
    if count.get("random"):
        yield f"{count['random']:,} left out, in which torch's own kernel leaves random bits."


def _kept(verdict: Verdict) -> Iterator[str]:
    if verdict.forms or verdict.defaults:
        yield ""
        yield "What they keep is not the same:"
    for name, (mine, theirs) in verdict.defaults.items():
        yield (
            f"  default of {name!r}: {mine!r} in {verdict.mine}, {theirs!r} in "
            f"{verdict.reference}; both were given the latter"
        )
    listed: set[tuple[str, str]] = set()
    for kind, words in (("option", "options"), ("state", "state"), ("saved", "state_dict()")):
        for side, name in enumerate((verdict.mine, verdict.reference)):
            lone = {key[1]: 0 for key, *forms in verdict.forms if _is_lone(key, forms, kind, side)}
            listed |= {(kind, each) for each in lone}
            if lone:
                yield f"  {words} of {name} alone: {', '.join(lone)}"
    for (key, mine, theirs), found in verdict.forms.items():
        if key not in listed:
            yield (
                f"  {spelt(key)}: {mine} in {verdict.mine}, {theirs} in {verdict.reference}; "
                f"in {_times(len(found))}"
            )


def _is_lone(key: Key, forms: Sequence[str], kind: str, side: int) -> bool:
    """Tell whether only one side has a key."""
    return key[0] == kind and forms[1 - side] == ABSENT


def _differences(verdict: Verdict) -> Iterator[str]:
    groups = alike(verdict.differences)
    stepped = [tried for tried in verdict.tried if tried.compared]
    if verdict.differences:
        where = common(verdict.differences, stepped)
        yield ""
        yield f"What they do is not the same in {_times(len(verdict.differences))}{where}:"
    for found in groups[:SHOWN]:
        yield f"  {found[0].configuration}{_others(found)}"
        yield from (f"    {line}" for line in _outcome(found[0]))
    if len(groups) > SHOWN:
        yield f"  and {len(groups) - SHOWN} other first differences"


def _outcome(tried: Tried) -> Iterator[str]:
    """Yield the lines of an outcome; a tensor that is printed in one may have lines of its own."""
    for line in re.split(r"\n  (?=\S)", str(tried.outcome)):
        yield _shortened(line)


def _shortened(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= 3 * WIDTH else f"{joined[: 3 * WIDTH]}..."


def _excepted(verdict: Verdict) -> Iterator[str]:
    found = verdict.kinds.get("excepted", ())
    ignored = [f"{kind} {name!r}" for kind, name in verdict.ignored]
    if found or ignored or verdict.outdated:
        yield ""
        yield "Excepted:"
    for exception in verdict.exceptions:
        covered = [tried for tried in found if exception.covers(tried.configuration)]
        if covered:
            yield f"  {_times(len(covered))} as declared: {exception}"
    if ignored:
        yield f"  ignored: {', '.join(ignored)}"
    for line in verdict.outdated:
        yield f"  {line}"


def _refusals(verdict: Verdict) -> Iterator[str]:
    refusals = verdict.refusals()
    if refusals:
        yield ""
        yield "Refusals:"
    for text, found in refusals[:SHOWN]:
        yield f"  {_times(len(found))}, such as {found[0].configuration}: {_shortened(text)}"
    if len(refusals) > SHOWN:
        yield f"  and {_times(sum(len(found) for _, found in refusals[SHOWN:]))} more"


def _last_line(verdict: Verdict) -> str:
    if verdict.equal:
        excepted = " but what is excepted" if verdict.exceptions or verdict.ignored else ""
        return f"The same bits{excepted}: {verdict.mine} and {verdict.reference}."
    if not (verdict.differences or verdict.forms or verdict.defaults):
        return "Not equal: exceptions are declared that no longer occur."
    if not verdict.differences:
        return "Not equal: the same bits in every step, but what they keep is not the same."
    differ = "differs" if len(verdict.differences) == 1 else "differ"
    return f"Not equal: {_times(len(verdict.differences))} {differ}."


def alike(tried: Iterable[Tried]) -> list[list[Tried]]:
    """Put those together that differ first in the same place, most of them first."""
    groups: dict[tuple[object, ...], list[Tried]] = {}
    for each in tried:
        found = each.outcome
        assert isinstance(found, Difference)
        key = (found.step, found.during, _kind_of(found.path), found.mismatch.what)
        groups.setdefault(key, []).append(each)
    return sorted(groups.values(), key=lambda found: -len(found))


def _kind_of(place: Path) -> Path:
    """Leave out which parameter, element or group it was."""
    return tuple(key for key in place if not isinstance(key, int))


def common(differing: Sequence[Tried], compared: Sequence[Tried]) -> str:
    """Say what the differing configurations have in common and others do not, in one fact."""
    if len(differing) == len(compared):
        return ", that is in all"
    inside = _facts(tried.configuration for tried in differing)
    everywhere = _facts(tried.configuration for tried in compared)
    shared = [f for f, n in inside.items() if n == len(differing) and everywhere[f] < len(compared)]
    exact = [fact for fact in shared if everywhere[fact] == len(differing)]
    if exact:
        return f", exactly those with {' and '.join(exact)}"
    return f", all of them with {' and '.join(shared)}" if shared else ""


def _facts(configurations: Iterable[Configuration]) -> Counter[str]:
    return Counter(fact for each in configurations for fact in {*each.facts} - {PLAIN})


def _others(found: Sequence[Tried]) -> str:
    return f", and {len(found) - 1:,} more with the same first difference" if found[1:] else ""


def _times(count: int) -> str:
    return f"{count:,} configuration{'' if count == 1 else 's'}"
