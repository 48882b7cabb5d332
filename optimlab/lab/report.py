"""What all commands have in common: their options, their exit status and their look."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EQUAL, DIFFERENT, MISUSE = 0, 1, 2
WIDTH = 100

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


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
