"""Files of checkpoints: a module for each format, with a function that reads it.

What a reader returns is the checkpoint in memory: dicts, lists, tensors, plain values, and a
:class:`Placeholder` for each object that is none of these. No code of a file is run.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats import directory, safetensors, torch_file
from optimlab.lab.doctor.formats.pickled import Placeholder

__all__ = ["Placeholder", "read"]


def read(path: Path) -> Any:
    """Read a checkpoint, whatever its format.

    Raises:
        CheckpointError: if there is no such file, or nothing in it can be read.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError("it is neither a file nor a directory")
        return directory.read(path) if path.is_dir() else _read_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no checkpoint: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes make a reader raise nearly anything
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no checkpoint: {what}") from error


def _read_file(path: Path) -> Any:
    with path.open("rb") as file:
        safetensors.refuse(file)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return directory.read_archive(archive, path.stat().st_size)
        file.seek(0)
        return torch_file.read(file)
