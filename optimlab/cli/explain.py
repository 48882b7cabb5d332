"""The command `optimlab explain`: its options and what it prints."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from optimlab.cli import common

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
HYPERPARAMETERS = "hyperparameters of {}, as Python writes them: betas=(0.9,0.99)"
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@common.command("find the operation at which two optimizers part, and why", DESCRIPTION, EXAMPLE)
@click.argument("a", type=common.MODULE_NAME, metavar="MODULE:CLASS")
@click.argument("b", type=common.MODULE_NAME, metavar="MODULE:CLASS")
@common.words("--options", HYPERPARAMETERS.format("both"), "NAME=VALUE...", type=common.NAME_VALUE)
@common.words(
    "--options-a", HYPERPARAMETERS.format("the first"), "NAME=VALUE...", type=common.NAME_VALUE
)
@common.words(
    "--options-b", HYPERPARAMETERS.format("the second"), "NAME=VALUE...", type=common.NAME_VALUE
)
@click.option("--foreach", is_flag=True, help="foreach=True for those that have it")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    help="of the parameters, default: float32",
)
@click.option("--steps", type=common.POSITIVE, default=20, help="at most, default: 20")
@common.words("--ignore-state", "names of state that is not compared")
@click.option("--seed", type=int, default=0, help="of starting values and gradients, default: 0")
@common.device_option
@common.json_option
def explain(
    a: common.Named,
    b: common.Named,
    options: Sequence[tuple[str, Any]],
    options_a: Sequence[tuple[str, Any]],
    options_b: Sequence[tuple[str, Any]],
    foreach: bool,
    ignore_state: Sequence[str],
    json: common.Json,
    **given: Any,
) -> int:
    """Print where the two part."""
    from optimlab.lab.compare.diff import NothingCompared
    from optimlab.lab.explain import explaining

    makes = (
        maker(a, {**dict(options), **dict(options_a)}, foreach),
        maker(b, {**dict(options), **dict(options_b)}, foreach),
    )
    check_makes(makes)
    rehearse(makes, scenario(**given))
    try:
        found = explaining.explain(*makes, scenario(**given), ignore_state=ignore_state)
    except NothingCompared as error:
        raise common.MisuseError(str(error)) from error
    if not json.printed:
        print(found)
    json.write(found.as_json())
    return common.EQUAL if found.equal else common.DIFFERENT


def maker(named: common.Named, given: dict[str, Any], foreach: bool) -> partial[Any]:
    """Import what makes an optimizer, and give it its hyperparameters."""
    made = named.load()
    if not callable(made):
        raise common.MisuseError(f"{named.text} makes no optimizer")
    if foreach and "foreach" in inspect.signature(made).parameters:
        given = {**given, "foreach": True}
    return partial(made, **given)


def check_makes(makes: Sequence[Any]) -> None:
    """Refuse what makes no optimizer with these hyperparameters."""
    import torch

    for make in makes:
        try:
            made = make([{"params": [torch.zeros(1)]}])
        except (TypeError, ValueError, RuntimeError) as error:
            raise common.MisuseError(f"{make.func.__name__}: {error}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise common.MisuseError(
                f"{make.func.__name__} makes a {type(made).__name__}, no optimizer"
            )


def rehearse(makes: Sequence[Any], scenario: Scenario) -> None:
    """Put each optimizer through the scenario alone: its own errors are none of explain."""
    from optimlab.lab.compare.snapshot import parameters
    from optimlab.lab.lockstep.clone import give_gradients
    from optimlab.lab.record.pair import made

    for make in makes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pair = made(make, make, scenario)
                optimizer = pair.optimizers[0]
                for step in range(1, scenario.steps + 1):
                    gradients = pair.begin(step)  # which may add parameters
                    give_gradients(parameters(optimizer), gradients)
                    optimizer.step()
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise common.MisuseError(
                f"{make.func.__name__} refuses the scenario: {reason}"
            ) from error


def scenario(dtype: str, steps: int, seed: int, device: str) -> Scenario:
    """Return what both optimizers are put through."""
    import torch

    from optimlab.lab.lockstep.scenario import SMALL_NETWORK, Scenario

    tensors = tuple(replace(each, dtype=getattr(torch, dtype)) for each in SMALL_NETWORK)
    return Scenario(tensors=tensors, steps=steps, seed=seed, device=device)
