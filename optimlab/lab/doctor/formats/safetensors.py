"""Files of safetensors, which hold tensors by name and nothing else."""

from __future__ import annotations

import json
from typing import BinaryIO

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.findings import listed


def refuse(file: BinaryIO) -> None:
    """Say what is in a file of safetensors, which can hold no optimizer; pass any other file.

    Raises:
        CheckpointError: if it is one.
    """
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if size < 100_000_000 and file.read(1) == b"{":
        try:
            names = [name for name in json.loads(b"{" + file.read(size - 1)) if name[:2] != "__"]
        except ValueError:
            names = []
        if names:
            what = f"it is a file of safetensors, with {len(names)} tensors, {listed(names)}, and "
            raise CheckpointError(f"{what}no groups: give the optimizer's own file, optimizer.pt")
    file.seek(0)
