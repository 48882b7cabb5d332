"""What two optimizers have in common: the options that both take, and values worth trying."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity.table import IMPLEMENTATIONS, Options

#: Makes an optimizer: a class of optimizers, or any function of ``params`` and keyword options.
Factory: TypeAlias = Callable[..., Optimizer]

#: What is tried of an option, by its name, unless it is the default. Pairs take the first value.
VALUES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "lr": (0.05, torch.tensor(0.01)),
        "momentum": (0.9,),
        "betas": ((0.4, 0.9), (0.0, 0.5)),
        "beta1": (0.4,),
        "beta2": (0.5,),
        "alpha": (0.4,),
        "rho": (0.5,),
        "weight_decay": (0.1, 0.0),
        "eps": (1e-3,),
        "dampening": (0.1,),
        "lr_decay": (0.1,),
        "initial_accumulator_value": (0.1,),
        "momentum_decay": (0.01,),
        "etas": ((0.4, 1.3),),
        "step_sizes": ((1e-5, 1.0),),
        "lambd": (1e-2,),
        "t0": (3.0,),
    }
)

_WAYS = frozenset(itertools.chain.from_iterable(IMPLEMENTATIONS.values()))
_MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Shared:
    """What is asked of both optimizers.

    Attributes:
        always: options that every configuration has: those the caller gave, those without a
            default, and those whose defaults are not the same.
        values: for each other option the values to try beside the default.
        implementations: names of :data:`~optimlab.lab.parity.table.IMPLEMENTATIONS` whose options
            both take.
        defaults: options with two different defaults: mine, the reference's.
        group_keys: hyperparameters that the parameter groups of both have, and that may differ from
            group to group: those the caller gave stay as they are, but for ``lr``.
    """

    always: Options
    values: Mapping[str, tuple[Any, ...]]
    implementations: tuple[str, ...]
    defaults: Mapping[str, tuple[Any, Any]]
    group_keys: frozenset[str]


def shared(
    mine: Factory, reference: Factory, options: Options, values: Mapping[str, tuple[Any, ...]]
) -> Shared:
    """Read from both signatures, and by trying, what can be asked of both.

    Args:
        mine: the optimizer under test.
        reference: the one it is compared with.
        options: given to both in every configuration.
        values: values of options to try, in place of :data:`VALUES`.
    """
    ours, theirs = _defaults(mine), _defaults(reference)
    names = [name for name in theirs if name in ours]
    always, different = dict(options), {}
    for name in names:
        pair = (ours[name], theirs[name])
        if name not in options and name not in _WAYS and not _alike(*pair):
            always[name] = _chosen(name, *pair)
            if _MISSING not in pair and pair[0] != pair[1]:
                different[name] = pair
    return Shared(
        always=always,
        values={
            name: tried
            for name in names
            if name not in options and name not in _WAYS
            if (tried := _tried(name, always.get(name, theirs[name]), values))
        },
        implementations=tuple(
            way for way, needed in IMPLEMENTATIONS.items() if {*needed} <= {*names} - {*options}
        ),
        defaults=different,
        group_keys=(_group_keys(mine, always) & _group_keys(reference, always))
        - ({*options} - {"lr"}),
    )


def made(make: Factory, options: Options) -> Optimizer | None:
    """Make an optimizer of a small parameter; ``None`` if that is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return make(
                [torch.zeros(2).requires_grad_()], **{k: clone(v) for k, v in options.items()}
            )
        except Exception:  # noqa: BLE001 - any refusal is one
            return None


def combinations(mine: Factory, reference: Factory, shared: Shared) -> list[Options]:
    """Combine the values: none, each alone, all pairs, and as many at once as go together."""
    alone = [{name: value} for name, values in shared.values.items() for value in values]
    first = [{name: values[0]} for name, values in shared.values.items()]
    pairs = [{**left, **right} for left, right in itertools.combinations(first, 2)]
    found: list[Options] = [{}, *alone, *pairs]
    for many in fullest(mine, reference, shared):
        if not any(_same(many, each) for each in found):
            found.append(many)
    return found


def fullest(mine: Factory, reference: Factory, shared: Shared) -> list[Options]:
    """Make the largest sets of options that both accept: for each option one that has it."""

    def accepted(options: Options) -> bool:
        together = {**shared.always, **options}
        return made(mine, together) is not None and made(reference, together) is not None

    first = [{name: values[0]} for name, values in shared.values.items()]
    found: list[Options] = []
    for option in first:
        starts = [option, *({**option, **other} for other in first if other is not option)]
        grown = next((start for start in starts if accepted(start)), None)
        if grown is None or any(option.keys() <= each.keys() for each in found):
            continue
        for other in first:
            if accepted({**grown, **other}):
                grown = {**grown, **other}
        found.append(grown)
    return found


def _defaults(make: Factory) -> dict[str, Any]:
    """Return the defaults of all options that can be given by name."""
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except ValueError:  # nothing in Python says what it takes
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name: each.default for each in parameters[1:] if each.kind in by_name}


def unnamed(make: Factory, names: Sequence[str]) -> tuple[list[str], str]:
    """Find options that a signature does not name.

    Returns:
        These, and what to do about it where the signature takes any option unnamed.
    """
    absent = [name for name in names if name not in _defaults(make)]
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:
        return absent, ""
    swallowing = [each for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD]
    if not (absent and swallowing):
        return absent, ""
    advice = f": **{swallowing[0].name} may take it, but does not say so; compare a function of "
    return absent, f"{advice}params that names it"


def _alike(left: Any, right: Any) -> bool:
    return left is not _MISSING and type(left) is type(right) and bool(left == right)


def _chosen(name: str, left: Any, right: Any) -> Any:
    """Choose what both are given where they would not start alike."""
    if right is not _MISSING:
        return right
    return left if left is not _MISSING else VALUES.get(name, (None,))[0]


def _tried(name: str, default: Any, values: Mapping[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    if name in values:
        return values[name]
    if isinstance(default, bool):
        return (not default,)
    if not isinstance(default, float | int | tuple | list):
        return ()
    length = len(default) if isinstance(default, tuple | list) else None
    return tuple(
        value
        for value in VALUES.get(name, ())
        if (len(value) if isinstance(value, tuple) else None) == length
        if isinstance(value, torch.Tensor) or value != default
    )


def _group_keys(make: Factory, options: Options) -> frozenset[str]:
    optimizer = made(make, options)
    return frozenset(optimizer.param_groups[0]) if optimizer is not None else frozenset()


def _same(left: Options, right: Options) -> bool:
    return left.keys() == right.keys() and all(left[name] is right[name] for name in left)
