"""Proving any optimizer: comparing it with another in every configuration that both accept."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from torch.optim import Optimizer

from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.outcome import Difference, Equal
from optimlab.lab.parity.cases import excluded
from optimlab.lab.parity.configurations import CROSSED, PLAIN, Configuration, Extent, configurations
from optimlab.lab.parity.signatures import Factory, Shared, made, shared, unnamed
from optimlab.lab.parity.table import IMPLEMENTATIONS, TABLE, Options
from optimlab.lab.parity.verdict import Excepted, Tried, Verdict
from optimlab.lab.parity.views import ABSENT, Key, View, Viewed, compare_views

#: Told of progress: how many configurations are done, how many there are, and which is next.
Progress: TypeAlias = Callable[[int, int, str], None]


def check(
    mine: Factory,
    reference: Factory,
    *,
    options: Options | None = None,
    values: Mapping[str, Sequence[Any]] | None = None,
    implementations: Collection[str] = (),
    dtypes: Collection[str] = (),
    exceptions: Sequence[Excepted] = (),
    ignore_state: Collection[str] = (),
    ignore_options: Collection[str] = (),
    state_names: Mapping[str, str] | None = None,
    quick: bool = False,
    strict: bool = False,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdict:
    """Compare an optimizer with another, bit for bit, in every configuration that both accept.

    Both are put through the same steps in lock step, from the same starting bits and with the same
    gradients, and parameters, state, parameter groups and state dicts are compared as integers
    after each step. Tried are the implementations whose options both signatures have (for-loop,
    ``foreach``, ``fused``, ``capturable``, ``differentiable``); every dtype; for each option that
    both take its default and other values, alone, in pairs and as many at once as go together; and
    circumstances: gradients that are ``None``, zero, not finite or not contiguous, empty and large
    parameters, several groups, a group added, ``lr`` changed, a closure, and a state dict loaded in
    mid-run. A configuration that one or both refuse, in the constructor or in the first step, is
    not compared, but counted; but where the reference makes the step and mine raises an error, it
    is a difference if the circumstance is to blame: if mine makes plain steps with the same
    options, implementation and dtype.

    What the two *keep* is told apart from the bits of their steps: state and hyperparameters that
    only one has, or of which the types are not the same, and defaults that are not the same, are
    each reported once, and everything else is compared as if they were not there. Keys are compared
    in any order.

    Args:
        mine: the optimizer under test: a class of optimizers, or a function of ``params`` and the
            keyword options to be tried, as a way to translate names.
        reference: the optimizer it is compared with, in the same way.
        options: keyword arguments that both always get; they are not varied.
        values: values to try of some options, in place of those known by name. Options of unknown
            names stay at their defaults, unless they are flags.
        implementations: names, such as ``"fused"``; all that both take by default.
        dtypes: names, such as ``"bfloat16"``; all by default.
        exceptions: differences that are known, each with its reason. They are run all the same,
            and one that no longer occurs is a failure of the check: take it from the list.
        ignore_state: names of state that only one side has, or whose values are another's.
        ignore_options: names of such hyperparameters.
        state_names: my name of a state for each name of the reference's that differs.
        quick: whether to try a few configurations, in about a tenth of the time.
        strict: whether a configuration that only one side refuses, or both with different errors,
            is a difference.
        device: ``"cpu"`` or ``"cuda"``.
        seed: of starting values and gradients.
        progress: called before each configuration.

    Returns:
        What came of it, which prints itself. Its ``require()`` raises an :class:`AssertionError`
        with that text unless it is ``equal``.

    Raises:
        NothingCompared: if there was no configuration in which both make a step, or no step ever
            changed a parameter.
        TypeError: if a factory makes something that is not an optimizer.
        ValueError: if there is no such implementation or dtype.

    Example:
        >>> import torch, optimlab
        >>> from optimlab.lab.parity import check
        >>> verdict = check(optimlab.SGD, torch.optim.SGD, quick=True, dtypes=["float32"])
        >>> verdict.equal, len(verdict.same) > 20
        (True, True)
    """
    extent = Extent(tuple(implementations), tuple(dtypes), quick, device, seed)
    require_optimizers(mine, reference, options or {})
    asked = shared(mine, reference, options or {}, {k: tuple(v) for k, v in (values or {}).items()})
    checker = _Checker(
        mine=mine,
        reference=reference,
        asked=asked,
        ignored=_keys(ignore_state, ignore_options),
        names=dict(state_names or {}),
    )
    _require_implementations(mine, reference, asked, extent)
    todo = list(configurations(mine, reference, asked, extent))
    for done, configuration in enumerate(todo):
        if progress is not None:
            progress(done, len(todo), str(configuration))
        checker.run(configuration)
    verdict = Verdict(
        mine=_name(mine),
        reference=_name(reference),
        tried=tuple(checker.tried),
        forms=checker.forms,
        defaults=asked.defaults,
        ignored=checker.occurring(),
        exceptions=tuple(exceptions),
        narrowed=extent.narrowed,
        strict=strict,
        device=device,
    )
    _require_something(verdict)
    return verdict


@dataclass
class _Checker:
    """Runs configurations one after the other, learning on the way what to leave out.

    Attributes:
        mine: the optimizer under test.
        reference: the one it is compared with.
        asked: what is asked of both.
        ignored: keys that are left out as the caller asked.
        names: my name of a state for each of the reference's that is another.
        tried: what came of each configuration.
        forms: keys that are not of one form on both sides, with both forms, each with all
            configurations in which that is so.
        needed: ignored keys without which something would differ.
        hidden: keys that had to be left out in the last configuration.
    """

    mine: Factory
    reference: Factory
    asked: Shared
    ignored: frozenset[Key]
    names: Mapping[str, str]
    tried: list[Tried] = field(default_factory=list)
    forms: dict[tuple[Key, str, str], list[Configuration]] = field(default_factory=dict)
    needed: set[Key] = field(default_factory=set)
    hidden: frozenset[Key] = frozenset()

    def run(self, configuration: Configuration) -> None:
        """Compare in one configuration, unless it is one in which torch gives random bits."""
        if self._excluded(configuration):
            self.tried.append(Tried(configuration, None))
            return
        viewed = self._settled(configuration)
        tried = Tried(configuration, viewed.outcome, self._crashed(configuration, viewed))
        one_sided = any(ABSENT in form for key in viewed.parted for form in viewed.forms[key])
        if configuration.circumstance == CROSSED and (one_sided or self.names):
            return  # neither can read the other's checkpoints
        self.tried.append(tried)
        if not (tried.refused or tried.crashed):
            self._note(configuration, viewed)

    def occurring(self) -> Mapping[Key, bool]:
        """Say of each ignored key whether it has to be ignored."""
        return {key: key in self.needed for key in sorted(self.ignored)}

    def _crashed(self, configuration: Configuration, viewed: Viewed) -> bool:
        """Tell whether mine alone raised in the first step, and the circumstance is to blame."""
        found = viewed.outcome
        if not isinstance(found, Difference) or found.mismatch.what != "raised":
            return False
        one_sided = found.mismatch.ours is not None and found.mismatch.theirs is None
        if found.during == "construction" or found.step > 1 or not one_sided:
            return False
        plain = replace(configuration, circumstance=PLAIN).facts
        return any(
            tried.configuration.facts == plain and tried.compared and tried.error is None
            for tried in self.tried
        )

    def _settled(self, configuration: Configuration) -> Viewed:
        """Compare until exactly those keys are hidden that have to be."""
        viewed = self._compared(configuration, self.hidden)
        while not Tried(configuration, viewed.outcome).refused and viewed.parted != self.hidden:
            self.hidden = viewed.parted
            viewed = self._compared(configuration, self.hidden)
        return viewed

    def _compared(self, configuration: Configuration, hidden: frozenset[Key]) -> Viewed:
        viewed = self._views(configuration, hidden | self.ignored)
        outcome = viewed.outcome
        if isinstance(outcome, Difference) and outcome.path[0] == "gradients":
            # Mine writes to the gradients. It may, if it leaves what the reference leaves there.
            again = self._views(configuration, hidden | self.ignored, gradients=True)
            return again if isinstance(again.outcome, Equal) else viewed
        return viewed

    def _views(
        self, configuration: Configuration, hidden: frozenset[Key], gradients: bool = False
    ) -> Viewed:
        given = {
            **IMPLEMENTATIONS[configuration.implementation],
            **self.asked.always,
            **configuration.options,
        }
        return compare_views(
            partial(_make, self.mine, given),
            partial(_make, self.reference, given),
            configuration.scenario,
            View(hidden, {name: theirs for theirs, name in self.names.items()}, gradients),
            View(hidden, {}, gradients),
        )

    def _note(self, configuration: Configuration, viewed: Viewed) -> None:
        for key in sorted(viewed.parted):
            if key in self.ignored:
                self.needed.add(key)
            elif key[0] != "saved" or ("state", key[1]) not in viewed.parted:
                place = (key, *viewed.forms[key])
                self.forms.setdefault(place, []).append(configuration)
        doubtful = viewed.present(self.ignored - self.needed)
        if doubtful and isinstance(viewed.outcome, Equal):
            self.needed |= self._told_apart(configuration, doubtful)

    def _told_apart(self, configuration: Configuration, keys: set[Key]) -> set[Key]:
        """Return those of some ignored keys that would be a difference, were they not ignored."""
        everything = self.hidden | self.ignored
        return {
            key for key in keys if not self._views(configuration, everything - {key}).outcome.equal
        }

    def _excluded(self, configuration: Configuration) -> bool:
        where = (configuration.implementation, configuration.dtype, configuration.scenario.device)
        classes: list[Any] = [
            make.func if isinstance(make, partial) else make for make in (self.mine, self.reference)
        ]
        return any(
            excluded(row.name, *where) is not None
            for row in TABLE
            if row.ours in classes or row.theirs in classes
        )


def _make(make: Factory, options: Options, groups: list[dict[str, Any]]) -> Optimizer:
    """Make an optimizer of one group as most programs do, and of several as torch documents."""
    filled = [group for group in groups if group["params"]]
    params: Iterable[Any] = filled
    if len(filled) == 1 and filled[0].keys() == {"params"}:
        params = filled[0]["params"]
    return make(params, **{name: clone(value) for name, value in options.items()})


def _keys(state: Collection[str], options: Collection[str]) -> frozenset[Key]:
    in_state: set[Key] = {("state", name) for name in state}
    in_options: set[Key] = {("option", name) for name in options}
    return frozenset(in_state | in_options)


def require_optimizers(mine: Factory, reference: Factory, options: Options) -> None:
    """Check that two factories make optimizers, unless they refuse to make anything.

    Raises:
        TypeError: if one of them makes something else, or cannot be called.
    """
    for make in (mine, reference):
        if not callable(make):
            raise TypeError(f"{make!r} is neither a class nor a function")
        optimizer: object = made(make, options)
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            made_instead = type(optimizer).__name__
            raise TypeError(f"{_name(make)} makes a {made_instead}, no torch.optim.Optimizer")


def _require_implementations(
    mine: Factory, reference: Factory, asked: Shared, extent: Extent
) -> None:
    """Check that an implementation was asked for that both take, if any was asked for."""
    wanted = extent.implementations
    if not wanted or {*wanted} & {*asked.implementations}:
        return
    names = list(dict.fromkeys(name for way in wanted for name in IMPLEMENTATIONS[way]))
    lacking = [
        f"\n  {_name(make)} does not name {', '.join(absent)} in its signature{advice}"
        for make in (mine, reference)
        for absent, advice in [unnamed(make, names)]
        if absent
    ]
    raise NothingCompared(
        f"{', '.join(wanted)} cannot be asked of both, only {', '.join(asked.implementations)}"
        f"{''.join(lacking)}"
    )


def _require_something(verdict: Verdict) -> None:
    stepped = [tried for tried in verdict.tried if tried.compared]
    if not stepped:
        refusals = "".join(f"\n  {text}" for text, _ in verdict.refusals()[:5])
        raise NothingCompared(
            f"there is no configuration in which both {verdict.mine} and {verdict.reference} "
            f"make a step{refusals}"
        )
    if not any(tried.moved for tried in stepped):
        raise NothingCompared("no step changed a parameter, in any configuration")


def _name(make: Factory) -> str:
    """Name a class or factory as one imports it."""
    if isinstance(make, partial):
        given = "".join(f", {name}={value!r}" for name, value in make.keywords.items())
        return f"{_name(make.func)}{given}"
    module, name = getattr(make, "__module__", ""), getattr(make, "__qualname__", repr(make))
    packages = itertools.accumulate(module.split("."), "{}.{}".format)
    public = (each for each in packages if getattr(sys.modules.get(each), name, None) is make)
    module = next(public, module)
    return name if module in ("builtins", "__main__", "") else f"{module}.{name}"
