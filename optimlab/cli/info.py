"""The command ``optimlab info``."""

from __future__ import annotations

from optimlab.cli import common


@common.command(
    "say which execution serves which optimizer here, and why",
    "Says which execution serves which optimizer on this machine, and why.",
    "optimlab info --json",
)
@common.json_option
def info(json: common.Json) -> int:
    """Print what was found."""
    from optimlab.lab.info import info

    found = info()
    if not json.printed:
        print(found)
    json.write(found)
    return common.EQUAL
