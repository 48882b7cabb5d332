"""Going on from a checkpoint, and finding out by experiment what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from optimlab.lab.compare.diff import Diff, path_name
from optimlab.lab.compare.snapshot import leaves
from optimlab.lab.findings import Finding, error
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.resume.outcome import Offender
from optimlab.lab.resume.parts import (
    Part,
    Randomness,
    lost,
    miswired,
    not_restored,
    randomness,
    set_randomness,
)
from optimlab.lab.resume.run import Digests, Run, digests, named

Transplant: TypeAlias = Callable[[Run], object]
Candidates: TypeAlias = list[tuple[Finding, Transplant]]


@dataclass(frozen=True)
class Expected:
    """The uninterrupted run after step ``at``, and the digests of it then and later."""

    at: int
    digests: Sequence[Digests]
    values: Mapping[str, Any]
    parts: Sequence[Part]
    randomness: Randomness


class Laboratory:
    """Resumes the run again and again, each time as in a new process, from what it reads anew."""

    def __init__(
        self, make: Callable[[], Run], checkpoint: Callable[[], dict[str, Any]], expected: Expected
    ) -> None:
        self._make, self._checkpoint, self._expected = make, checkpoint, expected
        self._start = randomness()
        self._apart: dict[str, str] = {}
        self.miswired: list[Finding] = []

    def resume(self, *transplants: Transplant) -> tuple[Offender | None, Mapping[str, Any]]:
        """Resume with parts put in; return the first difference, and all right after loading."""
        set_randomness(self._start)
        run = self._make()
        run.load_state_dict(self._checkpoint())
        if not transplants:
            self._apart = {part.name: part.apart(run) for part in self._expected.parts}
            self.miswired = miswired(run)
        for transplant in transplants:
            transplant(run)
        loaded = clone(named(run))
        for step, digests_then in enumerate(self._expected.digests, start=self._expected.at):
            if step > self._expected.at:
                run.step()
            found = first_difference(step, digests(run), digests_then)
            if found is not None:
                return found, loaded
        return None, loaded

    def causes(self) -> tuple[list[Finding], bool]:
        """Find what has to be put back for the same bits, and whether it takes all together."""
        # The generators last: making or loading a part may draw from them.
        candidates: Candidates = []
        for part in self._expected.parts:
            what = self._apart.get(part.name) or part.cause.what
            candidates.append((replace(part.cause, what=what), part.put_into))
        for name, state in self._expected.randomness.items():
            put = partial(_set_generator, name, state)
            candidates.append((not_restored("random numbers", name), put))
        alone = [cause for cause, transplant in candidates if self._helps([(cause, transplant)])]
        if alone or not self._helps(candidates):
            return alone, False
        needed = candidates
        for candidate in candidates:
            without = [each for each in needed if each is not candidate]
            if self._helps(without):
                needed = without
        return [cause for cause, _ in needed], True

    def _helps(self, candidates: Candidates) -> bool:
        try:
            return self.resume(*(transplant for _, transplant in candidates))[0] is None
        except Exception:  # noqa: BLE001 - a part in the wrong place may break a step in any way
            return False


def _set_generator(name: str, state: Any, _: Run) -> None:
    set_randomness({name: state})


def first_difference(step: int, ours: Digests, expected: Digests) -> Offender | None:
    """Compare what there is after a step with what there should be."""
    differing = [name for name, value in expected.items() if ours.get(name) != value]
    differing += [name for name in ours if name not in expected]
    if not differing:
        return None
    first, *also = differing
    what = "other bits" if first in expected else "not there in the uninterrupted run"
    return Offender(step, first, what if first in ours else "missing", tuple(also))


def described(offender: Offender, loaded: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Say what differs right after loading, in values."""
    name = offender.name
    found = name in loaded and name in values
    differences = Diff().differences({name: loaded[name]}, {name: values[name]}) if found else []
    if not differences:
        return offender.what
    path, mismatch = differences[0]
    there = "" if mismatch.distance is None else f"; there, {mismatch.distance}"
    text = f"{path_name(path)}: {mismatch}{there}"
    return text.replace("ours ", "resumed ").replace("theirs ", "uninterrupted ")


def losses(loaded: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Find tensors that came back rounded, or in another dtype."""
    saved = dict(leaves(values))
    for name, tensor in leaves(loaded):
        what = lost(tensor, saved.get(name))
        if what:
            yield error("dtype loss", name, what, "save it in the dtype that it has.")
