"""What happens to the optimizers that are compared: tensors, gradients and events.

A :class:`Scenario` is a plain value, so that both sides can live through exactly the same: the same
starting bits, at each step the same fresh gradients, the same groups added and states reloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Layout: TypeAlias = Literal[
    "contiguous", "transposed", "every second", "channels last", "expanded", "unaligned"
]
Gradients: TypeAlias = Literal["always", "sometimes", "late", "never"]
Quantity: TypeAlias = Literal["parameters", "gradients"]
Resume: TypeAlias = Literal["no", "from own checkpoint", "from the other's checkpoint"]

_SHARE_OF_ZEROS = 1 / 32


@dataclass(frozen=True)
class Call:
    """Something that is done to an optimizer between two steps.

    Attributes:
        before: which step.
        name: of the method of :class:`~optimlab.lab.lockstep.replica.Replica` that does it.
        arguments: of the method.
    """

    before: int
    name: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.arguments))
        return f"{self.name}({shown})"


@dataclass(frozen=True)
class TensorSpec:
    """One parameter of a scenario.

    Attributes:
        shape: its shape; ``()`` and empty ones too.
        dtype: its dtype.
        layout: how it lies in memory.
        gradient_layout: how its gradients lie in memory.
        gradients: at which steps it has one: at each; not at every third; from step
            ``LATE`` on; at none. At step ``IDLE`` nothing in group 1 has one.
        group: its parameter group. Group 2 is added in mid-run, others are there from the start.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: Layout = "contiguous"
    gradient_layout: Layout = "contiguous"
    gradients: Gradients = "always"
    group: int = 0


LATE = 5
IDLE = 4

SMALL_NETWORK = (
    TensorSpec((16, 3, 3, 3), layout="channels last", gradient_layout="channels last"),
    TensorSpec((16,), gradients="sometimes"),
    TensorSpec((33, 17)),
    TensorSpec((33,), group=1),
    TensorSpec((5, 33), layout="transposed", group=1),
    TensorSpec((), gradients="late"),
    TensorSpec((7,), group=2),
)


@dataclass(frozen=True)
class Scenario:
    """Everything that two optimizers are put through, step by step.

    Attributes:
        tensors: the parameters.
        overrides: hyperparameters of the groups 1 and 2, which group 0 leaves to the constructor;
            further groups have them in turn.
        steps: how many times ``step()`` is called.
        seed: of the starting values and gradients.
        group_added_at: before which step group 2 is added, if any tensor is in it.
        lr_changed_at: before which step every group's ``lr`` is halved as a scheduler does it:
            replaced, or filled in place if it is a tensor.
        resume: whether both go on in a new optimizer from a state dict: their own, through a
            file's bytes, or a copy of the other's.
        resumed_at: before which step.
        calls: what else is done between steps, in this order.
        gradient_scale: the power of two by which all gradients are multiplied.
        gradients_in_place: whether a parameter's gradients are written into one tensor.
        named: whether the parameters are given with names.
        sparse: whether gradients of matrices are sparse.
        unscale: whether the optimizers are told a gradient scale and, at some steps, of an
            infinite gradient, as ``torch.amp.GradScaler`` tells fused ones.
        differentiable: whether parameters are results of a computation, which the steps are a
            part of.
        backward_after: after which steps of a differentiable scenario derivatives are compared:
            those of the parameters with respect to all that went into them.
        default_dtype: torch's default dtype meanwhile.
        threads: how many threads torch uses meanwhile; ``None`` leaves it as it is. One gives the
            same answer on every machine: in half precision bits depend on it.
        device: where the parameters are.
    """

    tensors: tuple[TensorSpec, ...] = SMALL_NETWORK
    overrides: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
    steps: int = 20
    seed: int = 0
    group_added_at: int = 7
    lr_changed_at: int = 10
    resume: Resume = "no"
    resumed_at: int = 14
    calls: tuple[Call, ...] = ()
    gradient_scale: int = 0
    gradients_in_place: bool = False
    named: bool = False
    sparse: bool = False
    unscale: bool = False
    differentiable: bool = False
    backward_after: tuple[int, ...] = (1, 20)
    default_dtype: torch.dtype = torch.float32
    threads: int | None = 1
    device: str = "cpu"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, empty if they are given without."""
        return tuple(f"tensor{i}" for i in range(len(self.tensors))) if self.named else ()

    def as_source(self) -> str:
        """Write it as Python, without what is left at its default."""
        return _source(self)

    def start(self) -> list[Tensor]:
        """Make the starting values of the parameters, afresh at each call."""
        values = _draw(self.tensors, "parameters", self.seed)
        return [
            laid_out(value.to(self.device), spec.layout)
            for value, spec in zip(values, self.tensors, strict=True)
        ]

    def gradients(self, step: int) -> Iterator[Tensor | None]:
        """Make the gradients of one step, in the order of the parameters.

        Magnitudes are spread evenly over many powers of two. From the third step on some elements
        are exactly zero: earlier ones would make 0/0 of a second moment that is still zero.

        Args:
            step: 1 for the first.
        """
        values = _draw(self.tensors, "gradients", _mixed(self.seed, step), zeros=step > 2)
        for index, (spec, value) in enumerate(zip(self.tensors, values, strict=True)):
            has_gradient = _has_gradient(spec, step, index)
            yield self._gradient(spec, value.to(self.device), step) if has_gradient else None

    def _gradient(self, spec: TensorSpec, value: Tensor, step: int) -> Tensor:
        sparse = self.sparse and value.dim() == 2
        if self.gradient_scale:
            value = value * 2.0**self.gradient_scale
        gradient = _sparse(value, step) if sparse else laid_out(value, spec.gradient_layout)
        return gradient.requires_grad_(self.differentiable)


def _source(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({''.join(f'{_source(item)}, ' for item in value)})"
    if not is_dataclass(value):
        return repr(value)
    given = ((each, getattr(value, each.name)) for each in fields(value))
    shown = (f"{each.name}={_source(item)}" for each, item in given if item != each.default)
    return f"{type(value).__name__}({', '.join(shown)})"


def laid_out(values: Tensor, layout: Layout) -> Tensor:
    """Copy values into new memory of the given layout."""
    if layout == "expanded":
        return values.flatten()[:1].clone().expand(values.numel()).view(values.shape)
    return _empty(values, layout).copy_(values)


def _empty(values: Tensor, layout: Layout) -> Tensor:
    if layout == "transposed":
        order = tuple(reversed(range(values.dim())))
        return values.new_empty(tuple(reversed(values.shape))).permute(order)
    if layout == "every second":
        return values.new_zeros((*values.shape, 2))[..., 0]
    if layout == "unaligned":
        return values.new_empty(values.numel() + 1)[1:].view(values.shape)
    if layout == "channels last":
        return values.new_empty(values.shape).contiguous(memory_format=torch.channels_last)
    return values.new_empty(values.shape)


def _has_gradient(spec: TensorSpec, step: int, index: int) -> bool:
    if spec.group == 1 and step == IDLE:
        return False
    if spec.gradients == "sometimes":  # but at the first step of every group, that is 1 or 7
        return step % 3 != 2 * (index % 2)
    return spec.gradients == "always" or (spec.gradients == "late" and step >= LATE)


def _mixed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step * 7_919) % 2**31


def _draw(
    tensors: tuple[TensorSpec, ...], what: Quantity, seed: int, zeros: bool = False
) -> list[Tensor]:
    """Draw the numbers of all tensors at once: a sign, a mantissa in [1, 2), a power of two.

    No number is tiny by chance, unlike with a normal distribution, so that the share of NaN and
    zero in low precision is chosen here and not by the dice.
    """
    lowest, spread = _exponents(tensors, what)
    generator = torch.Generator().manual_seed(seed)
    random = torch.rand((3, len(lowest)), generator=generator, dtype=torch.float64)
    signed = random[0] * 4 - 2  # in [-2, 2): the sign is the number's, the mantissa made from it
    mantissa = torch.copysign(1 + signed.abs() / 2, signed)
    if zeros:
        mantissa *= random[2] > _SHARE_OF_ZEROS
    numbers = torch.ldexp(mantissa, (lowest + random[1] * spread).floor())
    parts = torch.split(numbers, [_real_numbers(spec) for spec in tensors])
    return [_shaped(part, spec) for part, spec in zip(parts, tensors, strict=True)]


@lru_cache(maxsize=8)
def _exponents(tensors: tuple[TensorSpec, ...], what: Quantity) -> tuple[Tensor, Tensor]:
    """Return the lowest exponent of every number to be drawn, and how many there are to choose."""
    counts = torch.tensor([_real_numbers(spec) for spec in tensors], dtype=torch.int64)
    ranges = [_exponent_range(spec.dtype, what) for spec in tensors]
    lowest, highest = (
        torch.tensor(ends, dtype=torch.float64).repeat_interleave(counts)
        for ends in ([low for low, _ in ranges], [high for _, high in ranges])
    )
    return lowest, highest - lowest


def _exponent_range(dtype: torch.dtype, what: Quantity) -> tuple[int, int]:
    if what == "parameters":
        return -6, 3
    # float16 reaches from 2^-24 to 2^16 only, and the squares of gradients are to stay inside.
    return (-5, 5) if dtype is torch.float16 else (-16, 10)


def _real_numbers(spec: TensorSpec) -> int:
    return torch.Size(spec.shape).numel() * (2 if spec.dtype.is_complex else 1)


def _shaped(reals: Tensor, spec: TensorSpec) -> Tensor:
    if spec.dtype.is_complex:
        return torch.complex(*reals.reshape(2, *spec.shape)).to(spec.dtype)
    return reals.reshape(spec.shape).to(spec.dtype)


def _sparse(values: Tensor, step: int) -> Tensor:
    """Keep a few rows as a sparse gradient; at every second step one row twice, uncoalesced."""
    rows = torch.arange(step % 2, values.shape[0], 2, device=values.device)
    if step % 2:
        rows = torch.cat([rows, rows[:1]])
    sparse = torch.sparse_coo_tensor(
        rows.unsqueeze(0), values[rows], values.shape, check_invariants=False
    )
    return sparse if step % 2 else sparse.coalesce()
