"""What two optimizers have in common: the options that both take, and what is worth trying."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import Call
from optimlab.lab.parity.configurations import Configuration, Coverage, Factory, typed
from optimlab.lab.parity.events import (
    EVENTS,
    FEW_EVENTS,
    PLAIN,
    QUICK_EVENTS,
    SMALL,
    THOROUGH_EVENTS,
)
from optimlab.lab.parity.programs import PROGRAMS, event_of
from optimlab.lab.parity.table import IMPLEMENTATIONS, Options

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

_OVERRIDES: tuple[Options, Options] = (
    {"lr": 0.03, "weight_decay": 0.01},
    {"lr": 0.002, "momentum": 0.7, "betas": (0.8, 0.95), "alpha": 0.6, "eps": 1e-5},
)
_SELDOM: Options = {"momentum": 0.99, "weight_decay": 2.0}
_WAYS = frozenset(itertools.chain.from_iterable(IMPLEMENTATIONS.values()))
_MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Shared:
    """What is asked of both optimizers, and the configurations that are worth trying."""

    mine: Factory
    reference: Factory
    # Options of every configuration: given, without a default, or of two different defaults.
    always: Options
    values: Mapping[str, tuple[Any, ...]]  # to try beside the default
    implementations: tuple[str, ...]
    defaults: Mapping[str, tuple[Any, Any]]  # that differ: mine, the reference's
    group_keys: frozenset[str]  # hyperparameters that may differ from group to group

    @cached_property
    def combinations(self) -> list[Options]:
        """The values combined: none, each alone, all pairs, and as many at once as go together."""
        alone = [{name: value} for name, values in self.values.items() for value in values]
        pairs = [{**left, **right} for left, right in itertools.combinations(self._first, 2)]
        found: list[Options] = [{}, *alone, *pairs]
        return found + [many for many in self.fullest if not any(_same(many, o) for o in found)]

    @cached_property
    def fullest(self) -> list[Options]:
        """The largest sets of options that both accept: for each option one that has it."""
        found: list[Options] = []
        for option in self._first:
            starts = [option, *({**option, **each} for each in self._first if each is not option)]
            grown = next((start for start in starts if self._accepts(start)), None)
            if grown is None or any(option.keys() <= each.keys() for each in found):
                continue
            for other in self._first:
                if self._accepts({**grown, **other}):
                    grown = {**grown, **other}
            found.append(grown)
        return found

    def settings(self, way: str, dtype: str, coverage: Coverage) -> Iterator[tuple[Options, str]]:
        """Yield options and events: all combinations in float32, and few in other dtypes.

        Few are the defaults, each option alone and the largest sets. Every event is tried with the
        defaults and the largest sets.
        """
        few: list[Options] = [{}, *self.fullest]
        plain = [*self.combinations, *self._rare]
        if dtype != "float32" or coverage.quick:
            plain = [each for each in self.combinations if len(each) <= 1 or each in few]
        events: Sequence[str] = QUICK_EVENTS if coverage.quick else tuple(EVENTS)
        if coverage.level == "thorough":
            events = (*events, *THOROUGH_EVENTS, *PROGRAMS)
        for name in events if dtype == "float32" else FEW_EVENTS:
            # Loaded state is a leaf, which cannot be changed in place while autograd records.
            event = event_of(name)
            if way != "differentiable" or not (event.loads or event.copies or event.long):
                yield from ((options, name) for options in (plain if name == PLAIN else few))

    def configuration(
        self, way: str, dtype: str, options: Options, event: str, coverage: Coverage
    ) -> Configuration:
        """Make a configuration of small tensors, to which the event happens."""
        changes = {"tensors": SMALL, "lr_changed_at": 0, **event_of(event).changes}
        if "lr" not in self.group_keys:
            changes["lr_changed_at"] = 0
        changes["tensors"] = typed(changes["tensors"], way, dtype)
        if "calls" in changes:
            changes["calls"] = tuple(filter(self._has_option, changes["calls"]))
        second, third = (
            {name: value for name, value in options.items() if name in self.group_keys}
            for options in _OVERRIDES
        )
        scenario = event_of(event).kind(
            **changes,
            overrides=(second, third),
            seed=coverage.seed,
            differentiable=way == "differentiable",
            backward_after=(1,),
            device=coverage.device,
        )
        return Configuration(way, dtype, options, event, scenario)

    def _has_option(self, call: Call) -> bool:
        if call.name == "scale_lr":
            return "lr" in self.group_keys
        return call.name != "set_option" or call.arguments[0] in self.group_keys

    @cached_property
    def _rare(self) -> list[Options]:
        """Three options at once, one of them a flag; flags with zeros; numbers seldom given."""
        names = [name for name in self.values if name != "lr"]
        first = {name: self.values[name][0] for name in names}
        triples: list[Options] = [
            {name: first[name] for name in three}
            for three in itertools.combinations(names, 3)
            if any(isinstance(first[name], bool) for name in three)
        ]
        flags = {name: value for name, value in first.items() if isinstance(value, bool)}
        zeros: list[Options] = [
            {name: zero, **dict(two)}
            for name in names
            for zero in self.values[name][1:]
            if zero == 0
            for two in itertools.combinations(flags.items(), 2)
        ]
        known = (name for name in _SELDOM if {*self.values.get(name, (-1,))} <= {*VALUES[name]})
        return triples + zeros + [{name: _SELDOM[name]} for name in known]

    @property
    def _first(self) -> list[dict[str, Any]]:
        return [{name: values[0]} for name, values in self.values.items()]

    def _accepts(self, options: Options) -> bool:
        together = {**self.always, **options}
        return all(made(each, together) is not None for each in (self.mine, self.reference))


def shared(
    mine: Factory, reference: Factory, options: Options, values: Mapping[str, tuple[Any, ...]]
) -> Shared:
    """Read from both signatures, and by trying, what can be asked of both."""
    ours, theirs = _defaults(mine), _defaults(reference)
    names = [name for name in theirs if name in ours and name not in options]
    varied = [name for name in names if name not in _WAYS]
    always, different = dict(options), {}
    for name in varied:
        pair = (ours[name], theirs[name])
        if not _alike(*pair):
            always[name] = _chosen(name, *pair)
            if _MISSING not in pair and pair[0] != pair[1]:
                different[name] = pair
    tried = {name: _tried(name, always.get(name, theirs[name]), values) for name in varied}
    return Shared(
        mine=mine,
        reference=reference,
        always=always,
        values={name: found for name, found in tried.items() if found},
        implementations=tuple(w for w, needed in IMPLEMENTATIONS.items() if {*needed} <= {*names}),
        defaults=different,
        group_keys=(_group_keys(mine, always) & _group_keys(reference, always))
        - ({*options} - {"lr"}),
    )


def made(make: Factory, options: Options) -> Optimizer | None:
    """Make an optimizer of a small parameter; ``None`` if that is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return make([torch.zeros(2).requires_grad_()], **clone({**options}))
        except Exception:  # noqa: BLE001 - any refusal is one
            return None


def unnamed(make: Factory, names: Sequence[str]) -> tuple[list[str], str]:
    """Find options that a signature does not name.

    Returns:
        These, and what to do about it where the signature takes any option unnamed.
    """
    absent = [name for name in names if name not in _defaults(make)]
    swallowing = [e for e in _signature(make) if e.kind is inspect.Parameter.VAR_KEYWORD]
    if not (absent and swallowing):
        return absent, ""
    advice = f": **{swallowing[0].name} may take it, but does not say so; compare a function of "
    return absent, f"{advice}params that names it"


def _signature(make: Factory) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(make).parameters.values())
    except ValueError:  # nothing in Python says what it takes
        return []


def _defaults(make: Factory) -> dict[str, Any]:
    """Return the defaults of all options that can be given by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name: each.default for each in _signature(make)[1:] if each.kind in by_name}


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
