"""The text of a result: what was compared, what differs and where, what is excepted and refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import TextWrapper
from typing import Any, TypeAlias

from optimlab.lab.lockstep.outcome import Difference
from optimlab.lab.parity.case_result import (
    CaseResult,
    ExpectedFailure,
    Kind,
    environment,
    grouped,
    total,
)
from optimlab.lab.parity.configurations import Configuration
from optimlab.lab.parity.events import PLAIN
from optimlab.lab.parity.extent import extent
from optimlab.lab.parity.mask import ABSENT, BEGINNING, Key
from optimlab.lab.parity.programs import PROGRAM
from optimlab.lab.parity.table import DTYPES, IMPLEMENTATIONS

WIDTH = 100
SHOWN = 5

#: What mine and the reference are called.
Names: TypeAlias = tuple[str, str]
Forms: TypeAlias = Mapping[tuple[Key, str, str], Sequence[Configuration]]


def page(sections: Iterable[Iterable[str]]) -> str:
    """Put sections below each other, in lines of at most 100 columns; empty ones are left out."""
    texts = ("\n".join(line for each in lines for line in _wrapped(each)) for lines in sections)
    return "\n\n".join(filter(None, texts))


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return TextWrapper(WIDTH, subsequent_indent=indent, break_on_hyphens=False).wrap(line)


def heading(names: Names, device: str) -> Iterator[str]:
    """Say what is compared with what, and where."""
    about = environment(device)
    releases = ", ".join(f"{name} {about[name]}" for name in ("optimlab", "torch", "python"))
    yield f"{names[0]} beside {names[1]}, bit by bit"
    yield f"{releases}, {about['device']}, {about['cpu capability']}, threads {about['threads']}"


def matrix(compared: Sequence[CaseResult]) -> Iterator[str]:
    """Lay out how many configurations are the same, by implementation and dtype."""
    cells = grouped(compared, lambda e: (e.configuration.implementation, e.configuration.dtype))
    dtypes = [dtype for dtype in DTYPES if any(cell[1] == dtype for cell in cells)]
    yield "same bits in        " + "".join(f"{dtype:>11}" for dtype in dtypes)
    for way in IMPLEMENTATIONS:
        row = [cells.get((way, dtype), []) for dtype in dtypes]
        same = (sum(e.outcome is not None and e.outcome.equal for e in cell) for cell in row)
        texts = [f"{n} of {len(c)}" if c else "-" for n, c in zip(same, row, strict=True)]
        if any(row):
            yield f"{way:<20}" + "".join(f"{text:>11}" for text in texts)


def totals(
    names: Names,
    kinds: Mapping[Kind, Sequence[CaseResult]],
    compared: Sequence[CaseResult],
    thorough: bool,
) -> Iterator[str]:
    """Say how much was compared and what came of it."""
    count = {kind: len(found) for kind, found in kinds.items()}
    excepted = f", {count['excepted']:,} excepted" if count.get("excepted") else ""
    yield (
        f"{_times(compared)} compared: {count.get('same', 0):,} the same, "
        f"{count.get('different', 0):,} different{excepted}."
    )
    yield amount(compared)
    yield from extent(compared).lines()
    further = "" if thorough else "; thorough=True or --thorough goes further"
    yield f"Not tried: anything beyond these{further}."
    by: dict[Kind, str] = {
        "refused": "both",
        "refused by mine": f"{names[0]} alone",
        "refused by reference": f"{names[1]} alone",
    }
    refused = [f"{count[kind]:,} by {who}" for kind, who in by.items() if kind in count]
    if refused:
        yield f"Refused, and so not compared: {', '.join(refused)}."
    if count.get("random"):
        yield f"{count['random']:,} left out, in which torch's own kernel leaves random bits."


def amount(results: Iterable[CaseResult]) -> str:
    """Say how much was compared."""
    done = total(results)
    return (
        f"{done.steps:,} steps, {done.tensors:,} tensors with {done.elements:,} elements and "
        f"{done.values:,} other values compared."
    )


def kept(names: Names, forms: Forms, defaults: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """Say of what the two keep what is not the same."""
    if forms or defaults:
        yield "What they keep is not the same:"
    for name, (mine, theirs) in defaults.items():
        yield (
            f"  default of {name!r}: {mine!r} in {names[0]}, {theirs!r} in "
            f"{names[1]}; both were given the latter"
        )
    listed: set[tuple[str, str]] = set()
    for kind, words in (("option", "options"), ("state", "state"), ("saved", "state_dict()")):
        for other, name in zip((1, 0), names, strict=True):
            lone = {key[1]: 0 for key, *form in forms if key[0] == kind and form[other] == ABSENT}
            listed |= {(kind, each) for each in lone}
            if lone:
                yield f"  {words} of {name} alone: {', '.join(lone)}"
    for (key, mine, theirs), found in forms.items():
        if key not in listed:
            where = f"{mine} in {names[0]}, {theirs} in {names[1]}; in {_times(found)}"
            yield f"  {key_name(key)}: {where}"


def key_name(key: Key) -> str:
    """Print a key of the state or of the parameter groups."""
    if key == BEGINNING:
        return "state is made"
    return f"{'state_dict()' if key[0] == 'saved' else key[0]} {key[1]!r}"


def differences(found: Sequence[CaseResult], compared: Sequence[CaseResult]) -> Iterator[str]:
    """Tell the first differences, those together that are of one kind."""
    if found:
        where = common(found, compared)
        yield f"What they do is not the same in {_times(found)}{where}:"
    groups = alike(found)
    for first, *others in groups[:SHOWN]:
        more = f", and {len(others):,} more with the same first difference" if others else ""
        yield f"  {first.configuration}{more}"
        if first.configuration.event.startswith(PROGRAM):
            yield f"    {first.configuration.scenario.as_source()}"
        # A tensor that is printed in an outcome may have lines of its own.
        for line in re.split(r"\n  (?=\S)", str(first.outcome)):
            yield f"    {_shortened(line)}"
    if len(groups) > SHOWN:
        yield f"  and {len(groups) - SHOWN} other first differences"


def expected(
    found: Sequence[CaseResult],
    exceptions: Iterable[ExpectedFailure],
    ignored: Iterable[Key],
    outdated: Sequence[str],
) -> Iterator[str]:
    """Tell what differs as it was declared, and what was declared without need."""
    names = [f"{kind} {name!r}" for kind, name in ignored]
    if found or names or outdated:
        yield "Excepted:"
    for exception in exceptions:
        covered = [each for each in found if exception.covers(each.configuration)]
        if covered:
            yield f"  {_times(covered)} as declared: {exception}"
    if names:
        yield f"  ignored: {', '.join(names)}"
    yield from (f"  {line}" for line in outdated)


def refusals(found: Sequence[tuple[str, Sequence[CaseResult]]]) -> Iterator[str]:
    """Tell the errors with which configurations were refused."""
    if found:
        yield "Refusals:"
    for text, refused in found[:SHOWN]:
        such = f"{_times(refused)}, such as {refused[0].configuration}"
        yield f"  {such}: {_shortened(text)}"
    if len(found) > SHOWN:
        yield f"  and {_times([each for _, refused in found[SHOWN:] for each in refused])} more"


def alike(results: Iterable[CaseResult]) -> list[list[CaseResult]]:
    """Put those together that differ first in the same place, most of them first."""

    def first(each: CaseResult) -> tuple[object, ...]:
        found = each.outcome
        assert isinstance(found, Difference)
        # Whichever parameter, element or group it is.
        path = tuple(key for key in found.path if not isinstance(key, int))
        return found.step, found.during, path, found.mismatch.what

    return sorted(grouped(results, first).values(), key=lambda found: -len(found))


def common(differing: Sequence[CaseResult], compared: Sequence[CaseResult]) -> str:
    """Say what the differing configurations have in common and others do not, in one fact."""
    if len(differing) == len(compared):
        return ", that is in all"
    inside, everywhere = _facts(differing), _facts(compared)
    shared = [f for f, n in inside.items() if n == len(differing) and everywhere[f] < len(compared)]
    exact = [fact for fact in shared if everywhere[fact] == len(differing)]
    if exact:
        return f", exactly those with {' and '.join(exact)}"
    return f", all of them with {' and '.join(shared)}" if shared else ""


def _facts(results: Iterable[CaseResult]) -> Counter[str]:
    facts = (fact for each in results for fact in each.configuration.facts)
    return Counter(fact for fact in facts if fact != PLAIN)


def _shortened(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= 3 * WIDTH else f"{joined[: 3 * WIDTH]}..."


def _times(found: Sequence[object]) -> str:
    return f"{len(found):,} configuration{'' if len(found) == 1 else 's'}"
