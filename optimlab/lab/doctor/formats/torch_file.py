"""What ``torch.save`` wrote."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from optimlab.lab.doctor.errors import CheckpointError


def read(path: Path) -> Any:
    """Read a checkpoint without running any code that it may hold.

    Raises:
        CheckpointError: if there is no such file, or it is not to be read safely.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and reading that would run code "
            f"from the file, which the doctor does not do: {_reason(error)}"
        ) from error
    except Exception as error:  # damaged bytes make torch's reader raise nearly anything
        raise CheckpointError(f"{path} is no checkpoint: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Find the line of torch's explanation that says what was met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    return next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0])
