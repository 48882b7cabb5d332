"""The command ``optimlab parity``: its options and what it prints.

Without names it compares the optimizers of the table with torch's; with two names it compares any
two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from optimlab.cli import common

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from optimlab.lab.parity.configurations import Level
    from optimlab.lab.parity.table_result import TableResult

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


def names_of_state(text: str) -> tuple[str, str]:
    """Read ``THEIRS=MINE``."""
    theirs, equals, mine = text.partition("=")
    if not (theirs and equals and mine):
        raise common.MisuseError(f"{text!r} is not of the form THEIRS=MINE, such as exp_avg=m")
    return theirs, mine


STATE_NAMES = common.Kind("THEIRS=MINE", names_of_state)


@common.command("compare every configuration with torch.optim, bit by bit", DESCRIPTION, EXAMPLE)
@click.argument("mine", required=False, type=common.MODULE_NAME, metavar="[MODULE:NAME]")
@click.argument("reference", required=False, type=common.MODULE_NAME, metavar="[MODULE:NAME]")
@click.option("--quick", is_flag=True, help="a few options in two dtypes: seconds, not minutes")
@click.option(
    "--thorough", is_flag=True, help="with two names: long runs, large tensors, random programs"
)
@common.words("--optimizer", "default: all of the table")
@common.device_option
@common.json_option
@click.option("--seed", default=0, help="of starting values and gradients, default: 0")
@common.words("--dtype", "with two names: such as bfloat16, default: all")
@common.words("--implementation", "with two names: such as fused")
@common.words("--ignore-state", "with two names: state not to be compared")
@common.words("--ignore-option", "with two names: and hyperparameters")
@common.words(
    "--state-name",
    "with two names: state that has another name, such as exp_avg=m",
    "THEIRS=MINE...",
    type=STATE_NAMES,
)
@click.option(
    "--strict", is_flag=True, help="with two names: what one side alone refuses is a difference"
)
def parity(
    mine: common.Named | None,
    reference: common.Named | None,
    quick: bool,
    optimizer: Sequence[str],
    device: str,
    json: common.Json,
    seed: int,
    **of_pair: Any,
) -> int:
    """Compare the table, or the two optimizers that are named."""
    if mine is None:
        given = [f"--{name.replace('_', '-')}" for name, value in of_pair.items() if value]
        if given:
            flags = ", ".join(given)
            raise common.MisuseError(f"{flags} needs the names of two optimizers to compare")
        return compare_table("quick" if quick else "full", optimizer, device, seed, json)
    if reference is None:
        raise common.MisuseError(
            "two names are needed: of an optimizer, and of one to compare it with"
        )
    if quick and of_pair["thorough"]:
        raise common.MisuseError("--quick and --thorough exclude each other")
    if optimizer:
        raise common.MisuseError("--optimizer is for the table, which is not used with two names")
    pair = mine.load(), reference.load()
    return compare_pair(*pair, json, device=device, seed=seed, quick=quick, **of_pair)


def compare_table(
    level: Level, optimizers: Sequence[str], device: str, seed: int, json: common.Json
) -> int:
    """Compare the optimizers of the table with torch's, and print the matrix."""
    from optimlab.lab.parity.case_result import environment
    from optimlab.lab.parity.cases import cases
    from optimlab.lab.parity.table import TABLE
    from optimlab.lab.parity.table_result import check_table
    from optimlab.lab.report import console, progress

    known = [row.name for row in TABLE]
    unknown = ", ".join(name for name in optimizers if name not in known)
    if unknown:
        raise common.MisuseError(
            f"no optimizer {unknown} in the table, which has {', '.join(known)}"
        )
    chosen = list(cases(level, optimizers=optimizers, device=device, seed=seed))
    shown_on, began = console(quiet=json.printed), time.perf_counter()
    facts = ", ".join(f"{name} {value}" for name, value in environment(device).items())
    shown_on.print(f"Comparing with torch.optim: {facts}")
    with progress(shown_on) as show:
        report = check_table(chosen, device, show)
    print_report(shown_on, report)
    about = {"extent": level, "seed": seed, "seconds": time.perf_counter() - began}
    json.write(report.as_json(**about))
    return common.EQUAL if report.equal else common.DIFFERENT


def compare_pair(
    mine: Any,
    reference: Any,
    json: common.Json,
    *,
    dtype: Sequence[str],
    implementation: Sequence[str],
    ignore_option: Sequence[str],
    state_name: Sequence[tuple[str, str]],
    **options: Any,
) -> int:
    """Compare two optimizers behind a progress bar, and print the result."""
    from optimlab.lab.parity import NothingCompared, check
    from optimlab.lab.parity.checking import require_optimizers
    from optimlab.lab.parity.configurations import Coverage
    from optimlab.lab.report import console, progress

    try:
        require_optimizers(mine, reference, {})
        Coverage(implementation, dtype)
    except (TypeError, ValueError) as error:
        raise common.MisuseError(str(error)) from error
    shown_on = console(quiet=json.printed)
    try:
        with progress(shown_on) as show:
            result = check(
                mine,
                reference,
                dtypes=dtype,
                implementations=implementation,
                ignore_options=ignore_option,
                state_names=dict(state_name),
                progress=show,
                **options,
            )
    except NothingCompared as error:
        raise common.MisuseError(str(error)) from error
    shown_on.print(str(result))
    json.write(result.as_json())
    return common.EQUAL if result.equal else common.DIFFERENT


def print_report(shown_on: Console, report: TableResult) -> None:
    """Print the matrix, the totals, and what differs."""
    shown_on.print(matrix(report))
    shown_on.print(LEGEND, style="dim")
    shown_on.print()
    shown_on.print(report.totals())
    for exclusion in report.exclusions:
        shown_on.print(f"excluded: {exclusion}")
    for found in report.alike[:SHOWN_DIFFERENCES]:
        others = f" and {len(found) - 1} more cases" if len(found) > 1 else ""
        shown_on.print(f"\n{found[0].configuration}{others}", style="bold")
        shown_on.print(f"  {found[0].outcome}")
    if len(report.alike) > SHOWN_DIFFERENCES:
        shown_on.print(f"\nand {len(report.alike) - SHOWN_DIFFERENCES} other differences")


def matrix(report: TableResult) -> Table:
    """Lay the cells out, optimizer by optimizer."""
    from optimlab.lab.parity.table import DTYPES
    from optimlab.lab.report import rich_table

    rows: list[list[str]] = []
    previous = ""
    for optimizer, implementation, texts in report.rows:
        if previous and optimizer != previous:
            rows.append([""] * (2 + len(DTYPES)))
        rows.append([optimizer if optimizer != previous else "", implementation, *texts])
        previous = optimizer
    headings = ["optimizer", "implementation", *DTYPES]
    look = {"box": None, "padding": (0, 1, 0, 0), "pad_edge": True, "show_edge": False}
    return rich_table(headings, rows, colour, left=2, **look)


def colour(heading: str, cell: str) -> str:
    """Choose the colour of a cell by what it says."""
    if heading in ("optimizer", "implementation"):
        return ""
    if "differ" in cell:
        return "bold red"
    return "green" if cell.startswith("same") else "dim"
