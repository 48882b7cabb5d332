"""What all results share: their JSON, their tables, and the console they are printed to."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

EQUAL, DIFFERENT, MISUSE = 0, 1, 2
WIDTH = 100

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def as_json(value: Any) -> Any:
    """Return a result as plain values that the json module can write.

    Dataclasses become dicts of their fields, as with :func:`dataclasses.asdict`; tensors, tuples
    and sets become lists, the latter sorted; an Enum its value; paths, dtypes, devices and what
    else is no plain value their text. A number that JSON has no spelling for, infinite or NaN,
    becomes ``None``.

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
        return {each.name: as_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
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
    rows: Iterable[Sequence[str]],
    style: Callable[[str, str], str] = lambda heading, cell: "",
    **options: Any,
) -> Table:
    """Lay a table out for a terminal, in colours; the first column is aligned to the left.

    Args:
        headings: of the columns; words stand below one another where a column is narrow.
        rows: the cells.
        style: the style of a cell, from its heading and its text; the empty string for none.
        options: further arguments of :class:`rich.table.Table`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    options = {"box": box.SIMPLE_HEAD, "pad_edge": False, **options}
    laid_out = Table(**options)
    for column, heading in enumerate(headings):
        laid_out.add_column(heading, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        pairs = zip(headings, row, strict=True)
        laid_out.add_row(*(Text(cell, style(heading, cell)) for heading, cell in pairs))
    return laid_out


class MisuseError(Exception):
    """A command was not used as it is meant to be; the message says how."""


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command to the command line.

    Args:
        subparsers: of the whole command line.
        name: of the command.
        run: carries it out and returns the exit status; :class:`MisuseError` becomes status 2.
        summary: a few words for the list of commands.
        description: what it does and prints, what it writes, and what its exit status says.
        example: a command line, without the word "example".
    """
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses where tensors live."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for all numbers as JSON."""
    parser.add_argument(
        "--json",
        nargs="?",
        type=Path,
        const=Path("-"),
        metavar="FILE",
        help="write all numbers to this file, too; without a name print them in place of tables",
    )


def prints_json(args: argparse.Namespace) -> bool:
    """Tell whether JSON takes the place of what is printed."""
    return args.json is not None and str(args.json) == "-"


def write_json(args: argparse.Namespace, content: Any) -> None:
    """Write or print the numbers, if they were asked for."""
    text = json.dumps(content, indent=1) + "\n"
    if prints_json(args):
        sys.stdout.write(text)
    elif args.json is not None:
        args.json.write_text(text, encoding="utf-8")


def check_json(args: argparse.Namespace) -> None:
    """Refuse a file that could not be written after long work.

    Raises:
        MisuseError: if its directory is not there.
    """
    if args.json is not None and not args.json.parent.is_dir():
        raise MisuseError(f"there is no directory {args.json.parent} to write to")


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        MisuseError: if it is CUDA and torch has none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise MisuseError("there is no CUDA device here")


def positive(text: str) -> int:
    """Read a positive integer."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def console(*, quiet: bool = False) -> Console:
    """Make what commands print to: 100 columns, nothing taken for markup.

    Args:
        quiet: whether to print nothing at all, because JSON is printed.
    """
    from rich.console import Console

    return Console(width=WIDTH, highlight=False, markup=False, emoji=False, quiet=quiet)


def progress(shown_on: Console, **options: Any) -> Progress:
    """Make a progress bar that disappears when the work is done.

    Args:
        shown_on: the console.
        options: further arguments of :class:`rich.progress.Progress`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    return Progress(*columns, console=shown_on, transient=True, **options)


def resolve(text: str) -> Any:
    """Import what ``module:attribute`` names, looking in the current directory, too.

    Raises:
        MisuseError: if there is no such module or attribute.
    """
    module_name, colon, attribute = text.partition(":")
    if not (module_name and colon and attribute):
        raise MisuseError(f"{text!r} is not of the form package.module:Name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise MisuseError(f"there is no module {error.name}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise MisuseError(f"{module_name} has no {attribute}")
        found = getattr(found, name)
    return found
