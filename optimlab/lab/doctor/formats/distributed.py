"""What ``torch.distributed.checkpoint`` writes: a directory with pieces of tensors and an index."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.doctor.errors import CheckpointError
from optimlab.lab.doctor.formats import torch_file
from optimlab.lab.doctor.formats.pickled import unpickle
from optimlab.lab.doctor.formats.rebuild import FUNCTIONS, VALUES

INDEX = ".metadata"


def read(folder: Path) -> Any:
    """Put the pieces together, to the nested value that was saved.

    Raises:
        CheckpointError: if a piece is missing or does not fit.
    """
    with (folder / INDEX).open("rb") as file:
        index = unpickle(file, FUNCTIONS, VALUES).state
    held = sum(file.stat().st_size for file in folder.iterdir())
    values: dict[str, Any] = {}
    for key, place in index["storage_data"].items():
        name, *_ = key.state["fqn"], key
        kind = index["state_dict_metadata"][name].state
        piece = _piece(folder, place.state)
        if not isinstance(piece, Tensor) or "size" not in kind:
            values[name] = piece
            continue
        size, offset = kind["size"], key.state["offset"] or (0,) * len(kind["size"])
        if math.prod(size) * piece.element_size() > held:
            raise CheckpointError(f"{name} has shape {tuple(size)}, more than the files hold")
        whole = values.setdefault(name, torch.empty(size, dtype=piece.dtype))
        here = tuple(slice(at, at + n) for at, n in zip(offset, piece.shape, strict=True))
        whole[here] = piece
    return _nested(values, index["planner_data"] or {name: (name,) for name in values})


def _piece(folder: Path, place: dict[str, Any]) -> Any:
    path = folder / Path(place["relative_path"]).name
    with path.open("rb") as file:
        file.seek(place["offset"])
        piece = io.BytesIO(file.read(place["length"]))
    return torch_file.read(piece)


def _nested(values: dict[str, Any], paths: dict[str, Any]) -> Any:
    """Undo the flattening: a value for each path of keys and indices."""
    nested: dict[Any, Any] = {}
    for name, value in values.items():
        *outer, last = paths.get(name, (name,))
        inner = nested
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return _lists(nested)


def _lists(value: Any) -> Any:
    """Make lists of the dicts whose keys are all indices, such as that of the groups."""
    if not isinstance(value, dict):
        return value
    made = {
        key: list(map(_lists, item.values())) if key == "param_groups" and _counts(item) else item
        for key, item in value.items()
    }
    return {key: _lists(item) for key, item in made.items()}


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == list(range(len(value)))
