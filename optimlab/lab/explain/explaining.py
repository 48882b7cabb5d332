"""Stepping two optimizers side by side until their bits differ, and then once more, recorded."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.bits import Mismatch, compare_tensors, tensor_distance
from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.explain.diagnosis import diagnosed
from optimlab.lab.explain.divergence import Divergence, RecordedStep, divergence
from optimlab.lab.explain.explanation import Cause, Explanation
from optimlab.lab.explain.rules import Held, held_by, in_the_rules_words, step_of_rule
from optimlab.lab.explain.side_by_side import lines_of, values_at
from optimlab.lab.lockstep.clone import clone_optimizer, give_gradients
from optimlab.lab.lockstep.replica import Make
from optimlab.lab.lockstep.scenario import Scenario
from optimlab.lab.record.pair import (
    GivenGradients,
    Gradients,
    Pair,
    live,
    made,
    mismatch_of,
    outputs,
)
from optimlab.lab.record.recording import Recording
from optimlab.lab.record.writing import Operation


def explain(
    a: Optimizer | Make,
    b: Optimizer | Make,
    scenario: Scenario | None = None,
    *,
    steps: int | None = None,
    gradients: GivenGradients | None = None,
    ignore_state: Collection[str] = (),
) -> Explanation:
    """Find the first operation at which two optimizers part, and what makes the difference.

    Both are stepped with the same gradients until a parameter, a tensor of its state, or a gradient
    that ``a`` was given has other bits in ``a`` than in ``b``. That step is then repeated on copies
    under a dispatch mode of torch, which records the ATen operations of both: lists of tensors, as
    in foreach implementations, tensor by tensor; a fused kernel as one operation.

    **Which operation.** Sequences may be spelt differently, so operations are matched by their
    results. A result is common if the other step has it, too: for the optimizer's own tensors the
    same bits under the same name, for a temporary the same bits anywhere. From each tensor that
    ends different the operations are followed back for as long as their results are not common; the
    earliest that is reached is where that side leaves the other. It is the first operation whose
    result the other never has and that what differs was computed from. A side without one is
    represented by the operation that has the other's bits in another place.

    **Why.** The class of cause is told by experiments: one side's operation or formula is computed
    with the other's numbers or operands, in other orders, with a product contracted or not (FMA),
    with reciprocals, with rounded numbers, in reduced precision, with an operation left out. What
    reproduces the other side's bits is named; if nothing does, that is said. Of Adam, SGD and
    RMSprop, with or without decoupled decay, variants are carried out in double precision: where
    the sides are two of them, the cause begins with what differs in the rule's words, such as "adds
    eps inside the root".

    Args:
        a: an optimizer; or a class or function that makes one from a list of parameter groups.
        b: what to compare with, of the same kind.
        scenario: what classes are put through, by default :class:`~optimlab.parity.Scenario`'s
            small network. Not for optimizers that there are already.
        steps: how many steps are made at most; by default those of the scenario, 20.
        gradients: for optimizers, the gradients of each step in the order of the parameters: a
            list of lists, or a function of the step, 1 for the first. By default the first step
            takes those that ``a``'s parameters hold, and all others are drawn as in a scenario.
        ignore_state: names of state that is not compared.

    Returns:
        Explanation: print it; it has ``equal`` and ``as_json()``. ``a`` and ``b`` are left as they
        were: optimizers are copied with their parameters and state, hooks stay behind.

    Raises:
        TypeError: if one is an optimizer and the other is not, or one cannot be copied.
        ValueError: if their parameters do not have the same shapes, or the scenario needs what
            cannot be repeated: ``differentiable`` or ``unscale``.
        NothingCompared: if no element was compared, or no parameter ever moved, on either side.

    Example:
        >>> from functools import partial
        >>> import torch, optimlab
        >>> adam = partial(torch.optim.Adam, eps=1e-8)
        >>> found = optimlab.explain(partial(optimlab.Adam, eps=1e-6), adam)
        >>> found.step, found.operation_names, found.cause.kind
        (1, ('add', 'add'), 'another scalar')
        >>> print(found.cause.text)
        Adam (a) takes 1e-06, Adam (b) 1e-08
    """
    makes = [not isinstance(each, Optimizer) for each in (a, b)]
    if makes[0] is not makes[1]:
        raise TypeError("give two optimizers, or two classes or functions that make one")
    if isinstance(a, Optimizer) and isinstance(b, Optimizer):
        if scenario is not None:
            raise ValueError("a scenario is for classes; give optimizers `steps` and `gradients`")
        pair = live(clone_optimizer(a), clone_optimizer(b), gradients)
    else:
        scenario = scenario or Scenario()
        pair = made(a, b, scenario)  # type: ignore[arg-type]
        steps = steps or scenario.steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Search(pair, ignore_state).run(steps or Scenario.steps)


class _Search:
    def __init__(self, pair: Pair, ignored: Collection[str]) -> None:
        self.pair = pair
        self.ignored = set(ignored) - {"param", "grad"}
        kinds = [type(each).__name__ for each in pair.optimizers]
        same = kinds[0] == kinds[1]
        self.names = (f"{kinds[0]} (a)", f"{kinds[1]} (b)") if same else (kinds[0], kinds[1])
        self.elements = 0
        self.moved = False
        self.alone: tuple[dict[str, None], dict[str, None]] = ({}, {})  # in order

    def run(self, steps: int) -> Explanation:
        found = next(self._different([None] * len(parameters(self.pair.optimizers[0]))), None)
        if found is not None:
            note = "explain needs two sides that start from equal bits"
            return self._unexplained(0, *found, note)
        for step in range(1, steps + 1):
            gradients = self.pair.begin(step)
            if not gradients:
                steps = step - 1
                break
            before = [clone_optimizer(each) for each in self.pair.optimizers]
            for optimizer in self.pair.optimizers:
                give_gradients(parameters(optimizer), gradients)
                optimizer.step()
            self.moved = self.moved or any(map(_has_moved, before, self.pair.optimizers))
            found = next(self._different(gradients), None)
            if found is not None:
                return self._explained(step, *found, before, gradients)
        return self._equal(steps)

    def _equal(self, steps: int) -> Explanation:
        if not (steps and self.elements):
            raise NothingCompared("no element was compared")
        if not self.moved:
            raise NothingCompared(
                f"no parameter moved on either side in {steps} steps: that all bits are the same "
                "says nothing about the two"
            )
        return Explanation(self.names, steps, self.elements, note=self._alone_text())

    def _alone_text(self) -> str:
        """Tell what only one side keeps, which is compared with nothing."""
        return "; ".join(
            f"only {name} keeps {', '.join(keys)}"
            for name, keys in zip(self.names, self.alone, strict=True)
            if keys
        )

    def _different(self, gradients: Gradients) -> Iterator[tuple[int, dict[str, Mismatch]]]:
        """Find parameters of which tensors differ, with what differs."""
        pairs = zip(*map(parameters, self.pair.optimizers), gradients, strict=True)
        for number, (ours, theirs, grad) in enumerate(pairs):
            left = outputs(self.pair.optimizers[0], ours)
            right = outputs(self.pair.optimizers[1], theirs)
            right["grad"] = grad if grad is not None else left.get("grad")
            for keys, own, other in zip(self.alone, (left, right), (right, left), strict=True):
                known = {*other, "grad", *self.ignored}
                keys.update(dict.fromkeys(name for name in own if name not in known))
            mismatches = {
                name: mismatch
                for name in left
                if name in right
                and name not in self.ignored
                and (mismatch := mismatch_of(left[name], right[name])) is not None
            }
            self.elements += sum(x.numel() for x in left.values() if isinstance(x, Tensor))
            if mismatches:
                yield number, mismatches

    def _differing(self, step: int, number: int, found: dict[str, Mismatch]) -> Explanation:
        """Say where the two differ, and not yet why."""
        return Explanation(
            self.names,
            step,
            self.elements,
            step=step,
            parameter=number,
            shape=tuple(parameters(self.pair.optimizers[0])[number].shape),
            tensors=tuple(found),
            element=next(iter(found.values())).element,
            distances={n: each.distance for n, each in found.items() if each.distance is not None},
        )

    def _unexplained(
        self, step: int, number: int, found: dict[str, Mismatch], note: str
    ) -> Explanation:
        (name, first), *_ = found.items()
        if first.what != "bits":
            note += f"; {name}: {_words(first)}"
        return replace(self._differing(step, number, found), note=note)

    def _explained(
        self,
        step: int,
        number: int,
        found: dict[str, Mismatch],
        before: list[Optimizer],
        gradients: Gradients,
    ) -> Explanation:
        start = parameters(before[1])[number].detach().clone()
        held = [held_by(each, number) for each in before]
        recorded = [_recorded(each, number, gradients) for each in before]
        ours, theirs = (outputs(each, parameters(each)[number]) for each in before)
        if not any(mismatch_of(ours[n], {**theirs, "grad": gradients[number]}[n]) for n in found):
            note = "watched as ATen operations, the step has the same bits on both sides: the "
            note += "difference is made by code that does not go through them"
            return self._unexplained(step, number, found, note)
        a, b = (RecordedStep(operations, number, found) for operations in recorded)
        found = {name: found[name] for name in sorted(found, key=a.end_place)}
        missing = gradients[number] is None
        parted = divergence(self.names, a, b, gradient_missing=missing)
        leaves = parted.operations
        differing = self._differing(step, number, found)
        element = _element(parted) or differing.element
        words = [_words(each) for each in found.values() if each.what != "bits"]
        words += ["the parameter has no gradient (None) in this step"] * missing
        return replace(
            differing,
            element=element,
            operations=(str(leaves[0] or ""), str(leaves[1] or "")),
            operation_names=(_name(leaves[0]), _name(leaves[1])),
            values=() if element is None else values_at(parted, element),
            cause=self._in_words(diagnosed(parted), step, number, held, before, gradients[number]),
            lines=lines_of(parted),
            relative_error=_relative_error(ours["param"], theirs["param"], start),
            note="; ".join([*words, *filter(None, [self._alone_text()])]),
        )

    def _in_words(
        self,
        cause: Cause,
        step: int,
        number: int,
        held: list[Held],
        after: list[Optimizer],
        grad: Tensor | None,
    ) -> Cause:
        """Add what differs in the words of the rule, where both sides compute one that is known."""
        if grad is None or not grad.is_floating_point() or grad.layout is not torch.strided:
            return cause
        sides = [
            step_of_rule(group, step, grad, start, held_by(each, number)[0], state)
            for (start, group, state), each in zip(held, after, strict=True)
        ]
        # Moments under other names match no operation of the other side: none is missing.
        given = replace(cause, kind="unknown") if all(self.alone) else cause
        worded = in_the_rules_words(given, self.names, *sides)
        return cause if worded is given else worded


def _words(mismatch: Mismatch) -> str:
    return f"{mismatch.what} {mismatch.ours} and {mismatch.theirs}"


def _has_moved(before: Optimizer, after: Optimizer) -> bool:
    pairs = zip(parameters(before), parameters(after), strict=True)
    return any(mismatch_of(was, now) is not None for was, now in pairs)


def _recorded(optimizer: Optimizer, number: int, gradients: Gradients) -> list[Operation]:
    """Repeat a step and record its operations, with copies of one parameter's tensors."""
    give_gradients(parameters(optimizer), gradients)
    recorded: list[Operation] = []

    def look(tensor: Tensor, parameter: int | None) -> Tensor:
        if parameter not in (number, None):
            return tensor.new_empty(0)
        dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
        return dense.detach().clone().resolve_neg()

    with Recording(optimizer, look, recorded.extend):
        optimizer.step()
    return recorded


def _element(found: Divergence) -> tuple[int, ...] | None:
    """Find the first element in which the results of the two operations differ."""
    ours, theirs = found.operations
    if ours is None or theirs is None or _name(ours) != _name(theirs):
        return None  # their results are two steps of two ways
    if ours.target is None or theirs.target is None:
        return None
    mismatch = compare_tensors(ours.target.kept.contiguous(), theirs.target.kept.contiguous())
    return None if mismatch is None else mismatch.element


def _relative_error(ours: Tensor, theirs: Tensor, start: Tensor) -> float | None:
    if ours.shape != theirs.shape or not ours.is_floating_point():
        return None
    ours, theirs = ours.detach(), theirs.detach()
    if ours.dtype == theirs.dtype and not tensor_distance(ours, theirs).differing:
        return None
    error = (ours.double() - theirs.double()).abs().max()
    update = (theirs.double() - start.double()).abs().max()
    return (error / update).item()


def _name(operation: Operation | None) -> str:
    return "" if operation is None else operation.name.strip("_")
