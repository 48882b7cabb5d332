"""The table of configurations: one row for each optimizer.

Someone who adds an optimizer adds a row. What is not to be compared at all stands beside the
table with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

from optimlab import optimizers

Options: TypeAlias = Mapping[str, Any]

#: The ways torch can carry out a step, by the options that ask for them.
IMPLEMENTATIONS: Mapping[str, Options] = MappingProxyType(
    {
        "for-loop": {"foreach": False},
        "foreach": {"foreach": True},
        "default": {},
        "fused": {"fused": True},
        "capturable": {"capturable": True, "foreach": False},
        "capturable foreach": {"capturable": True, "foreach": True},
        "differentiable": {"differentiable": True},
    }
)

#: The columns. Parameters of a mixed case take these dtypes in turn.
DTYPES: Mapping[str, tuple[torch.dtype, ...]] = MappingProxyType(
    {
        "float16": (torch.float16,),
        "bfloat16": (torch.bfloat16,),
        "float32": (torch.float32,),
        "float64": (torch.float64,),
        "complex64": (torch.complex64,),
        "complex128": (torch.complex128,),
        "mixed": (torch.float32, torch.bfloat16, torch.complex64, torch.float64),
    }
)
MIXED_FUSED = (torch.float32, torch.float64)  # fused kernels refuse complex numbers


@dataclass(frozen=True)
class Row:
    """One optimizer of the table.

    Attributes:
        ours: the class under test.
        theirs: the class whose bits it has to give.
        grid: options with their values beside the default: all combinations are compared.
        many: many options at once, as far as they go together.
        more: further settings, each compared by itself.
        refused: settings that the constructor refuses whatever the implementation and dtype.
        overrides: hyperparameters of a second group, and of a third that is added in mid-run.
        implementations: names from :data:`IMPLEMENTATIONS`; others have no option for it.
        late_with_fused: whether ``fused=True`` takes a group in which some parameters have their
            first gradient later than others.
    """

    ours: type[Optimizer]
    theirs: type[Optimizer]
    grid: Mapping[str, tuple[Any, ...]]
    many: Options
    more: tuple[Options, ...]
    refused: tuple[Options, ...]
    overrides: tuple[Options, Options]
    implementations: tuple[str, ...] = tuple(IMPLEMENTATIONS)
    late_with_fused: bool = True

    @property
    def name(self) -> str:
        """The name both classes have."""
        return self.theirs.__name__


@dataclass(frozen=True)
class Exclusion:
    """A cell of the table that is left out, and why."""

    optimizer: str
    implementation: str
    dtypes: tuple[str, ...]
    device: str
    fixed_in: str  # the first release of torch in which it is compared
    reason: str

    @property
    def applies(self) -> bool:
        """Whether the installed torch is older than the one it is fixed in."""
        return torch.__version__ < self.fixed_in

    def __str__(self) -> str:
        dtypes = ", ".join(self.dtypes)
        return f"{self.optimizer} {self.implementation} {dtypes} on {self.device}: {self.reason}"


EXCLUSIONS = (
    Exclusion(
        optimizer="SGD",
        implementation="fused",
        dtypes=("float16", "bfloat16"),
        device="cpu",
        fixed_in="2.15",
        reason="torch's kernel skips updates and leaves uninitialised memory in the momentum "
        "buffer; fixed in torch 2.15",
    ),
)


def excluded(optimizer: str, implementation: str, dtype: str, device: str) -> bool:
    """Tell whether a cell of the table is left out."""
    return any(
        (each.optimizer, each.implementation, each.device) == (optimizer, implementation, device)
        for each in EXCLUSIONS
        if each.applies and dtype in each.dtypes
    )


_TENSOR_LR: tuple[Options, ...] = (
    {"lr": torch.tensor(0.01)},
    {"lr": torch.tensor([0.01])},
    {"lr": torch.tensor([[0.01]])},
    {"lr": torch.tensor(0.01, dtype=torch.float64)},
    {"lr": torch.tensor(0.01, requires_grad=True)},
)
_ODD_NUMBERS: tuple[Options, ...] = (
    {"lr": 0.0},
    {"lr": 1},
    {"lr": float("nan")},
    {"weight_decay": 100.0},
    {"weight_decay": torch.tensor(0.1)},
    {"weight_decay": torch.tensor(0.1, requires_grad=True)},
    {"foreach": True, "differentiable": True},
)
_REFUSED: tuple[Options, ...] = (
    {"lr": -1.0},
    {"lr": torch.tensor([0.01, 0.01])},
    {"weight_decay": -1.0},
    {"foreach": True, "fused": True},
    {"fused": True, "differentiable": True},
    {"capturable": True, "fused": True, "foreach": True},
    {"no_such_option": True},
)
_ADAM_NUMBERS: tuple[Options, ...] = (
    {"betas": (0.0, 0.0)},
    {"betas": (0.5, 0.5)},
    {"betas": (torch.tensor(0.9), torch.tensor(0.99))},
    {"betas": (torch.tensor(0.4), torch.tensor(0.99)), "amsgrad": True, "maximize": True},
    {"betas": (torch.tensor([0.9]), torch.tensor([[0.99]]))},
    {"betas": (torch.tensor(0.9, requires_grad=True), torch.tensor(0.99, requires_grad=True))},
    {"betas": (torch.tensor(0.9), torch.tensor(0.99)), "lr": torch.tensor(0.01)},
    {"betas": [0.9, 0.99]},
    {"eps": 1e-3},
    {"eps": 0.0},
    {"lr": torch.tensor(0.01), "weight_decay": 0.1},
    {"lr": torch.tensor(0.01), "weight_decay": 0.1, "amsgrad": True, "maximize": True},
)
_ADAM_REFUSED: tuple[Options, ...] = (
    *_REFUSED,
    {"betas": (0.9, torch.tensor(0.99))},
    {"betas": (0, 0)},
    {"betas": (1.0, 0.9)},
    {"betas": (0.9, 1.0)},
    {"betas": (torch.tensor([0.9, 0.9]), torch.tensor(0.99))},
    {"betas": (torch.tensor(0.9), torch.tensor([0.99, 0.99]))},
    {"betas": (torch.tensor(0.9), torch.tensor(0.99)), "foreach": True},
    {"lr": torch.tensor(0.01), "foreach": True},
    {"eps": -1.0},
)
_ADAM_OVERRIDES: tuple[Options, Options] = (
    {"lr": 0.03, "weight_decay": 0.01},
    {"lr": 0.002, "betas": (0.8, 0.95), "eps": 1e-5, "amsgrad": True},
)

TABLE: tuple[Row, ...] = (
    Row(
        ours=optimizers.SGD,
        theirs=torch.optim.SGD,
        grid={
            "momentum": (0.9,),
            "dampening": (0.1,),
            "weight_decay": (0.1,),
            "nesterov": (True,),
            "maximize": (True,),
        },
        many={"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "maximize": True},
        more=(
            *_TENSOR_LR,
            *_ODD_NUMBERS,
            {"lr": torch.tensor(0.01), "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
            {"lr": torch.tensor(0.01, requires_grad=True), "momentum": 0.9, "nesterov": True},
            {"momentum": 0.9, "dampening": 1.0},
            {"momentum": 1},
        ),
        refused=(*_REFUSED, {"momentum": -0.5}, {"capturable": True}),
        overrides=(
            {"lr": 0.03, "weight_decay": 0.01},
            {"lr": 0.002, "momentum": 0.7, "dampening": 0.3},
        ),
        implementations=("for-loop", "foreach", "default", "fused", "differentiable"),
        late_with_fused=False,
    ),
    Row(
        ours=optimizers.Adam,
        theirs=torch.optim.Adam,
        grid={
            "betas": ((0.4, 0.9),),
            "weight_decay": (0.1,),
            "amsgrad": (True,),
            "maximize": (True,),
            "decoupled_weight_decay": (True,),
        },
        many={"betas": (0.4, 0.9), "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        more=(
            *_TENSOR_LR,
            *_ODD_NUMBERS,
            *_ADAM_NUMBERS,
            {"lr": torch.tensor(0.01), "weight_decay": 0.1, "decoupled_weight_decay": True},
        ),
        refused=_ADAM_REFUSED,
        overrides=_ADAM_OVERRIDES,
    ),
    Row(
        ours=optimizers.AdamW,
        theirs=torch.optim.AdamW,
        grid={
            "betas": ((0.4, 0.9),),
            "weight_decay": (0.0, 0.1),
            "amsgrad": (True,),
            "maximize": (True,),
        },
        many={"betas": (0.4, 0.9), "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        more=(*_TENSOR_LR, *_ODD_NUMBERS, *_ADAM_NUMBERS),
        refused=(*_ADAM_REFUSED, {"decoupled_weight_decay": False}),
        overrides=_ADAM_OVERRIDES,
    ),
    Row(
        ours=optimizers.RMSprop,
        theirs=torch.optim.RMSprop,
        grid={
            "alpha": (0.4,),
            "weight_decay": (0.1,),
            "momentum": (0.9,),
            "centered": (True,),
            "maximize": (True,),
        },
        many={"alpha": 0.4, "weight_decay": 0.1, "momentum": 0.9, "centered": True},
        more=(
            *_TENSOR_LR,
            *_ODD_NUMBERS,
            {"lr": torch.tensor(0.01), "momentum": 0.9},
            {"lr": torch.tensor(0.01), "momentum": 0.9, "centered": True, "weight_decay": 0.1},
            {"lr": torch.tensor(0.01, requires_grad=True), "momentum": 0.9},
            {"alpha": 0.0},
            {"alpha": 0.5, "centered": True},
            {"alpha": 1.0},
            {"eps": 1e-3},
            {"eps": 0.0},
            {"momentum": 1},
        ),
        refused=(*_REFUSED, {"alpha": -1.0}, {"eps": -1.0}, {"momentum": -1.0}),
        overrides=({"lr": 0.03, "weight_decay": 0.01}, {"lr": 0.002, "alpha": 0.6, "eps": 1e-5}),
        implementations=tuple(way for way in IMPLEMENTATIONS if way != "fused"),
    ),
)
