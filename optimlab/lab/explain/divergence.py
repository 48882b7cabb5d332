"""Where two recorded steps diverge: the operation that makes the first bits of one side alone.

Operations are matched by their results, as :func:`optimlab.explain` says: from every tensor of the
optimizer that ends different, :func:`divergence` goes back through the operations that it was
computed from, for as long as the other step does not have their results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from optimlab.lab.record.registers import Value
from optimlab.lab.record.writing import Operation

# Such an operation makes a tensor without computing with another's elements.
_MAKES = {"zeros", "zeros_like", "empty", "empty_like", "lift_fresh", "new_zeros", "new_empty"}
_MAKES |= {"ones", "ones_like", "full", "full_like", "zero_", "fill_", "scalar_tensor", "new_full"}


class RecordedStep:
    """The operations of a step on one parameter, of which some ``outputs`` end different."""

    def __init__(
        self, operations: Sequence[Operation], parameter: int, outputs: Iterable[str]
    ) -> None:
        self.all = {operation.number: operation for operation in operations}
        self.operations = [each for each in operations if each.parameter in (parameter, None)]
        self.outputs = set(outputs)
        values = [v for each in self.operations for v in (*each.operands, *each.results)]
        self.named = {(value.label, value.digest) for value in values}
        self.anywhere = {value.digest for value in values}
        reads = [each for each in self.operations if isinstance(each.returned, float)]
        # Numbers that were read from tensors, each with the first of these.
        self.read = {each.returned: each.operands[0] for each in reversed(reads)}

    def has(self, value: Value) -> bool:
        """Tell whether a result of the other step occurs here."""
        if value.label:
            return (value.label, value.digest) in self.named
        return value.digest in self.anywhere

    def has_all(self, operation: Operation) -> bool:
        """Tell whether all results of an operation of the other step occur here."""
        return all(map(self.has, operation.results))

    def computing(self) -> list[Operation]:
        """Return the operations on the parameter's numbers: no views, nothing only made."""
        return [o for o in self.operations if o.parameter is not None and _is_computing(o)]

    def with_result(self, value: Value) -> list[Operation]:
        """Return the operations that compute the bits of a value."""
        return [o for o in self.computing() if any(v.digest == value.digest for v in o.results)]

    def end_of(self, label: str) -> tuple[Operation, Value] | None:
        """Return what one of the optimizer's tensors is at the end, and what returns it last."""
        ends = [(o, v) for o in self.operations for v in o.results if v.label == label]
        return ends[-1] if ends else None

    def end_place(self, label: str) -> int:
        """Return the place of the operation that returns one of the optimizer's tensors last."""
        end = self.end_of(label)
        return -1 if end is None else end[0].number

    def root(self, other: RecordedStep) -> Operation | None:
        """Find where this step leaves another one."""
        ends = [end[0] for label in self.outputs if (end := self.end_of(label))]
        waiting = [end for end in ends if not other.has_all(end)]
        reached: dict[int, Operation] = {}
        while waiting:
            operation = waiting.pop()
            if operation.number not in reached:
                reached[operation.number] = operation
                sources = [self.all[v.source] for v in operation.operands if v.source is not None]
                waiting += [source for source in sources if not other.has_all(source)]
        computing = [number for number, each in reached.items() if _is_computing(each)]
        return reached[min(computing or reached)] if reached else None


@dataclass(frozen=True)
class Side:
    """One of two steps, and the operation at which it leaves the other, if it does."""

    name: str
    step: RecordedStep
    operation: Operation | None


@dataclass(frozen=True)
class Divergence:
    """The operations at which two steps diverge."""

    a: Side
    b: Side
    gradient_missing: bool = False

    @property
    def both_ways(self) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
        """Each side with the other."""
        return (self.a, self.b), (self.b, self.a)

    @property
    def operations(self) -> tuple[Operation | None, Operation | None]:
        """The operations of both sides."""
        return self.a.operation, self.b.operation


def divergence(
    names: tuple[str, str], a: RecordedStep, b: RecordedStep, *, gradient_missing: bool = False
) -> Divergence:
    """Find where two steps diverge, one operation on each side.

    A side that has nothing which the other lacks is represented by the operation that results in
    the other's bits, though not in the same place, if there is one.
    """
    left, right = a.root(b), b.root(a)
    if right is None and left is not None:
        right = _elsewhere(left, a, b)
    elif left is None and right is not None:
        left = _elsewhere(right, b, a)
    return Divergence(Side(names[0], a, left), Side(names[1], b, right), gradient_missing)


def _elsewhere(operation: Operation, own: RecordedStep, other: RecordedStep) -> Operation | None:
    """Find the operation that does on the other side what an operation does here, apart from it.

    Bits that are the same in all elements, such as zeros, do not tell that it is the same result.
    """
    value = operation.target
    if value is None or _is_constant(value.kept):
        return None
    others = [each for each in own.with_result(value) if each is not operation]
    labels = {result.label for each in others for result in each.results}
    found = other.with_result(value)
    return next((o for o in found if not labels & {v.label for v in o.results}), None)


def _is_computing(operation: Operation) -> bool:
    return operation.computes and operation.name not in _MAKES


def _is_constant(tensor: Tensor) -> bool:
    if tensor.numel() > 1:
        return bool((tensor == tensor.flatten()[0]).all())
    return bool(((tensor == 0) | (tensor == 1)).all())
