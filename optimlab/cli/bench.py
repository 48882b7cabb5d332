"""The command ``optimlab bench``: its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from optimlab.bench.rules import RULES
from optimlab.bench.workloads import QUICK, WORKLOADS
from optimlab.cli import common

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


@common.command(
    "time a step against torch.optim and against the memory's bandwidth", DESCRIPTION, EXAMPLE
)
@click.option("--quick", is_flag=True, help="fewer steps and workloads: less than a minute")
@common.words(
    "--optimizer", f"some of {', '.join(RULES)}; default: all", type=click.Choice([*RULES])
)
@common.words(
    "--workload",
    f"some of {', '.join(WORKLOADS)}; default: all; with --quick: {' '.join(QUICK)}",
    type=click.Choice([*WORKLOADS]),
)
@click.option(
    "--threads", type=common.POSITIVE, metavar="N", help="default: as many as torch takes"
)
@click.option(
    "--repeats",
    type=common.POSITIVE,
    metavar="N",
    help=f"at least so many timed steps, default: {LEAST_STEPS}, quick: {LEAST_STEPS_QUICK}",
)
@click.option("--scaling", is_flag=True, help="also grow the number of tensors and of elements")
@click.option(
    "--compile", "compiled", is_flag=True, help="also time torch.compile(step), on few tensors"
)
@common.device_option
@common.output_option("optimlab-bench")
@common.json_option
def bench(
    quick: bool,
    optimizer: Sequence[str],
    workload: Sequence[str],
    threads: int | None,
    repeats: int | None,
    scaling: bool,
    compiled: bool,
    device: str,
    output: Path,
    json: common.Json,
) -> int:
    """Measure, and write what was found."""
    from optimlab.bench import experiment
    from optimlab.bench.implementations import IMPLEMENTATIONS
    from optimlab.bench.timing import Effort

    least = (LEAST_STEPS_QUICK, LEAST_SECONDS_QUICK) if quick else (LEAST_STEPS, LEAST_SECONDS)
    chosen = workload or (QUICK if quick else tuple(WORKLOADS))
    settings = experiment.Settings(
        rules=tuple(dict.fromkeys(optimizer or RULES)),
        workloads=tuple(dict.fromkeys(chosen)),
        implementations=tuple(
            name for name, each in IMPLEMENTATIONS.items() if compiled or not each.compiled
        ),
        effort=Effort(repeats or least[0], least[1]),
        threads=threads,
        scaling=scaling,
        quick=quick,
        device=device,
    )
    results = experiment.run(settings, output, quiet=json.printed)
    json.write(results.as_json())
    return common.EQUAL if results.same_bits else common.DIFFERENT
