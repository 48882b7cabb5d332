"""The command `optimlab info`."""

import argparse
import dataclasses

from optimlab.lab.report import (
    EQUAL,
    Subparsers,
    add_command,
    add_json,
    check_json,
    prints_json,
    write_json,
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    summary = "say which execution serves which optimizer here, and why"
    parser = add_command(
        subparsers,
        "info",
        run,
        summary=summary,
        description="Says which execution serves which optimizer on this machine, and why.",
        example="optimlab info --json",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was found; return the exit status 0."""
    from optimlab.lab.info import info

    check_json(args)
    found = info()
    if not prints_json(args):
        print(found)
    write_json(args, dataclasses.asdict(found))
    return EQUAL
