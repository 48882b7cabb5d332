"""The tables as a Markdown document, to be kept with the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimlab.bench import tables
from optimlab.bench.implementations import OURS
from optimlab.bench.results import Results, by_workload, reasons
from optimlab.lab.report import table

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


def document(results: Results, figures: Sequence[str]) -> str:
    """Write down what was measured, with the figures of these names, of the same directory."""
    return "\n".join(_lines(results, figures)) + "\n"


def _lines(results: Results, figures: Sequence[str]) -> Iterator[str]:
    device = str(results.settings["device"])
    yield from ("# How long a step takes", "")
    facts = {**results.environment, **results.settings, "load": results.load}
    yield from (f"* {name.replace('_', ' ')}: {value}" for name, value in facts.items())
    yield from ("", METHOD, "")
    for figure in figures:
        yield from (f"![{figure}]({figure})", "")
    for title, outcomes in by_workload(results.outcomes).items():
        yield from (f"## {title}", "", _markdown(tables.times(outcomes, device)), "")
        missing = reasons(outcomes)
        yield from (*(f"* {reason}" for reason in missing), *([""] if missing else []))
        if any(outcome.phases for outcome in outcomes):
            yield from (_markdown(tables.phases(outcomes)), "")
    yield from (tables.behind(results), "")
    for name, outcomes in results.scaling.items():
        first = outcomes[0]
        yield from (f"## Ever more {name}: {first.title}, {first.workload.lower()}", "")
        yield from (_markdown(tables.series(name, outcomes, device)), "")
    if results.memory:
        yield from ("## Peak memory of a step beyond parameters, gradients and state", "")
        yield from (_markdown(tables.memory(results.memory)), "", MEMORY, "")
    for remark in results.remarks:
        yield from (remark, "")
    yield from ("## Bits", "", *(f"* {line}" for line in tables.bits(results)))


def _markdown(laid_out: tables.Table) -> str:
    """Print a table, the column of optimlab in bold."""
    headings, rows = laid_out
    bold = ["**{}**" if heading == OURS else "{}" for heading in headings]
    cells = ([form.format(cell) for form, cell in zip(bold, row, strict=True)] for row in rows)
    return table(headings, cells, markdown=True)
