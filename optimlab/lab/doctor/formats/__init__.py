"""Files of checkpoints: a module for each format, with a function that reads it.

What a reader returns is the checkpoint in memory: dicts, lists, tensors, plain values. No code of a
file is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimlab.lab.doctor.formats import torch_file


def read(path: Path) -> Any:
    """Read a checkpoint, whatever its format.

    Raises:
        CheckpointError: if there is no such file, or it is not to be read safely.
    """
    return torch_file.read(path)
