"""Parameter groups: a dict of parameters with the hyperparameters that apply to them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import required

ParamGroup: TypeAlias = dict[str, Any]


def complete_group(
    param_group: Mapping[str, Any],
    defaults: Mapping[str, Any],
    others: Sequence[ParamGroup],
) -> ParamGroup:
    """Make a parameter group out of what a user gave; nothing that was given is changed.

    Args:
        param_group: ``"params"`` (a parameter, or an ordered collection of parameters or of
            ``(name, parameter)`` pairs) and any hyperparameters that differ from the defaults.
        defaults: the hyperparameters of an optimizer.
        others: its groups so far.

    Raises:
        TypeError: if the group is not a dict, its parameters come in a set, or one of them is not
            a tensor.
        ValueError: if a parameter is not a leaf tensor, is already in a group, or only some
            parameters or groups have names.
    """
    if not isinstance(param_group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
    params, names = _split_names(_as_list(param_group["params"]))
    for param in params:
        _check_param(param, differentiable=bool(defaults.get("differentiable")))

    group = {**param_group, "params": params}
    if names:
        group["param_names"] = names
    for name, default in defaults.items():
        if default is required and name not in group:
            raise ValueError(
                f"parameter group didn't specify a value of required optimization parameter {name}"
            )
        group.setdefault(name, default)
    _check_unique(group, others)
    return group


def all_params(groups: Iterable[ParamGroup]) -> Iterable[Tensor]:
    """Yield the parameters of all groups, in order."""
    return chain.from_iterable(group["params"] for group in groups)


def zero(grads: Iterable[Tensor], *, listed: bool) -> None:
    """Detach gradients from the graph that made them, and fill them with zeros.

    Args:
        grads: the gradients.
        listed: whether to fill those of one device and dtype together.
    """
    together: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for grad in grads:
        if grad.grad_fn is not None:
            grad.detach_()
        else:
            grad.requires_grad_(False)
        if listed and not grad.is_sparse:
            together[grad.device, grad.dtype].append(grad)
        else:
            grad.zero_()
    for same in together.values():
        torch._foreach_zero_(same)


def _as_list(params: Any) -> list[Any]:
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but "
            "the ordering of tensors in sets will change between runs. Please use a list instead."
        )
    return list(params)


def _split_names(params: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Separate ``(name, parameter)`` pairs; either all parameters have names or none."""
    names = [param[0] for param in params if isinstance(param, tuple)]
    if names and len(names) != len(params):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    return [param[1] if isinstance(param, tuple) else param for param in params], names


def _check_param(param: Any, *, differentiable: bool) -> None:
    if not isinstance(param, Tensor):
        raise TypeError(
            "optimizer can only optimize Tensors, but one of the params is " + torch.typename(param)
        )
    if not differentiable and not (param.is_leaf or param.retains_grad):
        raise ValueError("can't optimize a non-leaf Tensor")


def _check_unique(group: ParamGroup, others: Sequence[ParamGroup]) -> None:
    params = set(group["params"])
    if len(params) != len(group["params"]):
        warnings.warn(
            "optimizer contains a parameter group with duplicate parameters; "
            "in future, this will cause an error; "
            "see github.com/pytorch/pytorch/issues/40967 for more information",
            stacklevel=5,
        )
    for other in others:
        if ("param_names" in group) != ("param_names" in other):
            named = "with names" if "param_names" in group else "without names"
            raise ValueError(
                "all optimizer param groups should be with/without names. "
                f"cannot add param group {named} to the optimizer"
            )
    if not params.isdisjoint(all_params(others)):
        raise ValueError("some parameters appear in more than one parameter group")
