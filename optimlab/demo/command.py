"""The command ``optimlab demo``: its options."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from optimlab.demo.recipes import RECIPES, Settings

DESCRIPTION = """\
Train a small CNN on handwritten digits twice in lock step, once with torch.optim and once with
optimlab, and count the elements of parameters and optimizer state whose bits differ. Interrupt the
runs half-way and resume them in a new process, also each library from the other's checkpoint.

The loss curves are written to OUTPUT/loss-curves.png, all numbers to OUTPUT/result.json, the
checkpoints to OUTPUT/checkpoints. The exit status is 0 if all bits are the same, 1 if any differ.
"""
EXAMPLE = "example: optimlab demo --optimizers sgd adam --epochs 5 --output /tmp/digits"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="train on real digits with torch.optim and optimlab, and compare the bits",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=positive, default=25, help="default: 25")
    add("--batch-size", type=positive, default=64, help="images per step, default: 64")
    add("--seed", type=int, default=0, help="of the network and the data order, default: 0")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
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
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """Read a positive integer."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    from optimlab.demo import experiment

    if complaint := unusable(args):
        print(f"optimlab demo: {complaint}", file=sys.stderr)
        return 2
    recipes = tuple(dict.fromkeys(args.optimizers))
    settings = [
        Settings(recipe, args.epochs, args.batch_size, args.seed, args.device) for recipe in recipes
    ]
    return int(experiment.run(settings, args.output).differing > 0)


def unusable(args: argparse.Namespace) -> str:
    """Make the output directory and look for the device; return what is wrong, if anything."""
    import torch

    if args.device == "cuda":
        # What cuBLAS needs to add up in the same order each time; read when it is first used, and
        # inherited by the processes that resume.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if not torch.cuda.is_available():
            return "there is no CUDA device here"
    try:
        (args.output / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot write to {args.output}: {error.strerror}"
    return ""
