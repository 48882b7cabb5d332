"""The cases that the table stands for: which exist, what each is called, and how it is run."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.lockstep import compare
from optimlab.lab.lockstep.outcome import Outcome
from optimlab.lab.lockstep.scenario import Resume, Scenario, TensorSpec
from optimlab.lab.parity.table import (
    DTYPES,
    EXCLUSIONS,
    IMPLEMENTATIONS,
    MIXED_FUSED,
    TABLE,
    Exclusion,
    Options,
    Row,
)

T = TypeVar("T")

#: How much is compared: a few options in two dtypes; every combination of options with each
#: implementation and dtype, in fewer steps; the same over more tensors, with further settings in
#: every dtype too.
Extent: TypeAlias = Literal["quick", "tests", "full"]


@dataclass(frozen=True)
class Circumstance:
    """What a case may have besides its options.

    Attributes:
        dtypes: names of the columns in which it is compared.
        changes: fields of the scenario that it sets.
        elements: the size of one more tensor, 0 for none. It is what several threads share.
    """

    dtypes: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    elements: int = 0


CIRCUMSTANCES: Mapping[str, Circumstance] = MappingProxyType(
    {
        "sparse gradients": Circumstance(("float32",), {"sparse": True}),
        "scaled gradients": Circumstance(("bfloat16", "float32"), {"unscale": True}),
        "float64 by default": Circumstance(("float32",), {"default_dtype": torch.float64}),
        "32769 elements": Circumstance(
            ("bfloat16", "float32", "float64"), {"threads": None}, elements=32_769
        ),
        "300001 elements": Circumstance(("float32",), {"threads": None}, elements=300_001),
    }
)

# Around the widths of vector registers.
EDGE_SIZES = (0, 1, 7, 8, 15, 16, 17, 31, 33, 1023)

_QUICK_DTYPES = ("bfloat16", "float32")
_TESTED_DTYPES = ("bfloat16", "float32", "complex64")
_RESUMPTIONS: tuple[Resume, ...] = ("no", "from own checkpoint", "from the other's checkpoint")


@dataclass(frozen=True)
class Case:
    """One comparison of the table.

    Attributes:
        row: the optimizer.
        implementation: how a step is carried out.
        dtype: name of the column.
        options: hyperparameters and flags beside the implementation's own.
        circumstance: key of :data:`CIRCUMSTANCES`, or empty.
        scenario: what both sides are put through.
    """

    row: Row
    implementation: str
    dtype: str
    options: Options
    circumstance: str
    scenario: Scenario

    def __str__(self) -> str:
        words = [self.row.name, self.implementation, self.dtype, self.scenario.device]
        words += [f"{name}={_short(value)}" for name, value in self.options.items()]
        return "-".join([*words, self.circumstance] if self.circumstance else words)

    def run(self) -> Outcome:
        """Compare both classes of the row in this configuration."""
        return compare(
            partial(self._make, self.row.ours), partial(self._make, self.row.theirs), self.scenario
        )

    def _make(self, optimizer: type[Optimizer], params: list[dict[str, Any]]) -> Optimizer:
        options = {**IMPLEMENTATIONS[self.implementation], **self.options}
        return optimizer(params, **{name: clone(value) for name, value in options.items()})


def cases(
    extent: Extent = "full",
    *,
    optimizers: Collection[str] = (),
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Case]:
    """Yield the cases of the table, without what is excluded.

    Args:
        extent: how much.
        optimizers: names of rows; all of them if empty.
        device: ``"cpu"`` or ``"cuda"``.
        seed: goes into the seed of every case.
    """
    for row in TABLE:
        if optimizers and row.name not in optimizers:
            continue
        for implementation, dtype in itertools.product(row.implementations, DTYPES):
            if excluded(row.name, implementation, dtype, device):
                continue
            for options, circumstance in _settings(row, implementation, dtype, extent, device):
                case = Case(row, implementation, dtype, options, circumstance, Scenario())
                yield replace(case, scenario=_scenario(case, extent, device, seed))


def excluded(optimizer: str, implementation: str, dtype: str, device: str) -> Exclusion | None:
    """Return what excludes a cell of the table, if anything does."""
    for exclusion in EXCLUSIONS:
        place = (exclusion.optimizer, exclusion.implementation, exclusion.device)
        if place == (optimizer, implementation, device) and dtype in exclusion.dtypes:
            return exclusion if exclusion.applies else None
    return None


def _settings(
    row: Row, implementation: str, dtype: str, extent: Extent, device: str
) -> Iterator[tuple[Options, str]]:
    """Yield the options and circumstances to compare in one dtype."""
    if extent == "quick":
        if dtype in _QUICK_DTYPES:
            yield from ((options, "") for options in _one_at_a_time(row))
        return
    yield from ((options, "") for options in _combinations(row))
    if extent == "full" or dtype in _TESTED_DTYPES:
        yield from ((options, "") for options in _on_devices(row.more, device))
    if dtype == "float32" and implementation == "default":
        yield from ((options, "") for options in _on_devices(row.refused, device))
    for circumstance in _circumstances(implementation, dtype):
        large = CIRCUMSTANCES[circumstance].elements > 0
        chosen = (row.many,) if large else _one_at_a_time(row)
        yield from ((options, circumstance) for options in chosen)


def _circumstances(implementation: str, dtype: str) -> Iterator[str]:
    for name, circumstance in CIRCUMSTANCES.items():
        # Autograd keeps every intermediate result of 20 steps: gigabytes, if they are large.
        too_large = circumstance.elements > 0 and implementation == "differentiable"
        if dtype in circumstance.dtypes and not too_large:
            yield name


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


def _scenario(case: Case, extent: Extent, device: str, seed: int) -> Scenario:
    """Give each case its own mixture of tensors and events, by a number made of its name.

    All of them in each case would cost minutes; this way every implementation in every dtype still
    meets all of them, with one combination of options or another.
    """
    variant = zlib.crc32(str(case).encode())
    differentiable = case.implementation == "differentiable"
    plain = Scenario(
        tensors=tuple(_tensors(case, variant, extent)),
        overrides=_overrides(case),
        seed=variant % 65_521 + seed * 65_537,
        # Loaded state is a leaf, which cannot be changed in place while autograd records.
        resume="no" if differentiable else _RESUMPTIONS[variant % 3],
        named=variant % 5 == 0,
        differentiable=differentiable,
        device=device,
    )
    if extent == "tests":
        # Every event, and some steps after the last. The group is added when it always is, which is
        # not at a step, every fourth one, whose scaled gradients are infinite: torch's fused kernel
        # would leave its first momentum to chance.
        plain = replace(plain, steps=12, lr_changed_at=8, resumed_at=10)
    plain = replace(plain, backward_after=(1, plain.steps) if variant % 4 == 0 else (1,))
    return (
        replace(plain, **CIRCUMSTANCES[case.circumstance].changes) if case.circumstance else plain
    )


def _overrides(case: Case) -> tuple[Options, Options]:
    """Leave a tensor ``lr`` to the second group, so that both groups share it."""
    second, third = case.row.overrides
    if isinstance(case.options.get("lr"), Tensor):
        second = {name: value for name, value in second.items() if name != "lr"}
    return second, third


def _tensors(case: Case, variant: int, extent: Extent) -> Iterator[TensorSpec]:
    fused = case.implementation == "fused"
    dtypes = MIXED_FUSED if fused and case.dtype == "mixed" else DTYPES[case.dtype]
    for index, spec in enumerate(_shapes(case, variant, extent)):
        typed = replace(spec, dtype=dtypes[index % len(dtypes)])
        too_late = spec.gradients == "late" and fused and not case.row.late_with_fused
        yield replace(typed, gradients="sometimes") if too_late else typed


_SHAPES = (
    TensorSpec((33,), gradients="sometimes"),
    TensorSpec((17,), gradients="late", group=1),
    TensorSpec((7,), group=2),
)
_SPECIAL_SHAPES = (
    TensorSpec(()),
    TensorSpec((5, 3), layout="transposed"),
    TensorSpec((3, 4), layout="every second", gradient_layout="transposed", group=2),
    TensorSpec((2, 3, 3, 5), layout="channels last", gradient_layout="channels last"),
    TensorSpec((31,), layout="every second", group=1),
    TensorSpec((4, 3), gradient_layout="transposed"),
    TensorSpec((9,), gradients="never"),
)


def _shapes(case: Case, variant: int, extent: Extent) -> Iterator[TensorSpec]:
    yield from _SHAPES
    count = {"quick": 3, "tests": 2, "full": 5}[extent]
    if case.implementation == "differentiable":  # several times as slow
        count //= 2
    yield from _some(_SPECIAL_SHAPES, count, variant)
    for size in _some(EDGE_SIZES, 1 + count // 3, variant // len(_SPECIAL_SHAPES)):
        yield TensorSpec((size,), gradients="sometimes", group=1)
    if case.circumstance == "sparse gradients":
        yield TensorSpec((6, 2), group=1)
    if case.circumstance and CIRCUMSTANCES[case.circumstance].elements:
        yield TensorSpec((CIRCUMSTANCES[case.circumstance].elements,))


def _some(choices: Sequence[T], count: int, variant: int) -> Iterator[T]:
    """Choose so many neighbours, beginning anywhere and going round."""
    return (choices[(variant + i) % len(choices)] for i in range(count))


def _short(value: Any) -> str:
    """Print an option briefly: ``tensor(0.01)``, with its dtype only if that is not float32."""
    if isinstance(value, tuple):
        return f"({','.join(map(_short, value))})"
    if not isinstance(value, Tensor):
        return repr(value).replace(" ", "")
    number = f"{value.item():g}" if value.numel() == 1 else str(value.numel()) + " numbers"
    notes = [str(value.dtype).removeprefix("torch.")] if value.dtype != torch.float32 else []
    notes += ["requires_grad"] if value.requires_grad else []
    notes += [value.device.type] if value.device.type != "cpu" else []
    bracketed = "[" * value.dim() + number + "]" * value.dim()
    return f"tensor({','.join([bracketed, *notes])})"
