"""The command ``optimlab doctor``: its options and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optimlab.cli import common

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn
    from torch.optim import Optimizer

    from optimlab.lab.doctor import Repaired, Report

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


@common.command("find out what is wrong with an optimizer's checkpoint", DESCRIPTION, EXAMPLE)
@click.argument("checkpoint", type=Path, metavar="CKPT")
@click.argument("other", type=Path, required=False, metavar="[CKPT2]")
@click.option(
    "--against",
    type=common.MODULE_NAME,
    metavar="MODULE:FACTORY",
    help="a function without arguments that makes the optimizer, or (model, optimizer)",
)
@click.option("--repair", type=Path, metavar="OUT", help="write a repaired copy to this new file")
@common.words(
    "--keep", "with --repair: take these hyperparameters from CKPT2 or the live optimizer"
)
@common.json_option
def doctor(
    checkpoint: Path,
    other: Path | None,
    against: common.Named | None,
    repair: Path | None,
    keep: Sequence[str],
    json: common.Json,
) -> int:
    """Examine, repair and print; equal is a checkpoint in which nothing is wrong."""
    from optimlab.lab import doctor as lab
    from optimlab.lab import report

    check(other, against, repair, keep)
    reference, model = (other, None) if against is None else made_by(against)
    console = report.console(quiet=json.printed)
    try:
        found = lab.doctor(checkpoint, reference, model=model)
        repaired = None
        if repair is not None:
            repaired = lab.repair(checkpoint, repair, reference, keep=keep, model=model)
    except lab.CheckpointError as error:
        raise common.MisuseError(str(error)) from error
    print_report(console, found)
    if repair is not None and repaired is not None:
        print_repaired(console, repair, repaired)
    json.write(as_json(found, repaired))
    healthy = found.healthy if repaired is None else repaired.report.healthy
    return common.EQUAL if healthy else common.DIFFERENT


def check(
    other: Path | None, against: common.Named | None, repair: Path | None, keep: Sequence[str]
) -> None:
    """Refuse options that make no sense."""
    if other is not None and against is not None:
        raise common.MisuseError("compare with CKPT2 or with --against, not with both")
    if keep and repair is None:
        raise common.MisuseError("--keep goes with --repair")
    if keep and other is None and against is None:
        raise common.MisuseError("--keep needs CKPT2 or --against to take the hyperparameters from")


def made_by(factory: common.Named) -> tuple[Optimizer, nn.Module | None]:
    """Return the optimizer to compare with, and the model whose parameters it names."""
    from torch import nn
    from torch.optim import Optimizer

    make, name = factory.load(), factory.text
    try:
        made = make()
    except Exception as error:  # whatever it is, there is nothing to compare with
        what = f"{name}() raised {type(error).__name__}: {error}"
        raise common.MisuseError(
            f"{what}; it has to make an optimizer without arguments"
        ) from error
    parts = made if isinstance(made, tuple) else (made,)
    optimizers = [part for part in parts if isinstance(part, Optimizer)]
    models = [part for part in parts if isinstance(part, nn.Module)]
    if len(optimizers) != 1:
        raise common.MisuseError(f"{name}() returned {type(made).__name__}, and no optimizer")
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
