"""The command ``optimlab parity``: its options and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from optimlab.parity.cases import Case, Extent
    from optimlab.parity.report import Report

DESCRIPTION = """\
Compare every optimizer with torch.optim, bit by bit: all combinations of its options, for each
implementation and dtype, at least 20 steps each, in lock step from the same starting bits with the
same gradients. Parameters, state, parameter groups and state dicts are compared as integers.

The exit status is 0 if all bits are the same, 1 if any differ.
"""
EXAMPLE = "example: optimlab parity --quick --optimizer SGD Adam --json parity.json"
LEGEND = """\
same N: in N cases every step of both sides gave the same bits. raises: both sides refuse, with the
same error. N differ: in N cases they do not agree; below it, how far apart their parameters end:
share of elements and largest distance. An empty cell was not asked for."""
SHOWN_DIFFERENCES = 20
WIDTH = 100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "parity",
        help="compare every configuration with torch.optim, bit by bit",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a few options in two dtypes: seconds, not minutes")
    add("--optimizer", nargs="+", default=[], metavar="NAME", help="default: all of the table")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add("--json", type=Path, metavar="FILE", help="write all numbers to this file, too")
    add("--seed", type=int, default=0, help="of starting values and gradients, default: 0")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    from rich.console import Console

    from optimlab.parity.cases import cases

    if complaint := unusable(args):
        print(f"optimlab parity: {complaint}", file=sys.stderr)
        return 2
    extent: Extent = "quick" if args.quick else "full"
    chosen = list(cases(extent, optimizers=args.optimizer, device=args.device, seed=args.seed))
    console = Console(width=WIDTH, highlight=False)
    began = time.perf_counter()
    report = run_cases(console, args.device, chosen)
    print_report(console, report)
    if args.json is not None:
        about = {"extent": extent, "seed": args.seed, "seconds": time.perf_counter() - began}
        args.json.write_text(json.dumps(report.as_json(**about), indent=1) + "\n", encoding="utf-8")
    return int(not report.equal)


def unusable(args: argparse.Namespace) -> str:
    """Return what is wrong with the options, if anything."""
    import torch

    from optimlab.parity.table import TABLE

    known = [row.name for row in TABLE]
    unknown = [name for name in args.optimizer if name not in known]
    if unknown:
        return f"no optimizer {', '.join(unknown)} in the table, which has {', '.join(known)}"
    if args.device == "cuda" and not torch.cuda.is_available():
        return "this machine has no CUDA device that torch can use"
    if args.json is not None and not args.json.parent.is_dir():
        return f"there is no directory {args.json.parent} to write to"
    return ""


def run_cases(console: Console, device: str, chosen: list[Case]) -> Report:
    """Run the cases behind a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from optimlab.parity.report import Report, environment

    facts = ", ".join(f"{name} {value}" for name, value in environment(device).items())
    console.print(f"Comparing with torch.optim: {facts}")
    report = Report(device)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(chosen))
        for case in chosen:
            doing = f"{case.row.name} {case.implementation} {case.dtype}"
            progress.update(task, description=f"{len(report.differences)} differ  {doing}")
            report.add(case, case.run())
            progress.advance(task)
        progress.update(task, description=f"{len(report.differences)} differ")
    return report


def print_report(console: Console, report: Report) -> None:
    """Print the matrix, the totals, and what differs."""
    console.print(matrix(report))
    console.print(LEGEND, style="dim")
    console.print()
    console.print(report.totals(), markup=False)
    for exclusion in report.exclusions:
        console.print(f"excluded: {exclusion}", markup=False)
    for difference, found_in in report.alike[:SHOWN_DIFFERENCES]:
        others = f" and {len(found_in) - 1} more cases" if len(found_in) > 1 else ""
        console.print(f"\n{found_in[0]}{others}", style="bold", markup=False)
        console.print(f"  {difference}", markup=False)
    if len(report.alike) > SHOWN_DIFFERENCES:
        console.print(f"\nand {len(report.alike) - SHOWN_DIFFERENCES} other differences")


def matrix(report: Report) -> Table:
    """Lay the cells out, optimizer by optimizer."""
    from rich.table import Table

    from optimlab.parity.table import DTYPES

    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("optimizer")
    table.add_column("implementation")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    previous = ""
    for optimizer, implementation, texts in report.rows:
        if previous and optimizer != previous:
            table.add_row()
        table.add_row(
            optimizer if optimizer != previous else "", implementation, *map(coloured, texts)
        )
        previous = optimizer
    return table


def coloured(text: str) -> str:
    """Colour a cell by what it says."""
    if "differ" in text:
        return f"[bold red]{text}[/]"
    return f"[green]{text}[/]" if text.startswith("same") else f"[dim]{text}[/]"
