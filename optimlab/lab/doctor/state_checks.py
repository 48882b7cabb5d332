"""What can be wrong with an optimizer's groups and state without looking at anything else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.doctor import aliasing, precision
from optimlab.lab.doctor.author import MOMENTS, rule_of
from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.hyperparameters import check_group, is_number, number
from optimlab.lab.findings import Finding, error, listed, note, warning

HALF = (torch.float16, torch.bfloat16)
_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf")
_COUNTS_TO: dict[Any, int] = {torch.float16: 2048, torch.bfloat16: 256}


def examine(one: Checkpoint) -> Iterator[Finding]:
    """Look for what no optimizer leaves behind, or should not go on from; nothing is changed."""
    yield from one.beside
    for index, group in enumerate(one.groups):
        known = () if one.live is None else one.live.defaults
        yield from check_group(group, f"{one.name}, group {index}", known)
    yield from _numbering(one)
    yield from _completeness(one)
    yield from _steps(one)
    for place, key, tensor in one.tensors():
        if tensor.device.type == "meta":
            what = "is on the meta device, which holds no numbers"
            yield error("empty", _where(one, place, key), what, "save it from where it has some.")
        elif tensor.layout is torch.strided and (tensor.is_floating_point() or tensor.is_complex()):
            yield from _values(_where(one, place, key), key.rpartition(".")[2], tensor)
    yield from _shapes(one)
    for here, group in zip(one.ranges, one.groups, strict=True):
        for place in here:
            yield from precision.check_squares(one, place, group)
    if one.live is not None:
        yield from precision.check_live(one)
    yield from aliasing.check_within(one)


def has_stepped(one: Checkpoint) -> bool:
    """Tell whether there is state, other than what some optimizers make when they are made."""
    steps = [one.held(place).get("step") for place in one.places.values()]
    counts = [number(step) for step in steps if is_number(step)]
    return bool(one.state) and (not counts or any(counts))


def _where(one: Checkpoint, place: int, key: str) -> str:
    return f"{one.name}: {key} of {one.parameter(place)}"


def _numbering(one: Checkpoint) -> Iterator[Finding]:
    counts = Counter(one.numbers)
    twice = [number for number, count in counts.items() if count > 1]
    if twice:
        yield error(
            "duplicate",
            one.name,
            f"number {listed(twice)} stands for more than one parameter: some parameter was given "
            "twice, which torch only warns of; it is updated twice in every step, and its state "
            "goes to the last of the places on loading",
            "give every parameter once: dict.fromkeys(params) keeps the order and drops repeats.",
        )
    doubled = [name for name, count in Counter(one.names).items() if count > 1]
    if doubled and not twice:
        what = f"{listed(doubled)} names more than one parameter"
        yield warning("names", one.name, what, "give each parameter its own name.")
    orphans = [key for key in one.state if key not in counts]
    if orphans:
        what = f"there is state for {listed([*map(_short, orphans)])}, in no group"
        advice = "torch keeps it and never reads it; drop it, or find out where its parameter went."
        yield warning("orphan state", one.name, what, advice)


def _short(key: Any) -> str:
    return f"a tensor of shape {tuple(key.shape)}" if isinstance(key, Tensor) else repr(key)


def _completeness(one: Checkpoint) -> Iterator[Finding]:
    """What most parameters of a group have is what the others should have."""
    for here in one.ranges:
        keys = {place: frozenset(held) for place in here if (held := one.held(place))}
        if not keys:
            continue
        without = [place for place in here if place not in keys]
        if without and not (list(keys) == [here.start] and not keys[here.start] & MOMENTS):
            what = f"{one.parameters(without)}: no state, where {len(keys)} of the group have one"
            advice = "fine, if they never had a gradient; otherwise their moments are lost and "
            advice += "start from zero without an error."
            yield warning("missing state", one.name, what, advice)
        [(usual, _)] = Counter(keys.values()).most_common(1)
        for place, found in keys.items():
            # Factored, mixed and 8-bit state differs from parameter to parameter, and should.
            if found < usual and (usual - found) & (MOMENTS | {"step"}):
                where = f"{one.name}: {one.parameter(place)}"
                what = f"has no {listed(sorted(usual - found))}, which the others of its group have"
                advice = "take it from an earlier checkpoint, or drop this parameter's whole state."
                yield error("missing key", where, what, advice)


def _steps(one: Checkpoint) -> Iterator[Finding]:
    uncounted = [
        place
        for place in one.places.values()
        if {"exp_avg", "exp_avg_sq"} <= (held := one.held(place)).keys()
        and not any(key.rpartition(".")[2] == "step" for key in held)
    ]
    if uncounted and not any("step" in group for group in one.groups):
        what = f"{one.parameters(uncounted)}: moments without a step count"
        advice = "torch refuses to load it, or bias correction starts anew: add the right step."
        yield warning("step", one.name, what, advice)
    steps = {p: step for p in one.places.values() if (step := one.held(p).get("step")) is not None}
    rule = None if one.live is None else rule_of(one.live)
    needs_tensors = rule is not None and rule.state_spec.count is not None
    counts = {place: number(step) if is_number(step) else math.nan for place, step in steps.items()}
    for place, step in steps.items():
        where = _where(one, place, "step")
        if not (counts[place].is_integer() and counts[place] >= 0):
            what = f"{counts[place]:g} is no number of steps"
            yield error("step", where, what, "bias correction needs it.")
        if not isinstance(step, Tensor) and needs_tensors:
            what = f"is the number {counts[place]:g}, and no tensor: the next step raises an error"
            yield error("step", where, what, "make it one: torch.tensor(float(step)).")
        elif not isinstance(step, Tensor):
            what = "is a plain number, as torch before 1.12 wrote it"
            yield note("step", where, what, "torch turns it into a tensor on loading.")
        elif step.dtype in _COUNTS_TO:
            what = f"is {step.dtype}, which cannot count beyond {_COUNTS_TO[step.dtype]}"
            yield error("step", where, what, "make it float32: --repair does.")
    (most, _), *others = Counter(counts.values()).most_common() or [(0.0, 0)]
    if others and all(count.is_integer() and count >= 0 for count in counts.values()):
        rest = listed([f"{count:g}" for count, _ in others])
        what = f"not all the same: most are {most:g}, others {rest}"
        advice = "fine, if some parameters had gradients less often, or were added later."
        yield note("step", one.name, what, advice)


def _values(where: str, name: str, tensor: Tensor) -> Iterator[Finding]:
    if tensor.numel() == 0 and name != "step":
        what = f"has no element: shape {tuple(tensor.shape)}"
        yield note("empty", where, what, "fine, if its parameter has none either.")
        return
    bad = ~tensor.isfinite()
    if bad.any():
        what = f"{int(bad.sum())} of {tensor.numel()} elements are NaN or infinite, the first "
        what += _first(bad, tensor)
        advice = "go back to an earlier checkpoint: no later step makes them finite again."
        yield error("not finite", where, what, advice)
    if name in _SQUARES and not tensor.is_complex() and (tensor < 0).any():
        what = f"is a mean of squares, and negative {_first(tensor < 0, tensor)}"
        advice = "its root is not a number: go back to an earlier checkpoint."
        yield error("negative", where, what, advice)
    if tensor.dtype in HALF and name != "step":
        say = warning if name in _SQUARES else note
        advice = (
            "a moment changes by a small share of itself in each step, which bfloat16 rounds "
            "away, and float16 where the moment is tiny; --repair makes it float32, from a "
            "reference that has it, or as it is."
        )
        yield say("half precision", where, f"is {tensor.dtype}", advice)


def _first(wrong: Tensor, tensor: Tensor) -> str:
    element = wrong.nonzero()[0].tolist()
    return f"at {element}: {tensor[tuple(element)].item()}"


def _shapes(one: Checkpoint) -> Iterator[Finding]:
    """All moments of a parameter, but for the factored ones, have its shape."""
    for place in range(len(one.numbers)):
        tensors = {k: t for k, t in one.held(place).items() if isinstance(t, Tensor)}
        shapes = {key: tuple(t.shape) for key, t in tensors.items() if key in MOMENTS}
        if one.params:
            shapes["the parameter"] = tuple(one.params[place].shape)
        if len(set(shapes.values())) > 1:
            what = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            advice = "it is the state of another parameter, or of one that has changed since."
            where = f"{one.name}: {one.parameter(place)}"
            yield error("shape", where, f"shapes differ: {what}", advice)
        if _is_less(tensors.get("max_exp_avg_sq"), tensors.get("exp_avg_sq")):
            where = _where(one, place, "max_exp_avg_sq")
            what = "is less than exp_avg_sq, whose largest value it is"
            advice = "it is not of this step; take both from one checkpoint."
            yield error("inconsistent", where, what, advice)


def _is_less(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape or one.is_complex():
        return False
    return one.device.type != "meta" and bool((one < other.to(one)).any())
