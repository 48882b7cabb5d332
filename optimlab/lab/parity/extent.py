"""How far a check went: what was tried at most, and of each hyperparameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optimlab.lab.parity.case_result import CaseResult
from optimlab.lab.parity.configurations import printed


@dataclass(frozen=True)
class Extent:
    """The longest, largest and most of what was compared.

    Attributes:
        steps: of the longest run.
        elements: of the largest tensor.
        dimensions: of the tensor that has most.
        tensors: of the configuration that has most.
        groups: of the configuration that has most.
        hyperparameters: what each was beside its default, in words.
    """

    steps: int
    elements: int
    dimensions: int
    tensors: int
    groups: int
    hyperparameters: dict[str, str]

    def lines(self) -> Iterator[str]:
        """Say it in sentences."""
        yield (
            f"At most {self.steps} steps in a configuration; the largest tensor has "
            f"{self.elements:,} elements."
        )
        yield f"At most {self.tensors} tensors, {self.groups} groups, {self.dimensions} dimensions."
        if self.hyperparameters:
            values = "; ".join(f"{name} {text}" for name, text in self.hyperparameters.items())
            yield f"Beside the defaults: {values}."


def extent(compared: Sequence[CaseResult]) -> Extent:
    """Measure how far some configurations go."""
    ran = [each.configuration.scenario for each in compared]
    specs = [spec for each in ran for spec in each.tensors]
    found: dict[str, list[Any]] = {}
    for name, value in _values(compared):
        found.setdefault(name, []).append(value)
    return Extent(
        steps=max((each.steps for each in ran), default=0),
        elements=max((torch.Size(spec.shape).numel() for spec in specs), default=0),
        dimensions=max((len(spec.shape) for spec in specs), default=0),
        tensors=max((len(each.tensors) for each in ran), default=0),
        groups=max((len({spec.group for spec in each.tensors}) for each in ran), default=0),
        hyperparameters={name: _range(values) for name, values in sorted(found.items())},
    )


def _values(compared: Sequence[CaseResult]) -> Iterator[tuple[str, Any]]:
    for each in compared:
        yield from each.configuration.options.items()
        for call in each.configuration.scenario.calls:
            if call.name == "set_option":
                name, value = call.arguments
                yield name, value


def _range(values: Sequence[Any]) -> str:
    plain = [value for value in values if type(value) in (int, float)]
    others = sorted({printed(value) for value in values if type(value) not in (int, float)})
    if not plain:
        return ", ".join(others)
    ends = dict.fromkeys((f"{min(plain):g}", f"{max(plain):g}"))
    return ", ".join([" to ".join(ends), *others])
