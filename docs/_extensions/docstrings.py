"""Lays out the section ``State`` of an optimizer's docstring, which Sphinx does not know.

Its head says what all entries have in common, and may go on to the next line::

    State, each of the parameter's shape, starting at zero:
        exp_avg: the running mean of the gradients.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_HEAD = re.compile(r"(State(?:, [^:]*)?):$")


def lay_out(lines: list[str]) -> list[str]:
    """Turn the section into a sentence and a list of its entries."""
    found: list[str] = []
    inside = False
    for line in lines:
        head = _HEAD.match(line)
        entry = re.match(r"    (\w+): (.*)", line) if inside else None
        if head:
            inside = True
            found += [f"**State**{head[1].removeprefix('State')}:", ""]
        elif entry:
            found.append(f"* ``{entry[1]}``: {entry[2]}")
        elif inside and line.startswith("    "):
            found.append(f"  {line.strip()}")
        else:
            inside = inside and not line
            found.append(line)
    return found


def _process(*given: Any) -> None:
    lines = given[-1]
    lines[:] = lay_out(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Lay docstrings out before Sphinx's reader of their sections sees them."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
