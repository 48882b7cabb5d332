"""The command ``optimlab demo``: its options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from optimlab.cli import common
from optimlab.demo.recipes import RECIPES, Settings

DESCRIPTION = """\
Train a small CNN on handwritten digits twice in lock step, once with torch.optim and once with
optimlab, and count the elements of parameters and optimizer state whose bits differ. Interrupt the
runs half-way and resume them in a new process, also each library from the other's checkpoint.

The loss curves are written to OUTPUT/loss-curves.png, all numbers to OUTPUT/result.json, the
checkpoints to OUTPUT/checkpoints. The exit status is 0 if all bits are the same, 1 if any differ.
"""
EXAMPLE = "optimlab demo --optimizers sgd adam --epochs 5 --output /tmp/digits"


@common.command(
    "train on real digits with torch.optim and optimlab, and compare the bits",
    DESCRIPTION,
    EXAMPLE,
)
@click.option("--epochs", type=common.POSITIVE, default=25, help="default: 25")
@click.option("--batch-size", type=common.POSITIVE, default=64, help="images per step, default: 64")
@click.option("--seed", type=int, default=0, help="of the network and the data order, default: 0")
@common.device_option
@common.words(
    "--optimizers",
    f"some of {', '.join(RECIPES)}, default: all",
    type=click.Choice([*RECIPES]),
    default=[*RECIPES],
)
@common.output_option("optimlab-demo")
@common.json_option
def demo(
    epochs: int,
    batch_size: int,
    seed: int,
    device: str,
    optimizers: Sequence[str],
    output: Path,
    json: common.Json,
) -> int:
    """Train, compare, and write what was found."""
    from optimlab.demo import experiment

    if device == "cuda":
        # What cuBLAS needs to add up in the same order each time; read when it is first used, and
        # inherited by the processes that resume.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = [
        Settings(recipe, epochs, batch_size, seed, device) for recipe in dict.fromkeys(optimizers)
    ]
    results = experiment.run(settings, output, quiet=json.printed)
    json.write(results.as_json())
    return common.EQUAL if results.same_bits else common.DIFFERENT
