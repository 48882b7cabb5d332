"""Directories that trainers write, and archives of files: the optimizer's are among them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats import distributed, torch_file
from optimlab.lab.findings import listed

_ENDINGS = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


def read(folder: Path) -> Any:
    """Read the files of a directory that are an optimizer's, or the distributed checkpoint it is.

    Raises:
        CheckpointError: if there is none; the message says what there is instead.
    """
    if (folder / distributed.INDEX).is_file():
        return distributed.read(folder)
    found = {path.name: path for path in _of_optimizers(folder)}
    if not found:
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
        there = sorted(path.name for path in folder.iterdir() if path.is_file())
        hint = f"; there are the directories {listed(inner)}: give one of them" if inner else ""
        raise CheckpointError(f"no file in it is named after an optimizer: {listed(there)}{hint}")
    return {name: _read(path) for name, path in found.items()}


def _of_optimizers(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        is_one = path.suffix in _ENDINGS or (path / distributed.INDEX).is_file()
        if "optim" in path.name.lower() and is_one:
            yield path


def _read(path: Path) -> Any:
    if path.is_dir():
        return distributed.read(path)
    with path.open("rb") as file:
        return torch_file.read(file)


def read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """Read the files in a zip that has checkpoints in it, as stable-baselines3 writes it."""
    content = {}
    for info in archive.infolist():
        if Path(info.filename).suffix in _ENDINGS and info.file_size:
            if info.file_size > 100 * size:
                raise CheckpointError(f"{info.filename} is {info.file_size} bytes, compressed")
            content[info.filename] = torch_file.read(io.BytesIO(archive.read(info)))
    return content
