"""Interrupt two runs half-way and carry them on in a new process.

This module is also the program that carries a run on:

    python -m optimlab.demo.resume --run half-way.pt optimlab end.pt

trains from the checkpoint to the end with the optimizer of the library named, whichever library
wrote the checkpoint, and writes the final parameters and optimizer state.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimlab.demo import checkpoint
from optimlab.demo.differences import compare
from optimlab.demo.libraries import LibraryName
from optimlab.demo.training import LockStep, reproducible
from optimlab.lab.compare.bits import Distance

# (library that wrote the checkpoint, library that goes on from it)
PAIRS: tuple[tuple[LibraryName, LibraryName], ...] = (
    ("optimlab", "optimlab"),
    ("torch", "optimlab"),
    ("optimlab", "torch"),
)


@dataclass(frozen=True)
class Resumption:
    """A run that was interrupted half-way and carried on in another process.

    Attributes:
        saved_by: Library of the interrupted run.
        resumed_by: Library of the run that went on.
        process: Id of the process that went on.
        losses: The loss of every step, from the first.
        distance: Its final elements against the uninterrupted run of ``resumed_by``.
    """

    saved_by: LibraryName
    resumed_by: LibraryName
    process: int
    losses: Sequence[float]
    distance: Distance


def interrupt(folder: Path, lock_step: LockStep) -> None:
    """Save a checkpoint of both runs where they are."""
    for library, run in lock_step.runs.items():
        path = half_way(folder, lock_step, library)
        checkpoint.save(path, lock_step.settings, run, lock_step.batches)


def half_way(folder: Path, lock_step: LockStep, library: LibraryName) -> Path:
    """Return where the run of ``library`` saves its checkpoint."""
    return folder / f"{lock_step.settings.recipe}-{library}-half-way.pt"


def resume(folder: Path, lock_step: LockStep) -> list[Resumption]:
    """Resume each of ``PAIRS`` in a new process and compare the ends with the uninterrupted runs.

    Args:
        folder: Where ``interrupt`` saved the checkpoints.
        lock_step: The same two runs, trained to the end without interruption.

    Raises:
        RuntimeError: The process failed; the message holds what it wrote to its standard error.
    """
    ends = {
        pair: folder / f"{lock_step.settings.recipe}-{'-then-'.join(pair)}.pt" for pair in PAIRS
    }
    command = [sys.executable, "-m", __spec__.name]
    for (saved_by, resumed_by), end in ends.items():
        end.unlink(missing_ok=True)
        command += ["--run", str(half_way(folder, lock_step, saved_by)), resumed_by, str(end)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"could not resume from a checkpoint:\n{finished.stderr}")
    return [compare_end(lock_step, *pair, checkpoint.read(end)) for pair, end in ends.items()]


def compare_end(
    lock_step: LockStep, saved_by: LibraryName, resumed_by: LibraryName, end: Mapping[str, Any]
) -> Resumption:
    """Compare the end of a resumed run with that of the uninterrupted run."""
    distance = compare(end["tensors"], lock_step.runs[resumed_by].tensors())
    return Resumption(saved_by, resumed_by, end["process"], end["losses"], distance)


def carry_on(source: Path, library: LibraryName, output: Path) -> None:
    """Train from a checkpoint to the end and save how it ended."""
    settings, run, batches = checkpoint.load(source, library)
    for _ in range(len(run.losses), settings.epochs * batches.per_epoch):
        run.step(*batches.draw())
    end = {"tensors": run.tensors(), "losses": run.losses, "process": os.getpid()}
    checkpoint.write(output, end)


def main() -> None:
    """Carry runs on, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m optimlab.demo.resume")
    parser.add_argument(
        "--run",
        nargs=3,
        action="append",
        required=True,
        metavar=("CHECKPOINT", "LIBRARY", "END"),
        help="a file that the demo wrote half-way, torch or optimlab, and the file to write",
    )
    with reproducible():
        for source, library, end in parser.parse_args().run:
            carry_on(Path(source), library, Path(end))


if __name__ == "__main__":
    main()
