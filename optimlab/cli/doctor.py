"""The command ``optimlab doctor``: its options and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimlab.lab import report as terminal
from optimlab.lab.report import DIFFERENT, EQUAL, MisuseError, Subparsers, add_command, add_json

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from optimlab.lab.doctor import Repaired, Report
    from optimlab.lab.doctor.checkpoint import Source

DESCRIPTION = """\
Examine an optimizer's checkpoint for what loads without an error and trains wrongly: swapped
parameters, shared memory, the state of another class, lost momentum, moments in reduced precision,
overridden hyperparameters, missing keys, duplicate parameters, values that are not finite.

Alone it is examined for what no optimizer leaves behind; with a second checkpoint, for everything
in which they differ, to the first differing bit; with --against, for what loading it into that
optimizer would do. No code in a file is run, and no file is changed.

The exit status is 0 if nothing is wrong, 1 if anything is, 2 if a file cannot be examined.
"""
EXAMPLE = "optimlab doctor --against train:make_optimizer run.pt --repair fixed.pt --keep lr"
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers,
        "doctor",
        run,
        summary="find out what is wrong with an optimizer's checkpoint",
        description=DESCRIPTION,
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="a file that torch.save wrote")
    add("other", type=Path, nargs="?", metavar="CKPT2", help="another, to compare with")
    add(
        "--against",
        metavar="MODULE:FACTORY",
        help="a function without arguments that makes the optimizer, or (model, optimizer)",
    )
    add("--repair", type=Path, metavar="OUT", help="write a repaired copy to this new file")
    add(
        "--keep",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --repair: take these hyperparameters from CKPT2 or the live optimizer",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    from optimlab.lab.doctor import CheckpointError, doctor, repair

    check(args)
    against, model = reference(args)
    console = terminal.console(quiet=terminal.prints_json(args))
    try:
        found = doctor(args.checkpoint, against, model=model)
        repaired = None
        if args.repair is not None:
            repaired = repair(args.checkpoint, args.repair, against, keep=args.keep, model=model)
    except CheckpointError as error:
        raise MisuseError(str(error)) from error
    print_report(console, found)
    if repaired is not None:
        print_repaired(console, args.repair, repaired)
    terminal.write_json(args, as_json(found, repaired))
    healthy = found.healthy if repaired is None else repaired.report.healthy
    return EQUAL if healthy else DIFFERENT


def check(args: argparse.Namespace) -> None:
    """Refuse options that make no sense.

    Raises:
        MisuseError: if there are two references, nothing to repair, or no directory to write to.
    """
    if args.other is not None and args.against is not None:
        raise MisuseError("compare with CKPT2 or with --against, not with both")
    if args.keep and args.repair is None:
        raise MisuseError("--keep goes with --repair")
    if args.keep and args.other is None and args.against is None:
        raise MisuseError("--keep needs CKPT2 or --against to take the hyperparameters from")
    terminal.check_json(args)


def reference(args: argparse.Namespace) -> tuple[Source | None, nn.Module | None]:
    """Return what to compare with, and the model whose parameters it names.

    Raises:
        MisuseError: if the factory raises an error, or makes no optimizer.
    """
    from torch import nn
    from torch.optim import Optimizer

    if args.against is None:
        return args.other, None
    factory = terminal.resolve(args.against)
    try:
        made = factory()
    except Exception as error:  # whatever it is, there is nothing to compare with
        what = f"{args.against}() raised {type(error).__name__}: {error}"
        raise MisuseError(f"{what}; it has to make an optimizer without arguments") from error
    parts = made if isinstance(made, tuple) else (made,)
    optimizers = [part for part in parts if isinstance(part, Optimizer)]
    models = [part for part in parts if isinstance(part, nn.Module)]
    if len(optimizers) != 1:
        raise MisuseError(f"{args.against}() returned {type(made).__name__}, and no optimizer")
    return optimizers[0], models[0] if models else None


def print_report(console: Console, found: Report) -> None:
    """Print the verdict in a line, then the findings."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(found.verdict, style="bold")
    for finding in found.findings:
        head = Text.assemble(
            (finding.severity, STYLES[finding.severity]), f"  {finding.kind}: {finding.where}"
        )
        console.print()
        console.print(head)
        console.print(Padding(finding.what, (0, 0, 0, 4)))
        console.print(Padding(finding.advice, (0, 0, 0, 4)), style="dim")


def print_repaired(console: Console, path: Path, repaired: Repaired) -> None:
    """Print what was done, and what is left."""
    console.print(f"\nwrote {path}", style="bold")
    for change in repaired.done or ("there was nothing to repair: it is a copy",):
        console.print(f"  {change}")
    print_report(console, repaired.report)


def as_json(found: Report, repaired: Repaired | None) -> dict[str, Any]:
    """Return everything as a value that the json module can write."""
    if repaired is None:
        return found.as_json()
    after = {"done": list(repaired.done), "report": repaired.report.as_json()}
    return {**found.as_json(), "repaired": after}
