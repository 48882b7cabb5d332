"""Where two recorded steps part: the operation that makes the first bits of one side alone.

Two optimizers may spell one arithmetic differently: in another order, with a temporary more, with
views, with lists. So operations are not compared by name or place but by what they result in. A
result is *common* if the other step has it, too: for one of the optimizer's own tensors (``param``,
``grad``, state) the same bits under the same name, for a temporary the same bits anywhere; what
both held before the step is common. From every tensor of the optimizer that ends different,
:func:`divergence` goes back through the operations that it was computed from, for as long as their
results are not common. The earliest operation that it reaches is where that step leaves the other:
the first whose result the other never has, and which matters for a tensor that ends different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from optimlab.lab.compare.bits import as_integers
from optimlab.lab.record.writing import Operation, Value

Digest: TypeAlias = tuple[torch.dtype, bytes]

# Such an operation makes a tensor without computing with another's elements.
_MAKES = {"zeros", "zeros_like", "empty", "empty_like", "lift_fresh", "new_zeros", "new_empty"}
_MAKES |= {"ones", "ones_like", "full", "full_like", "zero_", "fill_", "scalar_tensor", "new_full"}


@dataclass(frozen=True)
class Divergence:
    """The operations at which two steps part, ``None`` where a side has none.

    Attributes:
        ours: of the first step.
        theirs: of the second.
    """

    ours: Operation | None
    theirs: Operation | None


def digest(tensor: Tensor) -> Digest:
    """Summarise dtype and bits of a tensor, elements in order of their indices, all NaN alike."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    if real.is_floating_point():
        real = real.masked_fill(real.isnan(), float("nan"))
    integers = as_integers(real).contiguous().cpu()
    return real.dtype, hashlib.blake2b(integers.numpy().tobytes(), digest_size=16).digest()


class Steps:
    """The operations of a step on one parameter, and the results that they have.

    Args:
        operations: all operations of the step, recorded with copies of the tensors.
        parameter: number of the parameter.
        outputs: names of the optimizer's tensors that end different.
    """

    def __init__(
        self, operations: Sequence[Operation], parameter: int, outputs: Iterable[str]
    ) -> None:
        self.all = {operation.number: operation for operation in operations}
        self.operations = [
            operation for operation in operations if operation.parameter in (parameter, None)
        ]
        self.outputs = set(outputs)
        self.named: set[tuple[str, Digest]] = set()
        self.anywhere: set[Digest] = set()
        for operation in self.operations:
            for value in (*operation.operands, *operation.results):
                self.anywhere.add(digest(value.kept))
                self.named.add((value.label, digest(value.kept)))

    def has(self, value: Value) -> bool:
        """Tell whether a result of the other step occurs here."""
        if value.label:
            return (value.label, digest(value.kept)) in self.named
        return digest(value.kept) in self.anywhere

    def computing(self) -> list[Operation]:
        """Return the operations on the parameter's numbers: no views, nothing only made."""
        return [o for o in self.operations if o.parameter is not None and _is_computing(o)]

    def root(self, other: Steps) -> Operation | None:
        """Find where this step leaves another one."""
        ends = [self._last(label) for label in self.outputs]
        waiting = [end for end in ends if end is not None and not other._has_all(end)]
        reached: dict[int, Operation] = {}
        while waiting:
            operation = waiting.pop()
            if operation.number in reached:
                continue
            reached[operation.number] = operation
            for value in operation.operands:
                source = None if value.source is None else self.all[value.source]
                if source is not None and not other._has_all(source):
                    waiting.append(source)
        computing = [number for number, each in reached.items() if _is_computing(each)]
        return reached[min(computing or reached)] if reached else None

    def _has_all(self, operation: Operation) -> bool:
        return all(self.has(value) for value in operation.results)

    def place_of(self, label: str) -> int:
        """Return when one of the optimizer's tensors is written last."""
        last = self._last(label)
        return -1 if last is None else last.number

    def _last(self, label: str) -> Operation | None:
        writers = [o for o in self.operations if any(v.label == label for v in o.results)]
        return writers[-1] if writers else None

    def with_result(self, value: Value) -> list[Operation]:
        """Find the operations that compute the bits of a value."""
        wanted = digest(value.kept)
        return [o for o in self.computing() if any(digest(v.kept) == wanted for v in o.results)]


def _is_computing(operation: Operation) -> bool:
    return operation.computes and operation.name not in _MAKES


def divergence(ours: Steps, theirs: Steps) -> Divergence:
    """Find where two steps part, one operation on each side.

    A side that has nothing which the other lacks is represented by the operation that results in
    the other's bits, though not in the same place, if there is one.
    """
    left, right = ours.root(theirs), theirs.root(ours)
    if right is None and left is not None:
        right = _elsewhere(left, ours, theirs)
    elif left is None and right is not None:
        left = _elsewhere(right, theirs, ours)
    return Divergence(left, right)


def _elsewhere(operation: Operation, own: Steps, other: Steps) -> Operation | None:
    """Find the operation that does on the other side what an operation does here, apart from it.

    Bits that are the same in all elements, such as zeros, do not tell that it is the same result.
    """
    value = operation.target
    if value is None or _is_constant(value.kept):
        return None
    labels = {
        result.label
        for each in own.with_result(value)
        for result in each.results
        if each is not operation
    }
    found = other.with_result(value)
    return next((o for o in found if not labels & {v.label for v in o.results}), None)


def _is_constant(tensor: Tensor) -> bool:
    if tensor.numel() > 1:
        return bool((tensor == tensor.flatten()[0]).all())
    return bool(((tensor == 0) | (tensor == 1)).all())
