"""The command ``optimlab parity``: its options and what it prints.

Without names it compares the optimizers of the table with torch's; with two names it compares any
two.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from optimlab.lab import report as terminal
from optimlab.lab.report import MisuseError, Subparsers, add_command, add_device, add_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from optimlab.lab.parity.cases import Case
    from optimlab.lab.parity.configurations import Level
    from optimlab.lab.parity.result import ParityResult, TableResult

DESCRIPTION = """\
Compare every optimizer with torch.optim, bit by bit: all combinations of its options, for each
implementation and dtype, at least 20 steps each, in lock step from the same starting bits with the
same gradients. Parameters, state, parameter groups and state dicts are compared as integers.

With the names of two classes, or of functions of params, compare any optimizer with any other, in
every configuration that both accept.

The exit status is 0 if all bits are the same, 1 if any differ, 2 if nothing could be compared.
"""
EXAMPLE = """\
optimlab parity --quick --optimizer SGD Adam --json parity.json
         optimlab parity my_package.my_module:MyAdam torch.optim:Adam"""
LEGEND = """\
same N: in N cases every step of both sides gave the same bits. raises: both sides refuse, with the
same error. N differ: in N cases they do not agree; below it, how far apart their parameters end:
share of elements and largest distance. An empty cell was not asked for."""
SHOWN_DIFFERENCES = 20
_WITH_NAMES = ("dtype", "implementation", "ignore_state", "ignore_option", "state_name", "strict")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers,
        "parity",
        run,
        summary="compare every configuration with torch.optim, bit by bit",
        description=DESCRIPTION,
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("mine", nargs="?", metavar="MODULE:NAME", help="the optimizer under test")
    add("reference", nargs="?", metavar="MODULE:NAME", help="the one to compare it with")
    add("--quick", action="store_true", help="a few options in two dtypes: seconds, not minutes")
    add("--optimizer", nargs="+", default=[], metavar="NAME", help="default: all of the table")
    add_device(parser)
    add_json(parser)
    add("--seed", type=int, default=0, help="of starting values and gradients, default: 0")
    add_names(parser)


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add the options that go with two names."""
    add = parser.add_argument_group("with two names").add_argument
    add("--dtype", nargs="+", default=[], metavar="NAME", help="such as bfloat16, default: all")
    add("--implementation", nargs="+", default=[], metavar="NAME", help="such as fused")
    add("--ignore-state", nargs="+", default=[], metavar="NAME", help="state not to be compared")
    add("--ignore-option", nargs="+", default=[], metavar="NAME", help="and hyperparameters")
    add(
        "--state-name",
        nargs="+",
        default=[],
        metavar="THEIRS=MINE",
        help="state that has another name, such as exp_avg=m",
    )
    add("--strict", action="store_true", help="what one side alone refuses is a difference")


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    if args.mine is not None:
        return run_check(args)
    from optimlab.lab.parity.cases import cases

    check_table(args)
    level: Level = "quick" if args.quick else "full"
    chosen = list(cases(level, optimizers=args.optimizer, device=args.device, seed=args.seed))
    console = terminal.console(quiet=terminal.prints_json(args))
    began = time.perf_counter()
    report = run_cases(console, args.device, chosen)
    print_report(console, report)
    about = {"extent": level, "seed": args.seed, "seconds": time.perf_counter() - began}
    terminal.write_json(args, report.as_json(**about))
    return int(not report.equal)


def check_table(args: argparse.Namespace) -> None:
    """Refuse options that make no sense.

    Raises:
        MisuseError: if there is no such optimizer, device or directory.
    """
    from optimlab.lab.parity.table import TABLE

    given = [name for name in _WITH_NAMES if getattr(args, name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise MisuseError(f"{flags} needs the names of two optimizers to compare")
    known = [row.name for row in TABLE]
    unknown = [name for name in args.optimizer if name not in known]
    if unknown:
        names = ", ".join(unknown)
        raise MisuseError(f"no optimizer {names} in the table, which has {', '.join(known)}")
    terminal.check_device(args.device)
    terminal.check_json(args)


def run_check(args: argparse.Namespace) -> int:
    """Compare the two optimizers that are named and return the exit status."""
    if args.reference is None:
        raise MisuseError("two names are needed: of an optimizer, and of one to compare it with")
    if args.optimizer:
        raise MisuseError("--optimizer is for the table, which is not used with two names")
    terminal.check_device(args.device)
    terminal.check_json(args)
    mine, reference = terminal.resolve(args.mine), terminal.resolve(args.reference)
    check_pair(args, mine, reference)
    console = terminal.console(quiet=terminal.prints_json(args))
    result = checked(args, console, mine, reference)
    console.print(str(result))
    terminal.write_json(args, result.as_json())
    return terminal.EQUAL if result.equal else terminal.DIFFERENT


def check_pair(args: argparse.Namespace, mine: Any, reference: Any) -> None:
    """Refuse two names, or options, that make no sense together.

    Raises:
        MisuseError: if one makes no optimizer, or there is no such dtype or implementation.
    """
    from optimlab.lab.parity.checking import require_optimizers
    from optimlab.lab.parity.configurations import Coverage

    try:
        require_optimizers(mine, reference, {})
        Coverage(args.implementation, args.dtype)
    except (TypeError, ValueError) as error:
        raise MisuseError(str(error)) from error


def checked(args: argparse.Namespace, console: Console, mine: Any, reference: Any) -> ParityResult:
    """Compare two optimizers behind a progress bar.

    Raises:
        MisuseError: if there is nothing to compare.
    """
    from optimlab.lab.parity import NothingCompared, check

    with terminal.progress(console) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int, doing: str) -> None:
            progress.update(task, completed=done, total=total, description=doing[:50])

        try:
            return check(
                mine,
                reference,
                dtypes=args.dtype,
                implementations=args.implementation,
                ignore_state=args.ignore_state,
                ignore_options=args.ignore_option,
                state_names=dict(map(names_of_state, args.state_name)),
                quick=args.quick,
                strict=args.strict,
                device=args.device,
                seed=args.seed,
                progress=show,
            )
        except NothingCompared as error:
            raise MisuseError(str(error)) from error


def names_of_state(text: str) -> tuple[str, str]:
    """Read ``THEIRS=MINE``.

    Raises:
        MisuseError: if it is something else.
    """
    theirs, equals, mine = text.partition("=")
    if not (theirs and equals and mine):
        raise MisuseError(f"{text!r} is not of the form THEIRS=MINE, such as exp_avg=m")
    return theirs, mine


def run_cases(console: Console, device: str, chosen: list[Case]) -> TableResult:
    """Run the cases behind a progress bar."""
    from optimlab.lab.parity.case_result import environment
    from optimlab.lab.parity.checking import check_table

    facts = ", ".join(f"{name} {value}" for name, value in environment(device).items())
    console.print(f"Comparing with torch.optim: {facts}")
    with terminal.progress(console) as progress:
        task = progress.add_task("", total=len(chosen))

        def show(done: int, total: int, doing: str) -> None:
            progress.update(task, completed=done, total=total, description=doing)

        return check_table(chosen, device, show)


def print_report(console: Console, report: TableResult) -> None:
    """Print the matrix, the totals, and what differs."""
    console.print(matrix(report))
    console.print(LEGEND, style="dim")
    console.print()
    console.print(report.totals())
    for exclusion in report.exclusions:
        console.print(f"excluded: {exclusion}")
    for found in report.alike[:SHOWN_DIFFERENCES]:
        others = f" and {len(found) - 1} more cases" if len(found) > 1 else ""
        console.print(f"\n{found[0].configuration}{others}", style="bold")
        console.print(f"  {found[0].outcome}")
    if len(report.alike) > SHOWN_DIFFERENCES:
        console.print(f"\nand {len(report.alike) - SHOWN_DIFFERENCES} other differences")


def matrix(report: TableResult) -> Table:
    """Lay the cells out, optimizer by optimizer."""
    from rich.table import Table

    from optimlab.lab.parity.table import DTYPES

    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("optimizer")
    table.add_column("implementation")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    previous = ""
    for optimizer, implementation, texts in report.rows:
        if previous and optimizer != previous:
            table.add_row()
        shown = optimizer if optimizer != previous else ""
        table.add_row(shown, implementation, *map(coloured, texts))
        previous = optimizer
    return table


def coloured(text: str) -> Text:
    """Colour a cell by what it says."""
    from rich.text import Text

    if "differ" in text:
        return Text(text, "bold red")
    return Text(text, "green" if text.startswith("same") else "dim")
