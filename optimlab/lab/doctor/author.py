"""Which optimizer wrote a state dict, told by the keys it has, and what its rule reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from optimlab.adam import Adam
from optimlab.adamw import AdamW
from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.hyperparameters import BOOKKEEPING
from optimlab.lab.findings import Finding, error
from optimlab.rmsprop import RMSprop
from optimlab.rule import Rule
from optimlab.sgd import SGD

# One key that no other package uses, of the group or of the state.
_FOREIGN = {
    "kahan_sum": "optimi",
    "storage_dtype": "heavyball",
    "weight_lr_power": "a schedule-free optimizer",
    "weight_decouple": "pytorch_optimizer",
    "state1": "bitsandbytes",
    "adam_w_mode": "apex or DeepSpeed",
}
_RULES: dict[type[torch.optim.Optimizer], type[Rule]] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: AdamW,
    torch.optim.RMSprop: RMSprop,
}
MOMENTS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "exp_inf",
    "acc_delta",
    "sum",
)


def writer(one: Checkpoint) -> str:
    """Name the optimizer that wrote a state dict, as well as its keys tell.

    Returns:
        A class of ``torch.optim``, a package, ``"Adam or AdamW"`` for checkpoints from before they
        were told apart, or ``""``.
    """
    if one.live is not None:
        own = [c.__name__ for c in type(one.live).__mro__ if c.__name__ in _torch_keys()]
        name = own[0] if own else type(one.live).__name__
        return _by_decay(one) if name in ("Adam", "AdamW") else name
    keys = {str(key) for group in one.groups for key in group} - BOOKKEEPING
    held = {key for place in range(len(one.numbers)) for key in one.held(place)}
    for key, package in _FOREIGN.items():
        if key in keys | held:
            return package
    fitting = {name: len(own - keys) for name, own in _torch_keys().items() if keys <= own}
    if not keys or not fitting:
        return ""
    name = min(fitting, key=lambda each: fitting[each])
    return _by_decay(one) if name in ("Adam", "AdamW") else name


def _by_decay(one: Checkpoint) -> str:
    flags = {group.get("decoupled_weight_decay") for group in one.groups}
    return "AdamW" if flags == {True} else "Adam" if flags == {False} else "Adam or AdamW"


@cache
def _torch_keys() -> dict[str, set[str]]:
    """Return the hyperparameters that each class of torch.optim has."""
    # Read off the signatures: making an optimizer changes its class, which wraps its step then.
    return {
        name: {key for base in value.__mro__ for key in _arguments(base)}
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        if value is not torch.optim.Optimizer
    }


def _arguments(base: type) -> set[str]:
    if base in (torch.optim.Optimizer, object):
        return set()
    return set(inspect.signature(base).parameters) - {"params"}


def read_state(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> set[str] | None:
    """Return the keys of the state that an optimizer's rule reads, ``None`` if it is not known.

    Args:
        optimizer: the optimizer.
        group: a group with the hyperparameters that the step would find.
    """
    known = optimizer if isinstance(optimizer, Rule) else None
    for theirs, rule in _RULES.items():
        if known is None and isinstance(optimizer, theirs):
            known = rule.__new__(rule)  # which names it reads is the same for all of them
    try:
        names = None if known is None else set(known.state_spec.names(group))
    except KeyError:  # the group lacks what the step will miss, too: that is a finding of its own
        return None
    counts = known is not None and known.state_spec.count is not None
    return names and names | ({"step"} if counts else set())


def starts_silently(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether a rule makes state that it does not find, in place of raising an error."""
    return isinstance(optimizer, torch.optim.SGD | SGD)


def check_writer(saved: Checkpoint, live: Checkpoint, *, loads_it: bool) -> Iterator[Finding]:
    """Say when a state dict was written by another class than the one that would load it.

    Args:
        saved: from a checkpoint.
        live: has the optimizer.
        loads_it: whether torch lets that happen.
    """
    wrote, loads = writer(saved), writer(live)
    if wrote in ("", loads) or loads not in _torch_keys() or loads in wrote.split(" or "):
        return
    decayed = [group for group in saved.groups if group.get("weight_decay")]
    what = f"was written by {wrote}, and is given to {loads}"
    what += ", which loads it without an error" if loads_it else ""
    if {wrote, loads} == {"Adam", "AdamW"}:
        what += ": " + _decay(loads, bool(decayed))
    advice = f"go on with {wrote}, or convert state and hyperparameters knowingly."
    yield error("wrong class", saved.name, what, advice)


def _decay(loads: str, decayed: bool) -> str:
    if loads == "Adam":
        return "Adam takes decoupled_weight_decay=True from it and goes on as AdamW"
    if decayed:
        return "AdamW then applies as decoupled what was saved as an L2 penalty"
    return "AdamW then takes over Adam's weight_decay of 0"
