"""Read pictures and labels in the IDX format, as Fashion-MNIST and MNIST come.

A file is a header and then unsigned bytes: two zeros, the type (8), the number of dimensions, and
each dimension as a big-endian integer of 4 bytes (http://yann.lecun.com/exdb/mnist/). Files may be
compressed with gzip.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """Read one file.

    Args:
        path: the file; where it is missing, the same name with ``.gz`` is read.

    Returns:
        A uint8 tensor of the shape that the header says.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if it is no IDX file of unsigned bytes, or not a whole one.
    """
    content = path.read_bytes() if path.exists() else unpacked(path.with_name(f"{path.name}.gz"))
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path} ends within its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) != header + math.prod(shape):
        there = len(content) - header
        raise ValueError(f"{path} should hold {math.prod(shape)} elements, and holds {there}")
    # A bytearray, since a tensor over bytes could be written to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)


def unpacked(path: Path) -> bytes:
    """Read a file that gzip has compressed."""
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error


def read_pictures(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read the pictures and labels of one part of Fashion-MNIST or MNIST.

    Args:
        folder: where the four files are.
        part: ``"train"``, or ``"t10k"`` for the test pictures.

    Returns:
        Pictures, float32 of shape (n, 1, h, w) with values from 0 to 1, and labels, int64 of
        shape (n,).

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or there are not as many labels as pictures.
    """
    pictures = read_idx(folder / f"{part}-images-idx3-ubyte")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte")
    if pictures.dim() != 3 or labels.shape != pictures.shape[:1]:
        shapes = f"{tuple(pictures.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"{part} pictures and labels do not belong together: {shapes}")
    return pictures.unsqueeze(1).float().div(255), labels.long()
