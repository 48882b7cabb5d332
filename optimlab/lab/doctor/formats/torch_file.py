"""What ``torch.save`` writes: an archive of a pickle and the bytes of its tensors.

Until torch 1.5 it was a row of pickles with the bytes behind them, which is read, too. An archive's
checksums are verified, so that a byte that was turned over is noticed.
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any, BinaryIO

import torch

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats.pickled import unpickle
from optimlab.lab.doctor.formats.rebuild import FUNCTIONS, VALUES, Storage

_CHUNK = 1 << 24
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read(file: BinaryIO) -> Any:
    """Read what ``torch.save``, now or before torch 1.6, or ``pickle.dump`` wrote.

    Raises:
        CheckpointError: if it is damaged, or has what no checkpoint has.
    """
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return _read_pickles(file)
    with zipfile.ZipFile(file) as archive:
        return read_archive(archive)


def read_archive(archive: zipfile.ZipFile) -> Any:
    """Read a checkpoint of torch 1.6 or later."""
    (pickle_name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    folder = pickle_name.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and _member(archive, order) != b"little":
        raise CheckpointError("it was written on a machine with the other order of bytes")
    storages: dict[str, Storage] = {}

    def storage(name: Any) -> Storage:
        _, dtype, key, location, numel = _checked(name)
        if key not in storages:
            storages[key] = _storage(archive, f"{folder}data/{key}", dtype, location, numel)
        return storages[key]

    file = io.BytesIO(_member(archive, pickle_name))
    return unpickle(file, FUNCTIONS, VALUES, storage)


def _checked(name: Any) -> Any:
    """Refuse an identifier that names no storage, before it is used or printed."""
    _, dtype, key, location, numel, *_ = name
    types = (dtype, torch.dtype), (key, str | int), (location, str), (numel, int)
    if not all(isinstance(value, kind) for value, kind in types) or numel < 0:
        raise CheckpointError("a tensor in it refers to no memory")
    return name


def _storage(
    archive: zipfile.ZipFile, name: str, dtype: torch.dtype, location: str, numel: int
) -> Storage:
    if location == "meta":
        return Storage(torch.UntypedStorage(numel * dtype.itemsize, device="meta"), dtype)
    raw = _member(archive, name)
    if len(raw) < numel * dtype.itemsize:
        raise CheckpointError(
            f"{name} has {len(raw)} bytes, and {numel} elements of {dtype} need more"
        )
    return Storage(_untyped(raw), dtype)


def _untyped(raw: bytearray) -> torch.UntypedStorage:
    if not raw:
        return torch.UntypedStorage(0)
    return torch.frombuffer(raw, dtype=torch.uint8).untyped_storage()


def _member(archive: zipfile.ZipFile, name: str) -> bytearray:
    """Read a file of an archive, whose checksum is verified at its end."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{name} in it is compressed, as torch never does")
    if archive.fp is None or info.file_size > archive.fp.seek(0, os.SEEK_END):
        raise CheckpointError(f"{name} is said to be larger than the file")
    raw = bytearray(info.file_size)
    try:
        with archive.open(name) as file:
            for start in range(0, len(raw) + 1, _CHUNK):  # one chunk at a time in memory
                chunk = file.read(_CHUNK)
                raw[start : start + len(chunk)] = chunk
    except zipfile.BadZipFile as error:
        what = f"it is damaged: the checksum of {name} does not fit its bytes"
        raise CheckpointError(f"{what}; take another copy of the file") from error
    return raw


def _read_pickles(file: BinaryIO) -> Any:
    """Read a checkpoint of torch before 1.6, or a plain pickle."""
    first = unpickle(file, FUNCTIONS, VALUES)
    if first != _LEGACY_MAGIC:
        return first
    unpickle(file, FUNCTIONS, VALUES)  # the version
    unpickle(file, FUNCTIONS, VALUES)  # the machine it was written on
    storages: dict[str, Storage] = {}
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)

    def storage(name: Any) -> Any:
        if name[0] == "module":  # a class, with its source
            return name[1]
        _, dtype, key, _, numel, *_ = _checked(name)
        if key not in storages:
            claimed = sum(each.untyped.nbytes() for each in storages.values())
            if claimed + numel * dtype.itemsize > size:
                raise CheckpointError(f"a tensor of {numel} elements is larger than the file")
            storages[key] = Storage(torch.UntypedStorage(numel * dtype.itemsize), dtype)
        return storages[key]

    content = unpickle(file, FUNCTIONS, VALUES, storage)
    for key in unpickle(file, FUNCTIONS, VALUES):
        memory, dtype = storages[key].untyped, storages[key].dtype
        count = int.from_bytes(file.read(8), "little") * dtype.itemsize
        raw = bytearray(file.read(memory.nbytes()))
        if count != memory.nbytes() or len(raw) != count:
            raise CheckpointError("the file is cut short")
        memory.copy_(_untyped(raw))
    return content
