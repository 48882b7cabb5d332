"""Write the step viewer: its page, and the runs that it shows, as the optimizers made them.

    python docs/viewer/export.py FOLDER

Every number on the page comes from here: from :func:`optimlab.trace`, and from the surfaces'
losses. The page looks numbers up and scales them to pixels; it computes none. Data are scripts that
hand their content to a function, because a page that is opened from a file may read no other file.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent))  # for its neighbours, however this file was found

from presets import NOTES, OPENING, PRESETS
from recorded import CHOICES, Grid, Recorded, record
from surfaces import SURFACES, Surface

GRID_SIZE = (97, 73)
"""How many values of a surface are written for its contours, along the first coordinate and the
second."""

LEVELS = 13


def write(out: Path, grid: Grid | None = None) -> None:
    """Write the viewer into a folder, which is made if it is missing.

    Args:
        out: the folder; ``viewer.html`` in it is the page.
        grid: learning rates, momenta and number of steps; by default those of the site.
    """
    grid = grid or Grid()
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    for path in (*here.glob("*.html"), *here.glob("*.css"), *here.glob("*.js")):
        shutil.copy(path, out / path.name)
    _hand_over(data / "index.js", "index", _index(grid))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are tiny
    try:
        for key in CHOICES:
            _write_runs(data, key, grid)
    finally:
        torch.set_num_threads(threads)


def _write_runs(data: Path, key: str, grid: Grid) -> None:
    """Write the runs of one optimizer on every surface, and once what they have in common."""
    common: Recorded | None = None
    for name, surface in SURFACES.items():
        recorded = record(CHOICES[key], surface, grid)
        _hand_over(data / f"{name}-{key}.js", "runs", name, key, _packed(recorded.numbers))
        common = common or recorded
        if recorded.kinds != common.kinds or (recorded.scalars != common.scalars).any():
            raise RuntimeError(f"{key} computes otherwise on {name} than elsewhere")
    if common is not None:
        rule = {"kinds": common.kinds, "scalars": _packed(common.scalars)}
        _hand_over(data / f"{key}.js", "rule", key, rule)


def _index(grid: Grid) -> dict[str, Any]:
    """Return what the page needs before it shows the first run."""
    return {
        **asdict(grid),
        "torch": torch.__version__,
        "surfaces": {key: _drawn(surface) for key, surface in SURFACES.items()},
        "optimizers": {
            key: {"title": choice.title, "momentum": choice.momentum, "call": choice.call}
            for key, choice in CHOICES.items()
        },
        "notes": NOTES,
        "opening": OPENING,
        "presets": PRESETS,
    }


def _drawn(surface: Surface) -> dict[str, Any]:
    left, right, bottom, top = surface.frame
    columns, rows = GRID_SIZE
    x, y = torch.linspace(left, right, columns), torch.linspace(bottom, top, rows)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    values = surface.losses(places).numpy()
    return {
        "title": surface.title,
        "formula": surface.formula,
        "about": surface.about,
        "names": surface.names,
        "frame": surface.frame,
        "starts": surface.starts,
        "columns": columns,
        "rows": rows,
        "values": _packed(values),
        "levels": _levels(values),
    }


def _levels(values: NDArray[np.float32]) -> list[float]:
    """Choose the contours' heights by the area below them, closer together near the bottom."""
    areas = (np.arange(1, LEVELS + 1) / (LEVELS + 1)) ** 1.4
    levels: list[float] = np.quantile(values.astype(np.float64), areas).tolist()
    return levels


def _packed(numbers: NDArray[Any]) -> str:
    """Return the numbers' bits, little-endian, in base64."""
    little_endian = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    return base64.b64encode(little_endian.tobytes()).decode("ascii")


def _hand_over(path: Path, receiver: str, *content: Any) -> None:
    """Write a script that calls a function of the page with some content."""
    shown = ", ".join(json.dumps(each, ensure_ascii=True, allow_nan=False) for each in content)
    path.write_text(f"receive.{receiver}({shown});\n", encoding="ascii")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write the viewer."""
    parser = argparse.ArgumentParser(description="Write the step viewer into a folder.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    write(folder)
    print(f"{folder / 'viewer.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
