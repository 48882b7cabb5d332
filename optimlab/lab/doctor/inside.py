"""What can be wrong with an optimizer's groups and state without looking at anything else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.doctor.findings import Finding, listed
from optimlab.lab.doctor.hyperparameters import check_group, is_number, number
from optimlab.lab.doctor.memory import overlaps
from optimlab.lab.doctor.subject import Subject, entries

_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf")
_HALF = (torch.float16, torch.bfloat16)
_COUNTS_TO: dict[Any, int] = {torch.float16: 2048, torch.bfloat16: 256}


def examine(subject: Subject) -> Iterator[Finding]:
    """Look for what no optimizer leaves behind, or should not go on from.

    Args:
        subject: live or from a checkpoint; nothing in it is changed.
    """
    for index, group in enumerate(subject.groups):
        known = () if subject.live is None else subject.live.defaults
        yield from check_group(group, f"{subject.name}, group {index}", known)
    yield from _numbering(subject)
    yield from _completeness(subject)
    yield from _steps(subject)
    for place, key, tensor in subject.tensors():
        yield from _values(_place(subject, place, key), key, tensor)
    yield from _shapes(subject)
    yield from _aliases(subject)


def _place(subject: Subject, place: int, key: str) -> str:
    return f"{subject.name}: {key} of {subject.parameter(place)}"


def _numbering(subject: Subject) -> Iterator[Finding]:
    counts = Counter(subject.numbers)
    twice = [number for number, count in counts.items() if count > 1]
    if twice:
        yield Finding(
            "error",
            "duplicate",
            subject.name,
            f"number {listed(twice)} stands for more than one parameter: some parameter was given "
            "twice, which torch only warns of; it is updated twice in every step, and its state "
            "goes to the last of the places on loading",
            "give every parameter once: dict.fromkeys(params) keeps the order and drops repeats.",
        )
    named = Counter(subject.names)
    doubled = [name for name, count in named.items() if count > 1]
    if doubled and not twice:
        what = f"{listed(doubled)} names more than one parameter"
        yield Finding("warning", "names", subject.name, what, "give each parameter its own name.")
    orphans = [key for key in subject.state if key not in counts]
    if orphans:
        yield Finding(
            "warning",
            "orphan state",
            subject.name,
            f"there is state for {listed([_short(key) for key in orphans])}, in no group",
            "torch keeps it and never reads it; drop it, or find out where its parameter went.",
        )


def _short(key: Any) -> str:
    return f"a tensor of shape {tuple(key.shape)}" if isinstance(key, Tensor) else repr(key)


def _completeness(subject: Subject) -> Iterator[Finding]:
    keys = {
        place: tuple(key for key, _ in entries(subject.state[number]))
        for place, number in enumerate(subject.numbers)
        if subject.state.get(number)
    }
    if not keys:
        return
    # What most parameters of a group have is what the others should have.
    start = 0
    for size in subject.sizes:
        here = range(start, start + size)
        start += size
        usual = Counter(frozenset(keys[place]) for place in here if place in keys).most_common(1)
        if not usual:
            continue
        without = [subject.parameter(place) for place in here if place not in keys]
        if without:
            yield Finding(
                "warning",
                "missing state",
                subject.name,
                f"{listed(without)}: no state, where {size - len(without)} of the group have one",
                "fine, if they never had a gradient; otherwise their moments are lost and start "
                "from zero without an error.",
            )
        for place in here:
            missing = sorted(usual[0][0] - set(keys.get(place, usual[0][0])))
            if missing:
                yield Finding(
                    "error",
                    "missing key",
                    f"{subject.name}: {subject.parameter(place)}",
                    f"has no {listed(missing)}, which the others of its group have",
                    "take it from an earlier checkpoint, or drop this parameter's whole state.",
                )


def _steps(subject: Subject) -> Iterator[Finding]:
    steps = {
        place: value
        for number, place in subject.places.items()
        for key, value in entries(subject.state.get(number, {}))
        if key == "step" and value is not None
    }
    counts = {place: number(step) if is_number(step) else math.nan for place, step in steps.items()}
    for place, count in counts.items():
        if not (count.is_integer() and count >= 0):
            what = f"{count:g} is no number of steps"
            yield _step_finding("error", subject, place, what, "bias correction needs it.")
        limit = _COUNTS_TO.get(getattr(steps[place], "dtype", None))
        if limit is not None:
            what = f"is {steps[place].dtype}, which cannot count beyond {limit}"
            yield _step_finding("error", subject, place, what, "make it float32: --repair does.")
        if not isinstance(steps[place], Tensor):
            what = "is a plain number, as torch before 1.12 wrote it"
            advice = "torch turns it into a tensor on loading."
            yield _step_finding("note", subject, place, what, advice)
    (most, _), *others = Counter(counts.values()).most_common() or [(0.0, 0)]
    if others and all(count.is_integer() and count >= 0 for count in counts.values()):
        rest = listed([f"{count:g}" for count, _ in others])
        what = f"not all the same: most are {most:g}, others {rest}"
        advice = "fine, if some parameters had gradients less often, or were added later."
        yield Finding("note", "step", subject.name, what, advice)


def _step_finding(severity: Any, subject: Subject, place: int, what: str, advice: str) -> Finding:
    return Finding(severity, "step", _place(subject, place, "step"), what, advice)


def _values(where: str, key: str, tensor: Tensor) -> Iterator[Finding]:
    name = key.rpartition(".")[2]
    if (
        not (tensor.is_floating_point() or tensor.is_complex())
        or tensor.layout is not torch.strided
    ):
        return
    if tensor.numel() == 0 and name != "step":
        what = f"has no element: shape {tuple(tensor.shape)}"
        yield Finding("note", "empty", where, what, "fine, if its parameter has none either.")
        return
    bad = ~tensor.isfinite()
    if bad.any():
        element = bad.nonzero()[0].tolist()
        what = (
            f"{int(bad.sum())} of {tensor.numel()} elements are NaN or infinite, "
            f"the first at {element}: {tensor[tuple(element)].item()}"
        )
        advice = "go back to an earlier checkpoint: no later step makes them finite again."
        yield Finding("error", "not finite", where, what, advice)
    if name in _SQUARES and not tensor.is_complex() and (tensor < 0).any():
        element = (tensor < 0).nonzero()[0].tolist()
        what = f"is a mean of squares, and negative at {element}: {tensor[tuple(element)].item()}"
        advice = "its root is not a number: go back to an earlier checkpoint."
        yield Finding("error", "negative", where, what, advice)
    if tensor.dtype in _HALF and name != "step":
        advice = (
            "a moment changes by a small share of itself in each step, which bfloat16 rounds "
            "away, and float16 where the moment is tiny; --repair makes it float32, from a "
            "reference that has it, or as it is."
        )
        severity = "warning" if name in _SQUARES else "note"
        yield Finding(severity, "half precision", where, f"is {tensor.dtype}", advice)  # type: ignore[arg-type]


def _shapes(subject: Subject) -> Iterator[Finding]:
    """All moments of a parameter, but for the factored ones, have its shape."""
    for place, key in enumerate(subject.numbers):
        held = {
            name: tuple(value.shape)
            for name, value in entries(subject.state.get(key, {}))
            if isinstance(value, Tensor) and name in MOMENTS
        }
        if subject.params:
            held["the parameter"] = tuple(subject.params[place].shape)
        if len(set(held.values())) > 1:
            what = ", ".join(f"{name} {shape}" for name, shape in held.items())
            advice = "it is the state of another parameter, or of one that has changed since."
            where = f"{subject.name}: {subject.parameter(place)}"
            yield Finding("error", "shape", where, f"shapes differ: {what}", advice)
        largest = _tensor(subject, key, "max_exp_avg_sq")
        smallest = _tensor(subject, key, "exp_avg_sq")
        if _any_less(largest, smallest):
            where = _place(subject, place, "max_exp_avg_sq")
            what = "is less than exp_avg_sq, whose largest value it is"
            advice = "it is not of this step; take both from one checkpoint."
            yield Finding("error", "inconsistent", where, what, advice)


def _any_less(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape or one.is_complex():
        return False
    return bool((one < other.to(one.dtype)).any())


MOMENTS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "exp_inf",
    "acc_delta",
    "sum",
)


def _tensor(subject: Subject, number: Any, key: str) -> Tensor | None:
    value = subject.state.get(number, {}).get(key)
    return value if isinstance(value, Tensor) else None


def _aliases(subject: Subject) -> Iterator[Finding]:
    tensors = [(f"{key} of {subject.parameter(p)}", t) for p, key, t in subject.tensors()]
    tensors += [(subject.parameter(p), t.detach()) for p, t in _distinct(subject.params)]
    pairs = list(overlaps(tensors))
    if pairs:
        yield Finding(
            "error",
            "aliasing",
            subject.name,
            f"{listed([' and '.join(pair) for pair in pairs])} share memory: a step that changes "
            "one changes the other",
            "copy.deepcopy a state dict before a second optimizer loads it; --repair separates "
            "what a checkpoint holds.",
        )


def _distinct(params: tuple[Tensor, ...]) -> Iterator[tuple[int, Tensor]]:
    seen: set[int] = set()
    for place, param in enumerate(params):
        if id(param) not in seen:
            seen.add(id(param))
            yield place, param
