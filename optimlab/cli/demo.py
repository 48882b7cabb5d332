"""The command ``optimlab demo``: its options."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from optimlab.demo.recipes import RECIPES, Settings
from optimlab.lab.report import (
    MisuseError,
    Subparsers,
    add_command,
    add_device,
    add_json,
    check_device,
    check_json,
    positive,
    prints_json,
    write_json,
)

DESCRIPTION = """\
Train a small CNN on handwritten digits twice in lock step, once with torch.optim and once with
optimlab, and count the elements of parameters and optimizer state whose bits differ. Interrupt the
runs half-way and resume them in a new process, also each library from the other's checkpoint.

The loss curves are written to OUTPUT/loss-curves.png, all numbers to OUTPUT/result.json, the
checkpoints to OUTPUT/checkpoints. The exit status is 0 if all bits are the same, 1 if any differ.
"""
EXAMPLE = "optimlab demo --optimizers sgd adam --epochs 5 --output /tmp/digits"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers,
        "demo",
        run,
        summary="train on real digits with torch.optim and optimlab, and compare the bits",
        description=DESCRIPTION,
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("--epochs", type=positive, default=25, help="default: 25")
    add("--batch-size", type=positive, default=64, help="images per step, default: 64")
    add("--seed", type=int, default=0, help="of the network and the data order, default: 0")
    add_device(parser)
    add(
        "--optimizers",
        nargs="+",
        choices=tuple(RECIPES),
        default=tuple(RECIPES),
        metavar="NAME",
        help=f"some of {', '.join(RECIPES)}, default: all",
    )
    add(
        "--output",
        type=Path,
        default=Path("optimlab-demo"),
        metavar="DIR",
        help="default: optimlab-demo",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    from optimlab.demo import experiment

    prepare(args)
    recipes = tuple(dict.fromkeys(args.optimizers))
    settings = [
        Settings(recipe, args.epochs, args.batch_size, args.seed, args.device) for recipe in recipes
    ]
    differing = experiment.run(settings, args.output, quiet=prints_json(args)).differing
    write_json(args, json.loads((args.output / "result.json").read_text(encoding="utf-8")))
    return int(differing > 0)


def prepare(args: argparse.Namespace) -> None:
    """Make the output directory and look for the device.

    Raises:
        MisuseError: if there is no such device, or the directory cannot be made.
    """
    if args.device == "cuda":
        # What cuBLAS needs to add up in the same order each time; read when it is first used, and
        # inherited by the processes that resume.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    check_device(args.device)
    check_json(args)
    try:
        (args.output / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MisuseError(f"cannot write to {args.output}: {error.strerror}") from error
