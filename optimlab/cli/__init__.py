"""The command line: `optimlab COMMAND`, the same as `python -m optimlab COMMAND`.

Exit status 0 says that all compared bits are equal, 1 that some differ, 2 that there is no answer:
the command was not used as it is meant to be, or an error came in between, which is printed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from optimlab.cli.common import MISUSE
from optimlab.version import __version__

# Each is the function of this name in a module of this name. It alone imports what is heavy or
# optional, so that --help and the shell's completion wait for none of it.
COMMANDS = ("bench", "demo", "doctor", "explain", "info", "parity")


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return command


@click.command(
    "optimlab",
    cls=Commands,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    epilog="optimlab COMMAND --help explains a command and gives an example. Whole programs to "
    "read and to run are in the examples/ of the repository; its README.md lists them.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """PyTorch's optimizers re-derived in code you can read, giving the same bits."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; by default those of this process.

    Returns:
        The exit status of the command, or 2 where no command was given, arguments are not
        understood, a package is not installed, or an error ended it.
    """
    try:
        status: int = commands.main(arguments, "optimlab", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return MISUSE
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status
