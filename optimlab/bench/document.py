"""The same tables as a Markdown document, to be kept with the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from optimlab.bench import tables
from optimlab.bench.implementations import OURS
from optimlab.bench.results import Results, by_workload, measured, reasons

METHOD = """\
Medians in milliseconds of one run in which all implementations take turns in a random order, with
new gradient tensors in each step, set before the clock starts. On workloads that fit into a cache
a turn is one untimed and four timed steps, so that each finds its own data there.

* **limit**: the bytes that a step must move (gradient in, parameter and state in and out; the
  number per element stands in the JSON), at the bandwidth that the faster of two loops of torch
  operations reaches in turn with the others, on as many bytes and with as many threads. It knows
  nothing of the overhead of many tensors.
* **x default, x fused**: how many times as long as optimlab torch's default and torch's fused
  implementation take. The for-loop's time on large tensors is mostly page faults of temporaries,
  and varies with the history of the heap; the ratio to fused and the share of the limit do not.
* **of limit**: the limit's time as a share of optimlab's.
* **bits**: all parameters and state of optimlab after the last step, compared as integers with
  those of torch's default.

The second table of each workload says where optimlab's time goes, measured apart with a clock at
each part of the step, which itself takes a microsecond or two: **guard**: whether groups, lists
of parameters and state are the same objects; **compute**: the scalars of the rule for this step;
**run**: the one call of the native kernel, which asks of every tensor whether it lies where and as
it did (not of state that nobody else can reach), and then does the arithmetic; **versions**:
autograd's version counters; **rest**: all else, such as looking for hooks.

In the figure a mark is a median, and its bar reaches from the first to the third quartile."""

MEMORY = """\
High-water mark of resident memory during a step, less what there was before the optimizer was made
and less its state, in a process of its own whose allocator gives back at once what is freed. Up to
about 2 MiB are Python's objects and the rounding to pages."""


def write_markdown(path: Path, results: Results, figures: Sequence[str]) -> None:
    """Write the document.

    Args:
        path: the file.
        results: what was measured.
        figures: names of images in the same directory.
    """
    path.write_text("\n".join(lines(results, figures)) + "\n", encoding="utf-8")


def lines(results: Results, figures: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the document."""
    yield from ("# How long a step takes", "")
    yield from (*surroundings(results), "", METHOD, "")
    for figure in figures:
        yield from (f"![{figure}]({figure})", "")
    yield from workloads(results)
    yield from series(results)
    yield from peak_memory(results)
    yield from ("## Bits", "", *(f"* {line}" for line in tables.bits(results)))


def surroundings(results: Results) -> list[str]:
    """Return where, when and how it was measured, a line each."""
    facts = {**results.environment, **results.settings, "load": results.load}
    return [f"* {name.replace('_', ' ')}: {value}" for name, value in facts.items()]


def workloads(results: Results) -> Iterator[str]:
    """Yield a table for each workload, and what was not measured."""
    for title, outcomes in by_workload(results.outcomes).items():
        yield from (f"## {title}", "")
        yield from markdown(tables.times(outcomes, measured(outcomes)))
        for reason in reasons(outcomes):
            yield f"* {reason}"
        yield from ([""] if reasons(outcomes) else [])
        divided = tables.phases(outcomes)
        yield from markdown(divided) if divided.rows else ()
    yield from (tables.behind(results), "")


def series(results: Results) -> Iterator[str]:
    """Yield a table for each series."""
    for name, outcomes in results.scaling.items():
        first = outcomes[0]
        yield from (f"## Ever more {name}: {first.rule.title}, {first.workload.title.lower()}", "")
        yield from markdown(tables.series(name, outcomes, measured(outcomes)))


def peak_memory(results: Results) -> Iterator[str]:
    """Yield the table of extra memory, or why there is none."""
    if results.memory:
        yield from ("## Peak memory of a step beyond parameters, gradients and state", "")
        yield from markdown(tables.memory(results.memory, results.names))
        yield from (MEMORY, "")
    for remark in results.remarks:
        yield from (remark, "")


def markdown(table: tables.Table) -> Iterator[str]:
    """Yield the lines of a table, the column of optimlab in bold, and an empty line."""
    bold = [heading == OURS for heading in table.heading]
    yield row(table.heading)
    yield row(["---", *("---:" for _ in table.heading[1:])])
    for cells in table.rows:
        yield row([f"**{cell}**" if b else cell for cell, b in zip(cells, bold, strict=True)])
    yield ""


def row(cells: Sequence[str]) -> str:
    """Lay out one line of a table."""
    return f"| {' | '.join(cells)} |"
