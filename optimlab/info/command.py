"""The command `optimlab info`."""

import argparse
import dataclasses
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "info",
        help="say which execution serves which optimizer here, and why",
        description="Says which execution serves which optimizer on this machine, and why.",
        epilog="example: optimlab info --json",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; return the exit status 0."""
    from optimlab import info

    found = info()
    print(json.dumps(dataclasses.asdict(found), indent=2) if arguments.json else found)
    return 0
