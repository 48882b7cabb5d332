"""Proving any optimizer: comparing it with another in every configuration that both accept."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.lockstep.outcome import Difference, Equal
from optimlab.lab.parity.case_result import CaseResult, ExpectedFailure, Progress
from optimlab.lab.parity.configurations import (
    Configuration,
    Coverage,
    Factory,
    Level,
    configurations,
)
from optimlab.lab.parity.events import CROSSED, PLAIN
from optimlab.lab.parity.mask import ABSENT, Key, Mask, Masked, compare_masked
from optimlab.lab.parity.result import ParityResult
from optimlab.lab.parity.signatures import Shared, made, shared, unnamed
from optimlab.lab.parity.table import IMPLEMENTATIONS, TABLE, Options, excluded


def check(
    mine: Factory,
    reference: Factory,
    *,
    options: Options | None = None,
    values: Mapping[str, Sequence[Any]] | None = None,
    implementations: Collection[str] = (),
    dtypes: Collection[str] = (),
    exceptions: Sequence[ExpectedFailure] = (),
    ignore_state: Collection[str] = (),
    ignore_options: Collection[str] = (),
    state_names: Mapping[str, str] | None = None,
    quick: bool = False,
    thorough: bool = False,
    strict: bool = False,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> ParityResult:
    """Compare an optimizer with another, bit for bit, in every configuration that both accept.

    Both are put through the same steps in lock step, from the same starting bits and with the same
    gradients, and parameters, state, parameter groups and state dicts are compared as integers
    after each step. Tried are the implementations whose options both signatures have (for-loop,
    ``foreach``, ``fused``, ``capturable``, ``differentiable``); every dtype; for each option that
    both take its default and other values, alone, in pairs and as many at once as go together; and
    events: gradients that are ``None``, zero, not finite or not contiguous, empty and large
    parameters, several groups, a group added, ``lr`` and other hyperparameters changed, a closure,
    tiny, large and sparse gradients, two threads, hooks, ``zero_grad()``, copies and pickles of the
    optimizer, and state dicts loaded in mid-run. A configuration that one or both refuse, in the
    constructor or in the first step, is not compared, but counted; but where the reference makes
    the step and mine raises an error, it is a difference if the event is to blame: if mine makes
    plain steps with the same options, implementation and dtype.

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
        thorough: whether to try, in minutes, long runs, large tensors, many tensors and groups,
            and programs drawn at random, too.
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
        ValueError: if there is no such implementation or dtype, or if it is to be quick and
            thorough at once.

    Example:
        >>> import torch, optimlab
        >>> from optimlab.lab.parity import check
        >>> result = check(optimlab.SGD, torch.optim.SGD, quick=True, dtypes=["float32"])
        >>> result.equal, len(result.same) > 20
        (True, True)
    """
    if quick and thorough:
        raise ValueError("a check is quick or thorough, not both")
    level: Level = "quick" if quick else "thorough" if thorough else "full"
    coverage = Coverage(tuple(implementations), tuple(dtypes), level, device, seed)
    require_optimizers(mine, reference, options or {})
    asked = shared(mine, reference, options or {}, {k: tuple(v) for k, v in (values or {}).items()})
    _require_implementations(asked, coverage)
    ignored = frozenset[Key](("state", name) for name in ignore_state)
    ignored |= frozenset[Key](("option", name) for name in ignore_options)
    checker = _Checker(asked, ignored, {n: theirs for theirs, n in (state_names or {}).items()})
    checker.run_all(list(configurations(asked, coverage)), progress)
    result = ParityResult(
        mine=_name(mine),
        reference=_name(reference),
        results=tuple(checker.results),
        forms=checker.forms,
        defaults=asked.defaults,
        ignored={key: key in checker.needed for key in sorted(ignored)},
        exceptions=tuple(exceptions),
        narrowed=coverage.narrowed,
        strict=strict,
        device=device,
        thorough=thorough,
    )
    _require_something(result)
    return result


@dataclass
class _Checker:
    """Runs configurations one after the other, learning on the way what to leave out."""

    asked: Shared
    ignored: frozenset[Key]
    names: Mapping[str, str]  # the reference's of state that is called otherwise in mine
    results: list[CaseResult] = field(default_factory=list)
    # Keys that are not of one form on both sides, and where.
    forms: dict[tuple[Key, str, str], list[Configuration]] = field(default_factory=dict)
    needed: set[Key] = field(default_factory=set)  # ignored, and something would differ if not
    hidden: frozenset[Key] = frozenset()  # what had to be left out last

    def run_all(self, todo: Sequence[Configuration], progress: Progress | None) -> None:
        """Compare in all of them, in turn."""
        for done, configuration in enumerate(todo):
            if progress is not None:
                progress(done, len(todo), str(configuration))
            self.run(configuration)

    def run(self, configuration: Configuration) -> None:
        """Compare in one configuration, unless it is one in which torch gives random bits."""
        if self._excluded(configuration):
            self.results.append(CaseResult(configuration, None))
            return
        masked = self._settled(configuration)
        crashed = self._crashed(configuration, masked)
        result = CaseResult(configuration, masked.outcome, crashed)
        one_sided = any(ABSENT in form for key in masked.differing for form in masked.forms[key])
        if configuration.event == CROSSED and (one_sided or self.names):
            return  # neither can read the other's checkpoints
        self.results.append(result)
        if not (result.refused or crashed):
            self._note(configuration, masked)

    def _crashed(self, configuration: Configuration, masked: Masked) -> bool:
        """Tell whether mine alone raised in the first step, and the event is to blame."""
        found = masked.outcome
        if not isinstance(found, Difference) or found.mismatch.what != "raised":
            return False
        one_sided = found.mismatch.ours is not None and found.mismatch.theirs is None
        if found.during == "construction" or found.step > 1 or not one_sided:
            return False
        plain = replace(configuration, event=PLAIN).facts
        return any(
            each.configuration.facts == plain and each.compared and each.error is None
            for each in self.results
        )

    def _settled(self, configuration: Configuration) -> Masked:
        """Compare until exactly those keys are hidden that have to be."""
        masked = self._compared(configuration)
        while masked.differing != self.hidden:
            if CaseResult(configuration, masked.outcome).refused:
                break
            self.hidden = masked.differing
            masked = self._compared(configuration)
        return masked

    def _compared(self, configuration: Configuration) -> Masked:
        masked = self._masked(configuration, self.hidden | self.ignored)
        outcome = masked.outcome
        if isinstance(outcome, Difference) and outcome.path[0] == "gradients":
            # Mine writes to the gradients. It may, if it leaves what the reference leaves there.
            again = self._masked(configuration, self.hidden | self.ignored, gradients=True)
            return again if isinstance(again.outcome, Equal) else masked
        return masked

    def _masked(
        self, configuration: Configuration, hidden: frozenset[Key], gradients: bool = False
    ) -> Masked:
        asked = self.asked
        return compare_masked(
            partial(configuration.make, asked.mine, asked.always),
            partial(configuration.make, asked.reference, asked.always),
            configuration.scenario,
            Mask(hidden, self.names, gradients),
            Mask(hidden, {}, gradients),
        )

    def _note(self, configuration: Configuration, masked: Masked) -> None:
        for key in sorted(masked.differing):
            if key in self.ignored:
                self.needed.add(key)
            elif key[0] != "saved" or ("state", key[1]) not in masked.differing:
                place = (key, *masked.forms[key])
                self.forms.setdefault(place, []).append(configuration)
        if isinstance(masked.outcome, Equal):
            # Those that would be a difference, were they not ignored.
            everything = self.hidden | self.ignored
            for key in (self.ignored - self.needed) & masked.forms.keys():
                if not self._masked(configuration, everything - {key}).outcome.equal:
                    self.needed.add(key)

    def _excluded(self, configuration: Configuration) -> bool:
        where = (configuration.implementation, configuration.dtype, configuration.scenario.device)
        factories: list[Any] = [self.asked.mine, self.asked.reference]
        classes = [make.func if isinstance(make, partial) else make for make in factories]
        return any(
            excluded(row.name, *where)
            for row in TABLE
            if row.ours in classes or row.theirs in classes
        )


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


def _require_implementations(asked: Shared, coverage: Coverage) -> None:
    """Check that an implementation was asked for that both take, if any was asked for."""
    wanted = coverage.implementations
    if not wanted or {*wanted} & {*asked.implementations}:
        return
    names = list(dict.fromkeys(name for way in wanted for name in IMPLEMENTATIONS[way]))
    lacking = [
        f"\n  {_name(make)} does not name {', '.join(absent)} in its signature{advice}"
        for make in (asked.mine, asked.reference)
        for absent, advice in [unnamed(make, names)]
        if absent
    ]
    raise NothingCompared(
        f"{', '.join(wanted)} cannot be asked of both, only {', '.join(asked.implementations)}"
        f"{''.join(lacking)}"
    )


def _require_something(result: ParityResult) -> None:
    stepped = [each for each in result.results if each.compared]
    if not stepped:
        refusals = "".join(f"\n  {text}" for text, _ in result.refusals()[:5])
        raise NothingCompared(
            f"there is no configuration in which both {result.mine} and {result.reference} "
            f"make a step{refusals}"
        )
    if not any(each.moved for each in stepped):
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
