"""A directory of checkpoints that no crash can damage, as examples/resume.py uses it.

Three rules make it so. A checkpoint is written to a temporary file, which gets its name only when
all of it is on the disk: whatever has the name is whole. Older ones are deleted only after that.
And what is read is checked first, because disks and people make mistakes too.

For Linux and macOS: Windows has neither this lock nor a way to write a directory to the disk.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PROGRAM = "optimlab's examples/resume.py, format 1"


class RefusedError(Exception):
    """A file that is no usable checkpoint; the message says why."""


class Checkpoints:
    """The last few checkpoints of one run, in files such as ``step-00000040.pt``.

    Args:
        directory: an existing directory, of which no other process makes use: see :func:`opened`.
        keep: how many checkpoints stay.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep
        for part in directory.glob("step-*.part"):  # of a process that was killed while it saved
            part.unlink()

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete those that are no longer to be kept.

        Args:
            step: how many steps the run has taken.
            content: tensors, numbers, strings and containers of these.
        """
        path = self.directory / f"step-{step:08}.pt"
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save({"program": PROGRAM, **content}, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)  # after an error, such as a full disk
        self._write_names()
        # Those of later steps are not this run's past: they were refused, or are none of its own.
        past = [old for old in newest_first(self.directory) if old <= path]
        for old in past[self.keep :]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """Read the newest usable checkpoint; ``None`` if there is none.

        A newer one that is refused is printed with the reason and set aside as ``*.pt.refused``, so
        that nothing gets lost that this program did not write.
        """
        for path in newest_first(self.directory):
            try:
                content = read(path)
            except RefusedError as error:
                path.replace(f"{path}.refused")
                print(f"refused {path.name}: {error}", flush=True)
            else:
                print(f"continuing from {path.name}", flush=True)
                return content
        return None

    def _write_names(self) -> None:
        """Make the new name in the directory last, as ``fsync`` makes the content of a file."""
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def opened(directory: Path, keep: int) -> Iterator[Checkpoints]:
    """Open a directory of checkpoints, made if need be, for this process alone.

    Raises:
        BlockingIOError: another process has it open.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a") as lock:
        # The kernel lets go of it when the process ends, in whatever way it ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Checkpoints(directory, keep)


def newest_first(directory: Path) -> list[Path]:
    """Return the files that have the name of a checkpoint, the latest step first."""
    return sorted(directory.glob("step-" + "[0-9]" * 8 + ".pt"), reverse=True)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint that may be damaged, or none at all.

    Raises:
        RefusedError: it is not whole, not of this program, or holds what may not be trusted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever is wrong with this file, an older one may be good
        raise RefusedError(_reason(error)) from error
    if damaged:
        raise RefusedError(f"it is damaged: wrong checksum of {damaged}")
    if not isinstance(content, dict) or content.get("program") != PROGRAM:
        raise RefusedError("it was written by another program")
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror})"
    if isinstance(error, zipfile.BadZipFile | EOFError):
        return "it is cut short, or was never a checkpoint"
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than tensors and plain values"
    return f"it is no checkpoint ({type(error).__name__} in torch.load)"
