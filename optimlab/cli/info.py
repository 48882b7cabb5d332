"""The command ``optimlab info``."""

from __future__ import annotations

from optimlab.cli.common import EQUAL, Json, command, json_option


@command(
    "say which execution serves which optimizer here, and why",
    "Says which execution serves which optimizer on this machine, and why.",
    "optimlab info --json",
)
@json_option
def info(json: Json) -> int:
    """Print what was found."""
    from optimlab.lab.info import info

    found = info()
    if not json.printed:
        print(found)
    json.write(found)
    return EQUAL
