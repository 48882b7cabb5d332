"""Interrupt two runs half-way and carry them on in a new process.

This module is also the program that carries runs on:

    python -m optimlab.demo.resume half-way.pt optimlab end.pt ...

trains from the checkpoint to the end with the optimizer of the library named, whichever library
wrote the checkpoint, and writes the final parameters and optimizer state; then the next three.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

from optimlab.demo import checkpoint
from optimlab.demo.libraries import LibraryName
from optimlab.demo.results import PAIRS, Count, Resumption
from optimlab.demo.training import LockStep, reproducible


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
    recipe = lock_step.settings.recipe
    ends = {pair: folder / f"{recipe}-{'-then-'.join(pair)}.pt" for pair in PAIRS}
    command = [sys.executable, "-m", __spec__.name]
    for (saved_by, resumed_by), end in ends.items():
        end.unlink(missing_ok=True)
        command += [str(half_way(folder, lock_step, saved_by)), resumed_by, str(end)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"could not resume from a checkpoint:\n{finished.stderr}")
    return [resumption(lock_step, *pair, end) for pair, end in ends.items()]


def resumption(
    lock_step: LockStep, saved_by: LibraryName, resumed_by: LibraryName, path: Path
) -> Resumption:
    """Compare the end of a resumed run with that of the uninterrupted run."""
    end = checkpoint.read(path)
    count = Count.of(end["tensors"], lock_step.runs[resumed_by].tensors())
    return Resumption(**vars(count), saved_by=saved_by, resumed_by=resumed_by, **end["about"])


def carry_on(source: Path, library: LibraryName, output: Path) -> None:
    """Train from a checkpoint to the end and save how it ended."""
    settings, run, batches = checkpoint.load(source, library)
    for _ in range(len(run.losses), settings.epochs * batches.per_epoch):
        run.step(*batches.draw())
    about = {"losses": run.losses, "process": os.getpid()}
    checkpoint.write(output, {"tensors": run.tensors(), "about": about})


if __name__ == "__main__":
    words = iter(sys.argv[1:])
    with reproducible():
        for source, library, output in zip(words, words, words, strict=True):
            carry_on(Path(source), cast(LibraryName, library), Path(output))
