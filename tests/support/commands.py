"""The commands that write files, as a user runs them."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from optimlab.cli import main


@dataclass(frozen=True)
class Finished:
    """What a run of a command left behind: its status, what it printed, and its files."""

    status: int
    printed: str
    folder: Path
    json: str

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """All numbers that it wrote."""
        numbers: dict[str, Any] = json.loads((self.folder / self.json).read_text(encoding="utf-8"))
        return numbers

    @property
    def last_line(self) -> str:
        """The verdict."""
        return self.printed.splitlines()[-1]

    def check_layout(self) -> None:
        """Check that every line fits 100 columns, and no cell of a table is cut off."""
        lines = self.printed.replace(str(self.folder), "").splitlines()
        assert max(map(len, lines)) <= 100
        assert "…" not in self.printed


def finish(command: str, folder: Path, json: str, *options: str) -> Finished:
    """Run a command that writes into a folder, its numbers into the named file."""
    with redirect_stdout(StringIO()) as printed:
        status = main([command, "--output", str(folder), *options])
    return Finished(status, printed.getvalue(), folder, json)
