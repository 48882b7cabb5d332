"""Files of checkpoints: a module for each format, with a function that reads it.

What a reader returns is the checkpoint in memory: dicts, lists, tensors, plain values, and a
:class:`Placeholder` for each object that is none of these. No code of a file is run.
"""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import Any

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats import torch_file
from optimlab.lab.doctor.formats.pickled import Placeholder

__all__ = ["Placeholder", "read"]


def read(path: Path) -> Any:
    """Read a checkpoint, whatever its format.

    Raises:
        CheckpointError: if there is no such file, or nothing in it can be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is no file")
        return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no checkpoint: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # damaged bytes make a reader raise nearly anything
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no checkpoint: {what}") from error


def _read(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return torch_file.read_pickles(file)
    with zipfile.ZipFile(path) as archive:
        return torch_file.read_archive(archive)
