"""The cases that the table stands for: which exist, what each is called, and how it is run."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from optimlab.lab.lockstep.lockstep import compare
from optimlab.lab.lockstep.outcome import Outcome
from optimlab.lab.lockstep.scenario import Resume, Scenario, TensorSpec
from optimlab.lab.parity.configurations import (
    Configuration,
    Coverage,
    Level,
    configurations,
    printed,
    typed,
)
from optimlab.lab.parity.events import TABLE_EVENTS
from optimlab.lab.parity.table import TABLE, Options, Row, excluded

T = TypeVar("T")

# Around the widths of vector registers.
EDGE_SIZES = (0, 1, 7, 8, 15, 16, 17, 31, 33, 1023)

_TESTED_DTYPES = ("bfloat16", "float32", "complex64")
_RESUMPTIONS: tuple[Resume, ...] = ("no", "from own checkpoint", "from the other's checkpoint")


@dataclass(frozen=True, kw_only=True)
class Case(Configuration):
    """One comparison of the table, of the optimizer in its row."""

    row: Row

    def __str__(self) -> str:
        words = [self.row.name, self.implementation, self.dtype, self.scenario.device]
        options = {name: printed(value) for name, value in self.options.items()}
        words += [f"{name}={value.replace(', ', ',')}" for name, value in options.items()]
        return "-".join([*words, self.event] if self.event else words)

    def run(self) -> Outcome:
        """Compare both classes of the row in this configuration."""
        ours, theirs = (partial(self.make, each, {}) for each in (self.row.ours, self.row.theirs))
        return compare(ours, theirs, self.scenario)


def cases(
    level: Level = "full",
    *,
    optimizers: Collection[str] = (),
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Case]:
    """Yield the cases of the table, without what is excluded.

    Args:
        level: how much.
        optimizers: names of rows; all of them if empty.
        device: ``"cpu"`` or ``"cuda"``.
        seed: goes into the seed of every case.
    """
    coverage = Coverage(level=level, device=device, seed=seed)
    for row in TABLE:
        if not optimizers or row.name in optimizers:
            yield from configurations(_RowPlan(row), coverage)


@dataclass(frozen=True)
class _RowPlan:
    """What is compared of a row of the table."""

    row: Row

    @property
    def implementations(self) -> tuple[str, ...]:
        return self.row.implementations

    def settings(self, way: str, dtype: str, coverage: Coverage) -> Iterator[tuple[Options, str]]:
        """Yield the options and events to compare in one dtype."""
        row, level = self.row, coverage.level
        if excluded(row.name, way, dtype, coverage.device):
            return
        chosen: list[Options] = _one_at_a_time(row) if coverage.quick else _combinations(row)
        if level == "full" or (level == "tests" and dtype in _TESTED_DTYPES):
            chosen += _on_devices(row.more, coverage.device)
        if dtype == "float32" and way == "default" and not coverage.quick:
            chosen += _on_devices(row.refused, coverage.device)
        yield from ((options, "") for options in chosen)
        for name, event in TABLE_EVENTS.items() if not coverage.quick else ():
            # Autograd keeps every intermediate result of 20 steps: gigabytes, if they are large.
            if dtype in event.dtypes and not (event.size and way == "differentiable"):
                few = (row.many,) if event.size else _one_at_a_time(row)
                yield from ((options, name) for options in few)

    def configuration(
        self, way: str, dtype: str, options: Options, event: str, coverage: Coverage
    ) -> Case:
        """Give each case its own mixture of tensors and events, by a number made of its name.

        All of them in each case would cost minutes; this way every implementation in every dtype
        still meets all of them, with one combination of options or another.
        """
        scenario = Scenario(device=coverage.device)
        case = Case(way, dtype, options, event, scenario, row=self.row)
        variant = zlib.crc32(str(case).encode())
        differentiable = way == "differentiable"
        scenario = replace(
            scenario,
            tensors=typed(_tensors(case, variant, coverage.level), way, dtype),
            overrides=_overrides(case),
            seed=variant % 65_521 + coverage.seed * 65_537,
            # Loaded state is a leaf, which cannot be changed in place while autograd records.
            resume="no" if differentiable else _RESUMPTIONS[variant % 3],
            named=variant % 5 == 0,
            differentiable=differentiable,
        )
        if coverage.level == "tests":
            # Every event, and some steps after the last. The group is added when it always is,
            # which is not at a step, every fourth one, whose scaled gradients are infinite: torch's
            # fused kernel would leave its first momentum to chance.
            scenario = replace(scenario, steps=12, lr_changed_at=8, resumed_at=10)
        after = (1, scenario.steps) if variant % 4 == 0 else (1,)
        scenario = replace(scenario, backward_after=after, **TABLE_EVENTS[event].changes)
        return replace(case, scenario=scenario)


def _combinations(row: Row) -> list[Options]:
    """Combine all values of all options of the grid, the default of each included."""
    choices = [[{}, *({name: value} for value in values)] for name, values in row.grid.items()]
    return [
        {name: value for choice in combination for name, value in choice.items()}
        for combination in itertools.product(*choices)
    ]


def _one_at_a_time(row: Row) -> list[Options]:
    """Take each option of the grid alone, none at all, and many at once."""
    return [options for options in _combinations(row) if len(options) <= 1] + [row.many]


def _on_devices(settings: Collection[Options], device: str) -> Iterator[Options]:
    """Yield settings with their tensors on the CPU and, if that is another, on the device."""
    for options in settings:
        yield options
        moved = {name: _moved(value, device) for name, value in options.items()}
        if device != "cpu" and any(moved[name] is not value for name, value in options.items()):
            yield moved


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, tuple) and any(isinstance(item, Tensor) for item in value):
        return tuple(_moved(item, device) for item in value)
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    return value


def _overrides(case: Case) -> tuple[Options, Options]:
    """Leave a tensor ``lr`` to the second group, so that both groups share it."""
    second, third = case.row.overrides
    if isinstance(case.options.get("lr"), Tensor):
        second = {name: value for name, value in second.items() if name != "lr"}
    return second, third


_TENSORS = (
    TensorSpec((33,), gradients="sometimes"),
    TensorSpec((17,), gradients="late", group=1),
    TensorSpec((7,), group=2),
)
_SPECIAL_TENSORS = (
    TensorSpec(()),
    TensorSpec((5, 3), layout="transposed"),
    TensorSpec((3, 4), layout="every second", gradient_layout="transposed", group=2),
    TensorSpec((2, 3, 3, 5), layout="channels last", gradient_layout="channels last"),
    TensorSpec((31,), layout="every second", group=1),
    TensorSpec((4, 3), gradient_layout="transposed"),
    TensorSpec((9,), gradients="never"),
)


def _tensors(case: Case, variant: int, level: Level) -> list[TensorSpec]:
    """Choose the parameters of a case."""
    count = {"quick": 3, "tests": 2, "full": 5}[level]
    if case.implementation == "differentiable":  # several times as slow
        count //= 2
    event = TABLE_EVENTS[case.event]
    sizes = _some(EDGE_SIZES, 1 + count // 3, variant // len(_SPECIAL_TENSORS))
    found = [
        *_TENSORS,
        *_some(_SPECIAL_TENSORS, count, variant),
        *(TensorSpec((size,), gradients="sometimes", group=1) for size in sizes),
        *[TensorSpec((6, 2), group=1)] * ("sparse" in event.changes),
        *[TensorSpec((event.size,))] * (event.size > 0),
    ]
    late = case.implementation != "fused" or case.row.late_with_fused
    return [
        spec if late or spec.gradients != "late" else replace(spec, gradients="sometimes")
        for spec in found
    ]


def _some(choices: Sequence[T], count: int, variant: int) -> Iterable[T]:
    """Choose so many neighbours, beginning anywhere and going round."""
    return (choices[(variant + i) % len(choices)] for i in range(count))
