"""What all commands share: exit status, how one is run, and the kinds of arguments they take."""

from __future__ import annotations

import ast
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]  # older releases of click know no parameters of it
else:
    ParamType = click.ParamType

EQUAL, DIFFERENT, MISUSE = 0, 1, 2
F = TypeVar("F", bound=Callable[..., Any])

#: Packages that do not come with optimlab, and the extra that brings each of them.
EXTRAS = {"matplotlib": "demo", "psutil": "demo", "sklearn": "demo"}


class MisuseError(click.ClickException):
    """A command was not used as it is meant to be; the message says how."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.command = click.get_current_context().command_path

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{self.command}: {self.message}", file=file or sys.stderr)


class Words(click.Option):
    """An option that takes one word or more: all up to the next option, or one each time."""


def words(name: str, text: str, metavar: str = "NAME...", **attrs: Any) -> Callable[[F], F]:
    """Make an option of :class:`Words`; ``text`` is its help."""
    return click.option(name, cls=Words, multiple=True, help=text, metavar=metavar, **attrs)


class Command(click.Command):
    """A command whose function returns the exit status; an error of any kind makes it 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*self.spread(ctx, args)])

    def spread(self, ctx: click.Context, args: Sequence[str]) -> Iterator[str]:
        """Repeat each option of several words before every one of them."""
        several = {name for each in self.params if isinstance(each, Words) for name in each.opts}
        option = ""
        for place, word in enumerate(args):
            if word == "--":
                yield from args[place:]
                return
            if word.startswith("-") and word != "-":
                option = word if word in several else ""
                alone = option and (not args[place + 1 :] or args[place + 1].startswith("-"))
                if alone and not ctx.resilient_parsing:  # which is what a shell completes by
                    text = f"Option {option!r} requires an argument."
                    raise click.BadOptionUsage(option, text, ctx)
                if alone or not option:
                    yield word
            else:
                yield from (option, word) if option else (word,)

    def invoke(self, ctx: click.Context) -> int:
        try:
            status: int = super().invoke(ctx)
        except click.ClickException:
            raise
        except ModuleNotFoundError as error:
            explain_missing(error, ctx.command_path)
            return MISUSE
        except Exception:  # noqa: BLE001 - Python's own status for it, 1, would say "different"
            traceback.print_exc()
            return MISUSE
        return status


def explain_missing(error: ModuleNotFoundError, command: str) -> None:
    """Say which extra brings an optional package; any other error is printed."""
    extra = EXTRAS.get(str(error.name).partition(".")[0])
    if extra is None:
        traceback.print_exception(error)
        return
    text = f"{command} needs the package {error.name}, which is not installed.\n"
    click.echo(f'{text}Install it with: python -m pip install "optimlab[{extra}]"', err=True)


def command(
    summary: str, description: str, example: str
) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function: a few words for the list of commands, help, command lines."""
    return click.command(
        cls=Command,
        short_help=summary,
        help=description,
        epilog="\b\nExample:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
    )


class Kind(ParamType):
    """A kind of argument: its form, as the help shows it, and what makes a value of a text."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return self.read(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Named:
    """Something in a module, by its name."""

    text: str

    def load(self) -> Any:
        """Import it, from the current directory, too."""
        from optimlab.lab.importing import UnknownNameError, import_named

        try:
            return import_named(self.text)
        except UnknownNameError as error:
            raise MisuseError(str(error)) from error


def assignment(text: str) -> tuple[str, Any]:
    """Read ``name=value``, the value as Python's literal."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise MisuseError(f"{text!r} is not of the form name=value") from error


def output_directory(text: str) -> Path:
    """Refuse a directory that is not there and could not be made, or not be written to."""
    path = Path(text)
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise MisuseError(f"cannot write to {path}: {there} is no directory")
    if not os.access(there, os.W_OK):
        raise MisuseError(f"cannot write to {path}: permission denied")
    return path


@dataclass(frozen=True)
class Json:
    """Where all numbers are written as JSON: to a file, ``-`` is standard output, or nowhere."""

    file: str = ""

    def __post_init__(self) -> None:
        parent = Path(self.file).parent
        if not parent.is_dir():
            raise MisuseError(f"there is no directory {parent} to write to")

    @property
    def printed(self) -> bool:
        """Whether it takes the place of what is printed."""
        return self.file == "-"

    def write(self, result: Any) -> None:
        """Write a result, if it was asked for."""
        from optimlab.lab.report import as_json

        if self.file:
            text = json.dumps(as_json(result), indent=1) + "\n"
            with click.open_file(self.file, "w", encoding="utf-8") as file:
                file.write(text)


def check_device(ctx: click.Context, param: click.Parameter, device: str) -> str:  # noqa: ARG001
    """Refuse a device that is not here."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise MisuseError("there is no CUDA device here")
    return device


POSITIVE = click.IntRange(min=1)
MODULE_NAME = Kind("MODULE:NAME", Named)
NAME_VALUE = Kind("NAME=VALUE", assignment)

device_option = click.option(
    "--device",
    type=click.Choice(("cpu", "cuda")),
    default="cpu",
    callback=check_device,
    help="default: cpu",
)
json_option = click.option(
    "--json",
    type=Kind("FILE", Json),
    is_flag=False,
    flag_value="-",
    default="",
    help="write all numbers to this file, too; without a name print them in place of tables",
)


def output_option(default: str) -> Callable[[F], F]:
    """Make the option that says where files are written."""
    kind = Kind("DIR", output_directory)
    return click.option("--output", type=kind, default=default, help=f"default: {default}")
