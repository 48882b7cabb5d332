"""The configurations in which any two optimizers are compared, and what both live through."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from optimlab.lab.lockstep.scenario import Scenario, TensorSpec
from optimlab.lab.parity.signatures import Factory, Shared, combinations, fullest
from optimlab.lab.parity.table import DTYPES, IMPLEMENTATIONS, MIXED_FUSED, Options


@dataclass(frozen=True)
class Configuration:
    """One way to use both optimizers.

    Attributes:
        implementation: name from :data:`~optimlab.lab.parity.table.IMPLEMENTATIONS`.
        dtype: name from :data:`~optimlab.lab.parity.table.DTYPES`.
        options: what is not left at its default.
        circumstance: name from :data:`CIRCUMSTANCES`.
        scenario: what both are put through.
    """

    implementation: str
    dtype: str
    options: Options
    circumstance: str
    scenario: Scenario = field(repr=False)

    @property
    def facts(self) -> tuple[str, ...]:
        """Say what makes up this configuration, one fact each."""
        options = (f"{name}={printed(value)}" for name, value in self.options.items())
        return (self.implementation, self.dtype, self.circumstance, *options)

    def __str__(self) -> str:
        facts = [fact for fact in self.facts if fact != PLAIN]
        return ", ".join(facts)


@dataclass(frozen=True)
class ZeroGradients(Scenario):
    """Gradients that are zero in every element, at every other step from the first on."""

    def gradients(self, step: int) -> Iterator[Tensor | None]:
        """Make the gradients of one step, in the order of the parameters."""
        for grad in super().gradients(step):
            if grad is not None and step % 2 == 1:
                yield torch.zeros_like(grad).requires_grad_(self.differentiable)
            else:
                yield grad


@dataclass(frozen=True)
class NonfiniteGradients(Scenario):
    """Gradients with an infinite element, of either sign, at some steps, and a NaN at others."""

    def gradients(self, step: int) -> Iterator[Tensor | None]:
        """Make the gradients of one step, in the order of the parameters."""
        for index, grad in enumerate(super().gradients(step)):
            value = _NOT_FINITE.get((step + index) % 6)
            if grad is None or value is None or not grad.numel():
                yield grad
                continue
            changed = grad.detach().clone()
            changed.view(-1)[(7 * step) % changed.numel()] = value
            yield changed.requires_grad_(self.differentiable)


@dataclass(frozen=True)
class Closures(Scenario):
    """Every step is given a closure, which sets the gradients and returns a loss."""


_NOT_FINITE = {3: math.inf, 4: -math.inf, 5: math.nan}
_SMALL = (TensorSpec((33,)), TensorSpec((5, 3)), TensorSpec((17, 31)))
_NONE = (
    TensorSpec((33,), gradients="sometimes"),
    TensorSpec((5, 3), gradients="late"),
    TensorSpec((7,), gradients="never"),
    TensorSpec((9,)),
)
_LAYOUTS = (
    TensorSpec((5, 3), layout="transposed"),
    TensorSpec((3, 4), layout="every second", gradient_layout="transposed"),
    TensorSpec((2, 3, 3, 5), layout="channels last", gradient_layout="channels last"),
    TensorSpec((31,), gradient_layout="every second"),
    TensorSpec((4, 3), gradient_layout="transposed"),
)
_EMPTY = (TensorSpec((0,)), TensorSpec((0, 3)), TensorSpec(()), TensorSpec((1,)), TensorSpec((9,)))
_GROUPS = (TensorSpec((33,)), TensorSpec((5, 3), group=1), TensorSpec((9,), group=1))
# Above 32,768 elements torch splits the work among threads, and other code may branch, too.
_LARGE = (TensorSpec((33_001,)), TensorSpec((5, 3)))
_ADDED = (TensorSpec((33,)), TensorSpec((5, 3), group=2))

PLAIN = "plain"
CROSSED = "state_dict of the other"

#: What can happen besides steps: fields of the scenario, each by a name.
CIRCUMSTANCES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        PLAIN: {},
        "gradients of None": {"tensors": _NONE},
        "zero gradients": {},
        "NaN and infinite gradients": {},
        "closure": {},
        "large tensor": {"tensors": _LARGE, "steps": 4},
        "not contiguous": {"tensors": _LAYOUTS},
        "empty tensors": {"tensors": _EMPTY},
        "two groups": {"tensors": _GROUPS},
        "group added": {"tensors": _ADDED},
        "lr changed": {"lr_changed_at": 10},
        "named parameters": {"named": True},
        "state_dict loaded": {"resume": "from own checkpoint"},
        CROSSED: {"resume": "from the other's checkpoint"},
        "all at once": {
            "tensors": (*_SMALL[:1], *_NONE, *_LAYOUTS, *_EMPTY, *_GROUPS[1:], *_ADDED[1:]),
            "lr_changed_at": 10,
            "resume": "from own checkpoint",
        },
    }
)
_KINDS: Mapping[str, type[Scenario]] = MappingProxyType(
    {
        "zero gradients": ZeroGradients,
        "NaN and infinite gradients": NonfiniteGradients,
        "closure": Closures,
    }
)
_FEW_CIRCUMSTANCES = (PLAIN, "all at once")
_QUICK_CIRCUMSTANCES = (
    *_FEW_CIRCUMSTANCES,
    "closure",
    "NaN and infinite gradients",
    "large tensor",
)
_QUICK_DTYPES = ("bfloat16", "float32")

_OVERRIDES: tuple[Options, Options] = (
    {"lr": 0.03, "weight_decay": 0.01},
    {"lr": 0.002, "momentum": 0.7, "betas": (0.8, 0.95), "alpha": 0.6, "eps": 1e-5},
)


@dataclass(frozen=True)
class Extent:
    """Which configurations are wanted.

    Attributes:
        implementations: names; all that both take if empty.
        dtypes: names; all if empty.
        quick: whether a few of each kind are enough.
        device: where the parameters are.
        seed: of starting values and gradients.
    """

    implementations: Collection[str] = ()
    dtypes: Collection[str] = ()
    quick: bool = False
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, names in (("dtype", DTYPES), ("implementation", IMPLEMENTATIONS)):
            for name in getattr(self, f"{kind}s"):
                if name not in names:
                    raise ValueError(f"there is no {kind} {name!r}, only {', '.join(names)}")

    @property
    def narrowed(self) -> bool:
        """Whether something is left out."""
        return self.quick or bool(self.implementations or self.dtypes)


def configurations(
    mine: Factory, reference: Factory, shared: Shared, extent: Extent
) -> Iterator[Configuration]:
    """Yield every configuration that is worth trying.

    All combinations of options are tried in float32; in other dtypes the defaults, each option
    alone and the largest sets; every circumstance with the defaults and the largest sets.
    """
    largest = fullest(mine, reference, shared)
    all_of_them = combinations(mine, reference, shared)
    for way in shared.implementations:
        if extent.implementations and way not in extent.implementations:
            continue
        for dtype in extent.dtypes or (_QUICK_DTYPES if extent.quick else DTYPES):
            few = [{}, *largest]
            grid = _grid(all_of_them, few, together=dtype == "float32" and not extent.quick)
            for name in _circumstances(way, dtype, extent):
                for options in grid if name == PLAIN else few:
                    yield Configuration(
                        way, dtype, options, name, _scenario(way, dtype, name, shared, extent)
                    )


def _grid(combined: list[Options], few: list[Options], together: bool) -> list[Options]:
    if together:
        return combined
    return [each for each in combined if len(each) <= 1 or each in few]


def _circumstances(way: str, dtype: str, extent: Extent) -> list[str]:
    if dtype == "float32":
        chosen = list(_QUICK_CIRCUMSTANCES if extent.quick else CIRCUMSTANCES)
    else:
        chosen = list(_FEW_CIRCUMSTANCES)
    if way != "differentiable":
        return chosen
    # Loaded state is a leaf, which cannot be changed in place while autograd records.
    return [name for name in chosen if "resume" not in CIRCUMSTANCES[name]]


def _scenario(way: str, dtype: str, name: str, shared: Shared, extent: Extent) -> Scenario:
    changes = {"tensors": _SMALL, "lr_changed_at": 0, **CIRCUMSTANCES[name]}
    if "lr" not in shared.group_keys:
        changes["lr_changed_at"] = 0
    scenario = _KINDS.get(name, Scenario)(
        **changes,
        overrides=_overrides(shared),
        seed=extent.seed,
        differentiable=way == "differentiable",
        backward_after=(1,),
        device=extent.device,
    )
    return replace(scenario, tensors=_typed(scenario.tensors, way, dtype))


def _overrides(shared: Shared) -> tuple[Options, Options]:
    second, third = (
        {name: value for name, value in options.items() if name in shared.group_keys}
        for options in _OVERRIDES
    )
    return second, third


def _typed(tensors: tuple[TensorSpec, ...], way: str, dtype: str) -> tuple[TensorSpec, ...]:
    dtypes = MIXED_FUSED if (way, dtype) == ("fused", "mixed") else DTYPES[dtype]
    if way == "differentiable":  # whose gradients are results of a computation, without gaps
        tensors = tuple(
            replace(spec, gradient_layout="contiguous")
            if spec.gradient_layout == "every second"
            else spec
            for spec in tensors
        )
    return tuple(
        replace(spec, dtype=dtypes[index % len(dtypes)]) for index, spec in enumerate(tensors)
    )


def printed(value: Any) -> str:
    """Print the value of an option: ``tensor(0.01)`` for a tensor of one number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return f"tensor({value.item():g})"
    return repr(value)
