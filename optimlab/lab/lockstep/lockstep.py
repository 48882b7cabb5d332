"""Driving two optimizers through one scenario in lock step, comparing after every step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import methodcaller
from typing import TypeAlias

import torch
from torch import Tensor

from optimlab.lab.compare.bits import Distance, Mismatch, tensor_distance
from optimlab.lab.compare.diff import Diff, Differences, NothingCompared
from optimlab.lab.lockstep.clone import clone, save_and_load
from optimlab.lab.lockstep.outcome import Difference, Equal, EqualError, Outcome
from optimlab.lab.lockstep.replica import Make, Replica
from optimlab.lab.lockstep.scenario import Scenario

Action: TypeAlias = Callable[[Replica], None]


def compare(
    make_ours: Make,
    make_theirs: Make,
    scenario: Scenario | None = None,
    *,
    ignored: Collection[str] = (),
) -> Outcome:
    """Put two optimizers through the same steps and compare them, bit for bit, after each.

    Both start from the same bits and get the same fresh gradients. Compared are every parameter
    and state tensor (bits, dtype, device, shape, strides), the keys of the state and their order,
    other state values, ``param_groups``, ``defaults`` and ``state_dict()``. Our side has to leave
    the gradients it is given alone; where the scenario has them unscaled in place, it has to
    unscale them as the other side does. Warnings are not compared.

    Args:
        make_ours: makes our optimizer from a list of parameter groups; it is called once more
            where the scenario resumes from a state dict.
        make_theirs: makes the optimizer to compare with, in the same way.
        scenario: what both are put through; by default a small network for 20 steps.
        ignored: hyperparameters that may differ or that one side may lack, such as ``"foreach"``.

    Returns:
        :class:`Equal`; :class:`EqualError` if both raise the same type with the same message at
        the same point; or the first :class:`Difference`. Each prints readably, and has ``equal``.

    Raises:
        NothingCompared: if there was nothing to compare: no element, no step, or the same tensors
            on both sides.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> outcome = compare(partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.1))
        >>> outcome.equal, outcome.compared.steps
        (True, 20)
    """
    scenario = scenario or Scenario()
    return drive(
        lambda: (Replica(make_ours, scenario, ignored), Replica(make_theirs, scenario, ignored)),
        scenario,
    )


def drive(make_sides: Callable[[], tuple[Replica, Replica]], scenario: Scenario) -> Outcome:
    """Put two sides through a scenario, in the surroundings that it asks for."""
    with _surroundings(scenario):
        ours, theirs = make_sides()
        return _Lockstep(ours, theirs, scenario).run()


class _Lockstep:
    def __init__(self, ours: Replica, theirs: Replica, scenario: Scenario) -> None:
        self.ours = ours
        self.theirs = theirs
        self.scenario = scenario
        self.diff = Diff()
        self.difference: Difference | None = None

    def run(self) -> Outcome:
        for step, during, action in self._events():
            ended = self._both(step, during, action)
            # The first difference is the answer; the rest is run only to see where it leads.
            if ended is None and self.difference is None:
                self._compare(step, during)
            if ended is not None:
                return self.difference or ended
        return self._with_final_distance(self.difference) if self.difference else self._equal()

    def _events(self) -> Iterator[tuple[int, str, Action]]:
        """Yield what is done to both sides: in which step, in words, and as a function."""
        scenario = self.scenario
        yield 0, "construction", Replica.construct
        for step in range(1, scenario.steps + 1):
            if step == scenario.group_added_at and any(t.group == 2 for t in scenario.tensors):
                yield step, "add_param_group()", Replica.add_group
            if step == scenario.lr_changed_at:
                yield step, "a change of lr", Replica.halve_lr
            if step == scenario.resumed_at and scenario.resume != "no":
                yield step, "state_dict()", Replica.save
                yield step, "load_state_dict()", self._resume
            for call in scenario.calls:
                if call.before == step:
                    yield step, str(call), methodcaller(call.name, *call.arguments)
            gradients = list(scenario.gradients(step))
            yield step, "step()", partial(Replica.step, number=step, gradients=gradients)
            if scenario.differentiable and step in scenario.backward_after:
                yield step, "backward()", Replica.backward

    def _resume(self, side: Replica) -> None:
        other = self.theirs if side is self.ours else self.ours
        crossed = self.scenario.resume == "from the other's checkpoint"
        side.resume(clone(other.saved) if crossed else save_and_load(side.saved))

    def _both(self, step: int, during: str, action: Action) -> EqualError | Difference | None:
        """Do the same to both sides; an error on either ends the comparison."""
        ours, theirs = _error(action, self.ours), _error(action, self.theirs)
        if ours is None and theirs is None:
            return None
        if ours == theirs:
            return EqualError(self.diff.compared, step, during, str(ours))
        return self._differs(step, during, [(("error",), Mismatch("raised", ours, theirs))])

    def _compare(self, step: int, during: str) -> None:
        found = self.diff.differences(self.ours.seen, self.theirs.seen)
        if during == "step()":
            found += self._changed_gradients()
            self.diff.steps += 1
        if found:
            self.difference = self._differs(step, during, found)

    def _changed_gradients(self) -> Differences:
        """Our side leaves gradients alone, unless they are unscaled in place."""
        expected = self.ours.given
        if self.scenario.unscale:
            expected = [param.grad for param in self.theirs.params]
        return Diff().differences(
            {"gradients": dict(enumerate(param.grad for param in self.ours.params))},
            {"gradients": dict(enumerate(expected))},
        )

    def _differs(self, step: int, during: str, found: Differences) -> Difference:
        return Difference.first_of(found, self.diff.compared, step, during, self.scenario.names)

    def _equal(self) -> Equal:
        compared = self.diff.compared
        if not (compared.steps and compared.elements):
            raise NothingCompared(f"the scenario leaves nothing to compare: {compared}")
        moved = _total(self.scenario.start(), self.ours.params)
        finite = sum(int(param.detach().isfinite().sum()) for param in self.ours.params)
        return Equal(compared, changed=moved.share, finite=finite / moved.elements)

    def _with_final_distance(self, difference: Difference) -> Difference:
        pairs = zip(self.ours.params, self.theirs.params, strict=True)
        if any(ours.dtype != theirs.dtype or ours.shape != theirs.shape for ours, theirs in pairs):
            return difference
        return replace(difference, final=_total(self.ours.params, self.theirs.params))


@dataclass(frozen=True)
class _RaisedError:
    type: type[Exception]
    message: str

    def __str__(self) -> str:
        return f"{self.type.__name__}: {self.message}"


def _error(action: Action, side: Replica) -> _RaisedError | None:
    try:
        action(side)
        side.snapshot()
    except Exception as error:  # noqa: BLE001 - which errors are raised is what is compared
        return _RaisedError(type(error), str(error))
    return None


def _total(left: Iterable[Tensor], right: Iterable[Tensor]) -> Distance:
    pairs = zip(left, right, strict=True)
    return sum((tensor_distance(a.detach(), b.detach()) for a, b in pairs), Distance(0, 0))


@contextmanager
def _surroundings(scenario: Scenario) -> Iterator[None]:
    default_dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(scenario.default_dtype)
    torch.set_num_threads(scenario.threads or threads)
    try:
        # A warning that is an error elsewhere would be the same error on both sides, and so hide
        # whatever comes after it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(default_dtype)
        torch.set_num_threads(threads)
