"""Which configurations there are of two optimizers that are compared, for the table and any two."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab import renamed
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import Scenario, TensorSpec
from optimlab.lab.parity.events import PLAIN
from optimlab.lab.parity.table import DTYPES, IMPLEMENTATIONS, MIXED_FUSED, Options

#: Makes an optimizer: a class of optimizers, or any function of ``params`` and keyword options.
Factory: TypeAlias = Callable[..., Optimizer]

#: How much is compared of the table: a few options in two dtypes; every combination of options with
#: each implementation and dtype, in fewer steps; the same over more tensors, with further settings
#: in every dtype too. Of any two, ``"thorough"`` adds what takes minutes.
Level: TypeAlias = Literal["quick", "tests", "full", "thorough"]

_QUICK_DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True)
class Configuration:
    """One way to use both optimizers.

    Attributes:
        implementation: name from :data:`~optimlab.lab.parity.table.IMPLEMENTATIONS`.
        dtype: name from :data:`~optimlab.lab.parity.table.DTYPES`.
        options: what is not left at its default.
        event: what happens besides steps, a name from :mod:`optimlab.lab.parity.events`.
        scenario: what both are put through.
    """

    implementation: str
    dtype: str
    options: Options
    event: str
    scenario: Scenario = field(default=Scenario(), repr=False)

    circumstance = renamed.attribute("circumstance", "event")

    @property
    def facts(self) -> tuple[str, ...]:
        """Say what makes up this configuration, one fact each."""
        options = (f"{name}={printed(value)}" for name, value in self.options.items())
        return (self.implementation, self.dtype, self.event, *options)

    def __str__(self) -> str:
        return ", ".join(fact for fact in self.facts if fact != PLAIN)

    def make(
        self, factory: Factory, always: Options, groups: Iterable[dict[str, Any]]
    ) -> Optimizer:
        """Make an optimizer of one group as most programs do, and of several as torch documents.

        Args:
            factory: makes it.
            always: options that every configuration has.
            groups: its parameter groups; empty ones are left out.
        """
        filled = [group for group in groups if group["params"]]
        params: Iterable[Any] = filled
        if len(filled) == 1 and filled[0].keys() == {"params"}:
            params = filled[0]["params"]
        given = {**IMPLEMENTATIONS[self.implementation], **always, **self.options}
        return factory(params, **clone(given))


@dataclass(frozen=True)
class Coverage:
    """Which configurations are wanted: all implementations and dtypes if none are named."""

    implementations: Collection[str] = ()
    dtypes: Collection[str] = ()
    level: Level = "full"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, names in (("dtype", DTYPES), ("implementation", IMPLEMENTATIONS)):
            for name in getattr(self, f"{kind}s"):
                if name not in names:
                    raise ValueError(f"there is no {kind} {name!r}, only {', '.join(names)}")

    @property
    def quick(self) -> bool:
        """Whether a few of each kind are enough."""
        return self.level == "quick"

    @property
    def narrowed(self) -> bool:
        """Whether something is left out."""
        return self.quick or bool(self.implementations or self.dtypes)


Config = TypeVar("Config", bound=Configuration, covariant=True)  # noqa: PLC0105


class Plan(Protocol[Config]):
    """What is worth comparing of two optimizers: of a row of the table, or of any two."""

    @property
    def implementations(self) -> tuple[str, ...]:
        """The implementations that both have."""

    def settings(self, way: str, dtype: str, coverage: Coverage) -> Iterable[tuple[Options, str]]:
        """Return the options and events to compare with one implementation and dtype."""

    def configuration(
        self, way: str, dtype: str, options: Options, event: str, coverage: Coverage
    ) -> Config:
        """Make a configuration, with the scenario that both are put through."""


def configurations(plan: Plan[Config], coverage: Coverage) -> Iterator[Config]:
    """Yield every configuration of a plan that is wanted, by implementation, dtype and event."""
    wanted = coverage.implementations or IMPLEMENTATIONS
    ways = [way for way in plan.implementations if way in wanted]
    dtypes = coverage.dtypes or (_QUICK_DTYPES if coverage.quick else DTYPES)
    for way, dtype in itertools.product(ways, dtypes):
        for options, event in plan.settings(way, dtype, coverage):
            yield plan.configuration(way, dtype, options, event, coverage)


def typed(specs: Iterable[TensorSpec], way: str, dtype: str) -> tuple[TensorSpec, ...]:
    """Give parameters the dtypes of a column in turn."""
    dtypes = MIXED_FUSED if (way, dtype) == ("fused", "mixed") else DTYPES[dtype]
    found = [replace(each, dtype=dtypes[i % len(dtypes)]) for i, each in enumerate(specs)]
    # Differentiable gradients are results of a computation, without gaps; and fused kernels read
    # gradients as if every element had memory of its own.
    left_out = {"differentiable": ("every second", "expanded", "unaligned"), "fused": ("expanded",)}
    return tuple(
        replace(each, gradient_layout="contiguous")
        if each.gradient_layout in left_out.get(way, ())
        else each
        for each in found
    )


def printed(value: Any) -> str:
    """Print the value of an option: ``tensor(0.01)``, its dtype only if that is not float32."""
    if isinstance(value, tuple) and any(isinstance(item, Tensor) for item in value):
        return f"({', '.join(map(printed, value))})"
    if not isinstance(value, Tensor):
        return repr(value)
    number = f"{value.item():g}" if value.numel() == 1 else f"{value.numel()} numbers"
    notes = [str(value.dtype).removeprefix("torch.")] * (value.dtype != torch.float32)
    notes += ["requires_grad"] * value.requires_grad + [value.device.type] * (not value.is_cpu)
    return f"tensor({', '.join(['[' * value.dim() + number + ']' * value.dim(), *notes])})"
