"""What programs are drawn from: parameters, gradients, and the options of the parity table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from beside import Options
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from optimlab.lab.lockstep.scenario import laid_out
from optimlab.lab.parity.table import IMPLEMENTATIONS, TABLE, Row
from random_programs.statements import (
    ALONE,
    CHANGES,
    DAMAGE,
    DETOURS,
    FAULTS,
    ODD,
    ODD_BETAS,
    UNFUSED,
)

Made: TypeAlias = tuple[str, Options]
"""Name and options of an optimizer."""

SHAPES = ((3,), (), (1,), (0,), (17,), (33,), (4, 3), (4, 3), (2, 3, 2, 2))
DTYPES = (
    (torch.float32,),
    (torch.float32,),
    (torch.float64,),
    (torch.bfloat16,),
    (torch.float16,),
    (torch.complex64,),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.complex64, torch.float64, torch.float16),
)
LAYOUTS = ("contiguous", "contiguous", "every second", "transposed", "channels last")
KINDS = (
    *("contiguous",) * 8,
    *(None, None, "every second", "transposed", "transposed", "channels last"),
    *("sparse", "infinite"),
    *("shared", "nowhere", "of another dtype"),
)
"""How a gradient is; ``None`` is none."""

WAYS = (
    *("as it is", "copied", "through a file", "into this instance", "of ours", "of theirs"),
    *("deepcopy", "pickle", "in float32", "in float64", "in bfloat16"),
)
"""To resume."""


def _settings(row: Row) -> list[Options]:
    """Return options that may be given together, as the parity table has them."""
    single = [{key: value} for key, values in row.grid.items() for value in values]
    return [{}, {"lr": 0.1}, {"lr": 0.3}, *single, *single, dict(row.many), *map(dict, row.more)]


def _made(row: Row) -> SearchStrategy[Made]:
    ways = [dict(IMPLEMENTATIONS[name]) for name in row.implementations]
    # As often as all others: what the kernel serves, and what is used most.
    ways = [{"foreach": False}, *[{}] * len(ways), *ways]
    settings = st.lists(st.sampled_from(_settings(row)), max_size=3)
    return st.tuples(st.just(row.name), st.builds(_joined, st.sampled_from(ways), settings))


def _joined(way: Options, settings: list[Options]) -> Options:
    return {name: value for each in (way, *settings) for name, value in each.items()}


def _entries(row: Row) -> list[tuple[str, Any]]:
    """Return options and values that they may be changed to; half of them are torch's defaults."""
    ways = [IMPLEMENTATIONS[way] for way in row.implementations]
    changed = [item for each in (*row.overrides, *_settings(row), *ways) for item in each.items()]
    return changed + list(_DEFAULTS[row.name].items()) * 2


def _odd(row: Row) -> list[str]:
    """Return statements that give a group what it should not have, or take away what it has."""
    values: dict[str, Sequence[str]] = {
        name: ODD for name, value in _DEFAULTS[row.name].items() if value not in (None, False)
    }
    if "betas" in values:
        values["betas"] = (*ODD_BETAS, *(f"({each}, 0.9)" for each in ODD))
    gone = [f"group.pop({name!r}, None)" for name in _DEFAULTS[row.name]]
    return gone + [f"group[{name!r}] = {each}" for name in values for each in values[name]]


_LEAST_DIMENSIONS = {"transposed": 2, "channels last": 4}
_DEFAULTS: dict[str, Options] = {
    row.name: getattr(torch.optim, row.name)([torch.ones(1)]).defaults for row in TABLE
}

made = st.one_of([_made(row) for row in TABLE])
made_anew = made | st.sampled_from(
    [(row.name, dict(options)) for row in TABLE for options in row.refused]
)
# Of all optimizers: what is another's is to be ignored.
of_groups: SearchStrategy[Options] = st.sampled_from(
    [{}] * 40 + [dict(options) for row in TABLE for options in (*row.overrides, *_settings(row))]
)
entries = st.sampled_from([entry for row in TABLE for entry in _entries(row)])
detours = st.sampled_from(DETOURS + UNFUSED) | st.sampled_from(
    sorted({statement for row in TABLE for statement in _odd(row)})
)
seeds = st.integers(0, 99)
places = st.integers(0, 5)
times = st.integers(1, 4)
gradients = st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)
tensors: dict[str, SearchStrategy[Any]] = {
    "shapes": st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5),
    "dtypes": st.sampled_from(DTYPES),
    "layouts": st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=2),
}
given: dict[str, SearchStrategy[Any]] = {"at": places, "gradients": gradients, "seed": seeds}
changes = st.sampled_from(CHANGES)
statements = st.sampled_from(CHANGES + ALONE)
damages = st.sampled_from(DAMAGE)
faults = st.sampled_from(list(FAULTS))


@cache
def numbers(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return numbers over many powers of two, with a few zeros; of seed 0 all ones."""
    if seed == 0:
        return torch.ones(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    size = (*shape, 2) if dtype.is_complex else shape
    lowest, highest = (-5, 5) if dtype is torch.float16 else (-20, 10)
    mantissa = torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1
    mantissa[torch.rand(size, generator=generator) < 1 / 16] = 0
    drawn = torch.ldexp(mantissa, torch.randint(lowest, highest, size, generator=generator))
    return (torch.view_as_complex(drawn) if dtype.is_complex else drawn).to(dtype)


def tensor_of(kind: str, seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make a parameter or a gradient of one of the layouts or kinds."""
    values = numbers(seed, shape, dtype)
    if kind == "sparse":
        if not values.numel() or not values.dim():
            return values.to_sparse()
        rows = torch.tensor([[0, 0] if seed % 2 else [0]])  # twice the same, every now and then
        first = values[:1].repeat(rows.shape[1], *[1] * (len(shape) - 1))
        return torch.sparse_coo_tensor(rows, first, shape, check_invariants=False)
    if kind == "nowhere":
        return torch._efficientzerotensor(shape, dtype=dtype)
    if len(shape) < _LEAST_DIMENSIONS.get(kind, 0):
        kind = "contiguous"
    if kind == "infinite":
        values = values.clone()
        values.view(-1)[-1:] = (float("inf"), float("-inf"), float("nan"))[seed % 3]
        kind = "contiguous"
    return laid_out(values, kind)  # type: ignore[arg-type]
