"""Where a number of an operation came from: the hyperparameters, and the arithmetic on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from optimlab.core.scalar import Scalars, SymbolicScalar, is_symbolic
from optimlab.lab.record.writing import leaves
from optimlab.rule import Rule


@dataclass(frozen=True)
class Provenance:
    """Texts for numbers, such as ``1 - beta1`` for 0.1: in an operation of a name, and anywhere."""

    by_operation: Mapping[tuple[str, float], str] = field(default_factory=dict)
    anywhere: Mapping[float, str] = field(default_factory=dict)

    def of(self, operation: str, number: Any) -> str:
        """Return the text of a number, ``""`` where none is known."""
        if isinstance(number, bool) or not isinstance(number, int | float):
            return ""
        exact = self.by_operation.get((operation.strip("_"), float(number)))
        return exact if exact is not None else self.anywhere.get(float(number), "")


def provenance(optimizer: Optimizer) -> dict[int, Provenance]:
    """Find the texts for the coming step, by the number of the parameter.

    For optimlab's optimizers they are those of the program of the step, with the arithmetic that
    the rule did. Of any other optimizer only the hyperparameters are known, and a number is named
    by one that it equals, or that it is the negative or the complement to 1 of.
    """
    found: dict[int, Provenance] = {}
    for index, group in enumerate(optimizer.param_groups):
        texts = _of_group(optimizer, index)
        found.update({len(found) + i: texts for i in range(len(group["params"]))})
    return found


def _of_group(optimizer: Optimizer, index: int) -> Provenance:
    scalars = list(_scalars(optimizer, index))
    by_operation = {(name.strip("_"), float(x.value)): x.text for name, x in scalars}
    anywhere = {float(x.value): x.text for _, x in scalars}
    return Provenance(by_operation, anywhere or _equal_numbers(optimizer.param_groups[index]))


def _scalars(optimizer: Optimizer, index: int) -> Iterator[tuple[str, SymbolicScalar]]:
    if not isinstance(optimizer, Rule):
        return
    try:
        program = optimizer.program(index)
    except (AttributeError, TypeError, NotImplementedError):
        return  # a rule that computes with what cannot be written down
    for instruction in program.instructions:
        for scalar in (*instruction.operands, *instruction.keywords.values()):
            if is_symbolic(scalar):
                yield instruction.operation.replace("divide_", "div"), scalar


def _equal_numbers(group: dict[str, Any]) -> dict[float, str]:
    named: list[Any] = list(leaves(SymbolicScalar, Scalars().group(group).values()))
    numbers = [*named, *(-x for x in named), *(1 - x for x in named)]
    texts = {float(x.value): x.text for x in reversed(numbers)}  # the first that equals it
    return {number: text for number, text in texts.items() if number not in (0.0, 1.0)}
