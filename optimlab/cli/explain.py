"""The command `optimlab explain`: its options and what it prints."""

from __future__ import annotations

import argparse
import ast
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from optimlab.lab.report import (
    DIFFERENT,
    EQUAL,
    MisuseError,
    Subparsers,
    add_command,
    add_device,
    add_json,
    check_device,
    check_json,
    positive,
    prints_json,
    resolve,
    write_json,
)

if TYPE_CHECKING:
    from optimlab.lab.lockstep.scenario import Scenario

DESCRIPTION = """\
Step two optimizers with the same gradients until their bits part, and say where and why: the first
step, parameter, element and operation whose result differs, the numbers and bits on both sides,
both sequences of operations side by side, and the cause, as far as experiments tell it.

The exit status is 0 if all bits are the same, 1 if they part, 2 if an optimizer refuses what it is
put through, or no parameter moves.
"""
EXAMPLE = "optimlab explain --foreach my_package:MyAdam torch.optim:Adam --options lr=0.1"
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers,
        "explain",
        run,
        summary="find the operation at which two optimizers part, and why",
        description=DESCRIPTION,
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("optimizers", nargs=2, metavar="MODULE:CLASS", help="the two classes, or functions")
    for name, whose in (("", "both"), ("-a", "the first"), ("-b", "the second")):
        add(
            f"--options{name}",
            nargs="+",
            default=[],
            metavar="NAME=VALUE",
            help=f"hyperparameters of {whose}, as Python writes them: betas=(0.9,0.99)",
        )
    add("--foreach", action="store_true", help="foreach=True for those that have it")
    add("--dtype", choices=DTYPES, default="float32", help="of the parameters, default: float32")
    add("--steps", type=positive, default=20, help="at most, default: 20")
    add("--seed", type=int, default=0, help="of starting values and gradients, default: 0")
    add_device(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    check_device(args.device)
    check_json(args)
    shared = options(args.options)
    makes = [
        maker(text, {**shared, **options(own)}, args.foreach)
        for text, own in zip(args.optimizers, (args.options_a, args.options_b), strict=True)
    ]
    from optimlab.lab.compare.diff import NothingCompared
    from optimlab.lab.explain.explaining import explain

    check_makes(makes)
    rehearse(makes, scenario(args))
    try:
        found = explain(makes[0], makes[1], scenario(args))
    except NothingCompared as error:
        raise MisuseError(str(error)) from error
    if not prints_json(args):
        print(found)
    write_json(args, found.as_json())
    return EQUAL if found.equal else DIFFERENT


def options(words: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` words, values as Python's literals.

    Raises:
        MisuseError: if a word is not of that form.
    """
    read: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            read[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise MisuseError(f"{word!r} is not of the form name=value") from error
        if not (equals and name.isidentifier()):
            raise MisuseError(f"{word!r} is not of the form name=value")
    return read


def maker(text: str, given: dict[str, Any], foreach: bool) -> Any:
    """Import what makes an optimizer, and give it its hyperparameters."""
    made = resolve(text)
    if not callable(made):
        raise MisuseError(f"{text} makes no optimizer")
    if foreach and "foreach" in inspect.signature(made).parameters:
        given = {**given, "foreach": True}
    return partial(made, **given)


def check_makes(makes: Sequence[Any]) -> None:
    """Refuse what makes no optimizer with these hyperparameters.

    Raises:
        MisuseError: if a constructor raises, or what it returns cannot step.
    """
    import torch

    for make in makes:
        try:
            made = make([{"params": [torch.zeros(1)]}])
        except (TypeError, ValueError, RuntimeError) as error:
            raise MisuseError(f"{make.func.__name__}: {error}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise MisuseError(f"{make.func.__name__} makes a {type(made).__name__}, no optimizer")


def rehearse(makes: Sequence[Any], scenario: Scenario) -> None:
    """Put each optimizer through the scenario alone, to tell its own errors from those of explain.

    Raises:
        MisuseError: if a constructor or step raises; the message says which, and its reason.
    """
    from optimlab.lab.compare.snapshot import parameters
    from optimlab.lab.lockstep.clone import give_gradients
    from optimlab.lab.record.pair import Made

    for make in makes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pair = Made(make, make, scenario)
                optimizer = pair.optimizers[0]
                for step in range(1, scenario.steps + 1):
                    pair.begin(step)
                    give_gradients(parameters(optimizer), pair.gradients(step))
                    optimizer.step()
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise MisuseError(f"{make.func.__name__} refuses the scenario: {reason}") from error


def scenario(args: argparse.Namespace) -> Scenario:
    """Return what both optimizers are put through."""
    import torch

    from optimlab.lab.lockstep.scenario import SMALL_NETWORK, Scenario

    dtype = getattr(torch, args.dtype)
    tensors = tuple(replace(tensor, dtype=dtype) for tensor in SMALL_NETWORK)
    return Scenario(tensors=tensors, steps=args.steps, seed=args.seed, device=args.device)
