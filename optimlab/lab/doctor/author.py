"""Which optimizer wrote a state dict, told by the keys it has, and what its rule reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from optimlab import optimizers
from optimlab.lab.doctor.checkpoint import Checkpoint
from optimlab.lab.doctor.hyperparameters import BOOKKEEPING
from optimlab.lab.findings import Finding, error
from optimlab.rule import Rule

# One key that no other package uses, of the group or of the state.
_FOREIGN = {
    "kahan_sum": "optimi",
    "storage_dtype": "heavyball",
    "weight_lr_power": "a schedule-free optimizer",
    "weight_decouple": "pytorch_optimizer",
    "state1": "bitsandbytes",
    "adam_w_mode": "apex or DeepSpeed",
}
#: torch's classes of which the rule is known here, from the declared state of ours.
_RULES: dict[type, type[Rule]] = {
    getattr(torch.optim, name): rule
    for name, rule in vars(optimizers).items()
    if isinstance(rule, type) and issubclass(rule, Rule) and hasattr(torch.optim, name)
}
#: State that has its parameter's shape.
MOMENTS = {entry.name for rule in _RULES.values() for entry in rule.state_spec.tensors}
MOMENTS |= {"exp_inf", "acc_delta", "sum"}  # of rules that are torch's alone


def writer(one: Checkpoint) -> str:
    """Name the class of ``torch.optim`` or the package that wrote a state dict, if its keys tell.

    For checkpoints from before they were told apart it is ``"Adam or AdamW"``.
    """
    if one.live is not None:
        own = [c.__name__ for c in type(one.live).__mro__ if c.__name__ in _torch_keys()]
        name = own[0] if own else type(one.live).__name__
        return _by_decay(one) if name in ("Adam", "AdamW") else name
    keys = {str(key) for group in one.groups for key in group} - BOOKKEEPING
    held = {key.rpartition(".")[2] for place in range(len(one.numbers)) for key in one.held(place)}
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


def rule_of(optimizer: torch.optim.Optimizer) -> type[Rule] | None:
    """Return the rule of an optimizer, where it is known."""
    kinds = type(optimizer).__mro__
    return next((_RULES.get(k, k) for k in kinds if k in _RULES or issubclass(k, Rule)), None)


def read_state(rule: type[Rule] | None, group: dict[str, Any]) -> set[str] | None:
    """Return the keys of the state that a rule reads with these hyperparameters, if known."""
    try:
        spec = None if rule is None else rule.state_spec
        return None if spec is None else set(spec.reads(group))
    except KeyError:  # the group lacks what the step will miss, too: that is a finding of its own
        return None


def check_writer(saved: Checkpoint, live: Checkpoint, *, loads_it: bool) -> Iterator[Finding]:
    """Say when a state dict was written by another class than the one that would load it."""
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
