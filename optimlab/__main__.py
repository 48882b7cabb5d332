"""The command line: `optimlab COMMAND`, the same as `python -m optimlab COMMAND`.

Exit status 0 says that all compared bits are equal, 1 that some differ, 2 that there is no answer:
the command was not used as it is meant to be, or an error came in between, which is printed.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from optimlab.lab.report import MISUSE, MisuseError
from optimlab.version import __version__

# Each command and the extra that brings its optional packages. Its module optimlab.cli.COMMAND
# offers add_parser(subparsers), which sets `run`: a function from the parsed arguments to the exit
# status. Only `run` imports what is heavy or optional, so that --help needs none of it.
COMMANDS = {
    "bench": "demo",
    "demo": "demo",
    "doctor": "cli",
    "explain": "cli",
    "info": "cli",
    "parity": "cli",
}
OPTIONAL_PACKAGES = ("matplotlib", "rich", "sklearn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; by default those of this process.

    Returns:
        The exit status of the command, or 2 where no command was given, one of its packages is not
        installed, or an error ended it.

    Raises:
        SystemExit: With 0 after `--help` and `--version`, with 2 for arguments that are not
            understood.
    """
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help(sys.stderr)
        return MISUSE
    try:
        status: int = parsed.run(parsed)
    except MisuseError as error:
        print(f"optimlab {parsed.command}: {error}", file=sys.stderr)
        return MISUSE
    except ModuleNotFoundError as error:
        return explain_missing(error, parsed.command)
    except Exception:  # noqa: BLE001 - Python's own status for it, 1, would say "different"
        traceback.print_exc()
        return MISUSE
    return status


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="optimlab",
        description="PyTorch's optimizers re-derived in code you can read, giving the same bits.",
        epilog="optimlab COMMAND --help explains a command and gives an example. Whole programs to "
        "read and to run are in the examples/ of the repository; its README.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"optimlab {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in COMMANDS:
        importlib.import_module(f"optimlab.cli.{command}").add_parser(subparsers)
    return parser


def explain_missing(error: ModuleNotFoundError, command: str) -> int:
    """Say which extra brings an optional package; any other error is printed."""
    if str(error.name).partition(".")[0] not in OPTIONAL_PACKAGES:
        traceback.print_exception(error)
        return MISUSE
    print(
        f"optimlab {command} needs the package {error.name}, which is not installed.\n"
        f'Install it with: python -m pip install "optimlab[{COMMANDS[command]}]"',
        file=sys.stderr,
    )
    return MISUSE


if __name__ == "__main__":
    sys.exit(main())
