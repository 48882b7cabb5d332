"""Checkpoints: all that a run needs to go on, in a file that is never half written."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from optimlab.demo.digits import Batches, read_digits
from optimlab.demo.libraries import LibraryName
from optimlab.demo.recipes import Settings
from optimlab.demo.training import Run


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file so that ``path`` holds the old content or the new, never a part of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Read a file, refusing anything but tensors and plain values."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def save(path: Path, settings: Settings, run: Run, batches: Batches) -> None:
    """Save a run: its settings, network, optimizer and losses, and its place in the data."""
    write(
        path,
        {"settings": asdict(settings), "run": run.state_dict(), "batches": batches.state_dict()},
    )


def load(path: Path, library: LibraryName) -> tuple[Settings, Run, Batches]:
    """Restore what ``save`` wrote, with the optimizer of ``library``, whoever wrote it."""
    content = read(path)
    settings = Settings(**content["settings"])
    run = Run(settings, library)
    run.load_state_dict(content["run"])
    batches = Batches(read_digits(), settings.batch_size, settings.seed)
    batches.load_state_dict(content["batches"])
    return settings, run, batches
