"""The command ``optimlab bench``: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from optimlab.bench.rules import RULES
from optimlab.bench.workloads import QUICK, WORKLOADS
from optimlab.lab.report import (
    MisuseError,
    Subparsers,
    add_command,
    add_device,
    add_json,
    check_device,
    check_json,
    positive,
    prints_json,
    write_json,
)

if TYPE_CHECKING:
    from optimlab.bench.experiment import Settings

DESCRIPTION = """\
Time a step of optimlab against torch's for-loop, foreach and fused implementations, and against the
physical limit: the bytes that a step must move, at the bandwidth measured in the same run. Compare
the bits of parameters and state after the last step with those of torch's default, and measure the
peak memory of a step.

Tables are printed and written to OUTPUT/bench.md, figures to OUTPUT/bench.png and, with --scaling,
OUTPUT/scaling.png, all numbers to OUTPUT/bench.json. The exit status is 0 if all bits are the same,
1 if any differ.
"""
EXAMPLE = "optimlab bench --quick --optimizer momentum adam --workload mlp tiny"

LEAST_STEPS, LEAST_SECONDS = 30, 0.5
LEAST_STEPS_QUICK, LEAST_SECONDS_QUICK = 5, 0.1


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        summary="time a step against torch.optim and against the memory's bandwidth",
        description=DESCRIPTION,
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer steps and workloads: less than a minute")
    add_choice(parser, "--optimizer", tuple(RULES), "default: all")
    add_choice(
        parser, "--workload", tuple(WORKLOADS), f"default: all; with --quick: {' '.join(QUICK)}"
    )
    add("--threads", type=positive, metavar="N", help="default: as many as torch takes")
    add(
        "--repeats",
        type=positive,
        metavar="N",
        help=f"at least so many timed steps, default: {LEAST_STEPS}, quick: {LEAST_STEPS_QUICK}",
    )
    add("--scaling", action="store_true", help="also grow the number of tensors and of elements")
    add("--compile", action="store_true", help="also time torch.compile(step), on few tensors")
    add_device(parser)
    output = Path("optimlab-bench")
    add("--output", type=Path, default=output, metavar="DIR", help=f"default: {output}")
    add_json(parser)


def add_choice(
    parser: argparse.ArgumentParser, option: str, names: tuple[str, ...], default: str
) -> None:
    """Add an option that takes some of the given names."""
    text = f"some of {', '.join(names)}; {default}"
    parser.add_argument(option, nargs="+", choices=names, metavar="NAME", help=text)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return its exit status."""
    from optimlab.bench import experiment

    prepare(args)
    results = experiment.run(settings(args), args.output, quiet=prints_json(args))
    write_json(args, results.as_json())
    return int(not results.same_bits)


def settings(args: argparse.Namespace) -> Settings:
    """Read the arguments."""
    from optimlab.bench.experiment import Settings
    from optimlab.bench.implementations import IMPLEMENTATIONS
    from optimlab.bench.timing import Effort

    least = (LEAST_STEPS_QUICK, LEAST_SECONDS_QUICK) if args.quick else (LEAST_STEPS, LEAST_SECONDS)
    chosen = args.workload or (QUICK if args.quick else tuple(WORKLOADS))
    names = [n for n, each in IMPLEMENTATIONS.items() if args.compile or not each.compiled]
    return Settings(
        rules=tuple(dict.fromkeys(args.optimizer or RULES)),
        workloads=tuple(dict.fromkeys(chosen)),
        implementations=tuple(names),
        effort=Effort(args.repeats or least[0], least[1]),
        threads=args.threads,
        scaling=args.scaling,
        quick=args.quick,
        device=args.device,
    )


def prepare(args: argparse.Namespace) -> None:
    """Make the output directory and look for the device.

    Raises:
        MisuseError: if there is no such device, or a directory is missing or cannot be made.
    """
    check_device(args.device)
    check_json(args)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MisuseError(f"cannot write to {args.output}: {error.strerror}") from error
