"""What all results share: their JSON, their tables, and the console they are printed to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

WIDTH = 100
_MOST_OF_A_TASK = 50

Progress: TypeAlias = Callable[[int, int, str], None]


def as_json(value: Any) -> Any:
    """Return a result as plain values that the json module can write.

    Dataclasses become dicts of their fields, as with :func:`dataclasses.asdict`, but for those
    that ``repr`` leaves out; tensors, tuples and sets become lists, the latter sorted; an Enum its
    value; paths, dtypes, devices and what else is no plain value their text. A number that JSON
    has no spelling for, infinite or NaN, becomes ``None``.

    Args:
        value: a result, or any part of one.
    """
    if isinstance(value, Enum):
        return as_json(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value) if each.repr]
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [as_json(item) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, torch.Tensor):
        return as_json(value.tolist())
    return str(value).removeprefix("torch.")


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    markdown: bool = False,
    left: int = 1,
    widths: Sequence[int] = (),
) -> str:
    """Lay a table out as text, or as Markdown.

    Args:
        headings: of the columns. They, and the cells of text, may have several lines.
        rows: the cells, printed with ``str``.
        markdown: whether Markdown is asked for; columns are then not padded.
        left: how many columns, from the first, are aligned to the left; the others are to the
            right.
        widths: the least widths of the first columns.

    Returns:
        Lines without spaces at their ends, joined, columns two spaces apart.
    """
    cells = [[*headings], *([str(cell) for cell in row] for row in rows)]
    if markdown:
        rule = ["---" if column < left else "---:" for column in range(len(headings))]
        return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))
    lines = [line for row in cells for line in _lines_of(row)]
    least = [*widths, *[0] * (len(headings) - len(widths))]
    wide = [
        max(size, *map(len, column))
        for size, column in zip(least, zip(*lines, strict=True), strict=True)
    ]
    return "\n".join(
        "  ".join(
            f"{cell:<{size}}" if column < left else f"{cell:>{size}}"
            for column, (cell, size) in enumerate(zip(line, wide, strict=True))
        ).rstrip()
        for line in lines
    )


def _lines_of(row: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip_longest(*(cell.split("\n") for cell in row), fillvalue="")


def rich_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    style: Callable[[str, str], str] = lambda heading, cell: "",
    *,
    left: int = 1,
    **options: Any,
) -> Table:
    """Lay a table out for a terminal, in colours.

    Args:
        headings: of the columns.
        rows: the cells; one that is a :class:`rich.text.Text` has its own style.
        style: the style of another, from its heading and its text; the empty string for none.
        left: how many columns, from the first, are aligned to the left.
        options: further arguments of :class:`rich.table.Table`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    options = {"box": box.SIMPLE_HEAD, "pad_edge": False, **options}
    laid_out = Table(**options)
    for column, heading in enumerate(headings):
        laid_out.add_column(heading, justify="left" if column < left else "right", no_wrap=True)
    for row in rows:
        pairs = zip(headings, row, strict=True)
        laid_out.add_row(*(Text(c, style(h, c)) if isinstance(c, str) else c for h, c in pairs))
    return laid_out


def console(*, quiet: bool = False) -> Console:
    """Make what commands print to: 100 columns, nothing taken for markup.

    Args:
        quiet: whether to print nothing at all, because JSON is printed.
    """
    from rich.console import Console

    return Console(width=WIDTH, highlight=False, markup=False, emoji=False, quiet=quiet)


@contextmanager
def progress(shown_on: Console, *, auto_refresh: bool = True) -> Iterator[Progress]:
    """Show a progress bar that disappears when the work is done.

    Args:
        shown_on: the console.
        auto_refresh: whether a thread redraws it ten times in a second, or only a call does.

    Yields:
        A function to be told how much is done, how much there is, and what is being done.
    """
    from rich import progress as rich

    text = rich.TextColumn("{task.description}", markup=False)
    columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), text)
    bar = rich.Progress(*columns, console=shown_on, transient=True, auto_refresh=auto_refresh)
    task = bar.add_task("", total=None)

    def show(done: int, total: int, doing: str) -> None:
        what, now = doing[:_MOST_OF_A_TASK], not auto_refresh
        bar.update(task, completed=done, total=total, description=what, refresh=now)

    with bar:
        yield show
