"""Going on from a checkpoint, and finding out by experiment what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optimlab.lab.compare.bits import same_bits
from optimlab.lab.compare.diff import Compared, Diff
from optimlab.lab.lockstep.outcome import Difference
from optimlab.lab.resume.contract import Digests, Run, digests, frozen
from optimlab.lab.resume.outcome import Cause, Offender
from optimlab.lab.resume.parts import Part, Randomness, generators, randomness, set_randomness

Transplant: TypeAlias = Callable[[Run], object]

_NARROWER = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Expected:
    """The uninterrupted run, as far as it is needed to compare with.

    Attributes:
        at: after how many steps the checkpoint was saved.
        digests: of everything, after that step and after each later one.
        values: everything after that step.
        parts: the parts of the run then.
        randomness: the generators of the process then.
    """

    at: int
    digests: Sequence[Digests]
    values: Mapping[str, Any]
    parts: Sequence[Part]
    randomness: Randomness


class Laboratory:
    """Resumes the run again and again, each time as in a new process.

    Args:
        make: makes a run.
        checkpoint: reads what was saved, afresh at each call.
        expected: what to compare with.
    """

    def __init__(
        self, make: Callable[[], Run], checkpoint: Callable[[], dict[str, Any]], expected: Expected
    ) -> None:
        self._make, self._checkpoint, self._expected = make, checkpoint, expected
        self._start = randomness()

    def resume(self, *transplants: Transplant) -> tuple[Offender | None, Mapping[str, Any]]:
        """Resume, with parts of the uninterrupted run put in, and compare after each step.

        Returns:
            The first difference, and everything right after loading.
        """
        set_randomness(self._start)
        run = self._make()
        run.load_state_dict(self._checkpoint())
        for transplant in transplants:
            transplant(run)
        loaded = frozen(run.tensors())
        for step, digests_then in enumerate(self._expected.digests, start=self._expected.at):
            if step > self._expected.at:
                run.step()
            found = first_difference(step, digests(run), digests_then)
            if found is not None:
                return found, loaded
        return None, loaded

    def causes(self) -> tuple[list[Cause], bool]:
        """Find what has to be put back for the same bits.

        Returns:
            The causes, and whether it takes all of them together.
        """
        candidates = self._candidates()
        alone = [cause for cause, transplant in candidates if self._helps(transplant)]
        if alone:
            return alone, False
        if not self._helps(*(transplant for _, transplant in candidates)):
            return [], False
        needed = candidates
        for candidate in candidates:
            without = [each for each in needed if each is not candidate]
            if self._helps(*(transplant for _, transplant in without)):
                needed = without
        return [cause for cause, _ in needed], True

    def _candidates(self) -> list[tuple[Cause, Transplant]]:
        # The generators last: making or loading a part may draw from them.
        parts: list[tuple[Cause, Transplant]] = [
            (part.cause, part.put_into) for part in self._expected.parts
        ]
        return parts + [
            (cause, lambda _, states=states: set_randomness(states))
            for cause, states in generators(self._expected.randomness)
        ]

    def _helps(self, *transplants: Transplant) -> bool:
        try:
            return self.resume(*transplants)[0] is None
        except Exception:  # noqa: BLE001 - a part in the wrong place may break a step in any way
            return False


def first_difference(step: int, ours: Digests, expected: Digests) -> Offender | None:
    """Compare what there is after a step with what there should be."""
    differing = [name for name, value in expected.items() if ours.get(name) != value]
    differing += [name for name in ours if name not in expected]
    if not differing:
        return None
    first, *also = differing
    what = "other bits"
    if first not in ours:
        what = "missing"
    elif first not in expected:
        what = "not there in the uninterrupted run"
    return Offender(step, first, what, tuple(also))


def described(offender: Offender, loaded: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Say what differs right after loading, in values."""
    name = offender.name
    if name not in loaded or name not in values:
        return offender.what
    found = Diff().differences({name: loaded[name]}, {name: values[name]})
    if not found:
        return offender.what
    text = str(Difference.first_of(found[:1], Compared(), offender.step, "loading"))
    text = text.partition(", after loading: ")[2].replace("\n ", ";")
    return text.replace("ours ", "resumed ").replace("theirs ", "uninterrupted ")


def losses(loaded: Mapping[str, Any], values: Mapping[str, Any]) -> list[Cause]:
    """Find tensors that came back rounded, or in another dtype."""
    ours, theirs = dict(_flat(loaded)), dict(_flat(values))
    return [
        Cause("dtype loss", f"{name} {lost}")
        for name, tensor in ours.items()
        if name in theirs and (lost := _lost(tensor, theirs[name]))
    ]


def _flat(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        items = [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
        return [found for key, item in items for found in _flat(item, key)]
    return []


def _lost(loaded: Tensor, saved: Tensor) -> str:
    if loaded.shape != saved.shape or not (loaded.is_floating_point() and saved.numel()):
        return ""
    if loaded.dtype != saved.dtype:
        return f"was {saved.dtype} and came back as {loaded.dtype}"
    if same_bits(loaded, saved):
        return ""
    for narrow in _NARROWER:
        if narrow.itemsize < saved.dtype.itemsize and same_bits(
            loaded, saved.to(narrow).to(saved.dtype)
        ):
            return f"came back rounded to {narrow}"
    return ""
