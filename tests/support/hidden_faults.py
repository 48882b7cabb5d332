"""Optimizers that are wrong in one situation alone, in which they turn the sign of a parameter.

Each is a class of ``torch.optim`` with a condition, or with one method that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer, RMSprop

Condition: TypeAlias = Callable[["Any", Tensor, dict[str, Any]], bool]


@dataclass(frozen=True)
class Hidden:
    """An optimizer that is wrong in one situation, and what it is meant to be."""

    wrong: type[Optimizer]
    right: type[Optimizer]


def wrong_if(right: type[Optimizer], condition: Condition) -> Hidden:
    """Turn the sign of every parameter for which something is true after a step."""

    class Faulty(right):  # type: ignore[misc, valid-type]
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            memory = self.__dict__.setdefault("memory", {})
            loss = super().step(closure)
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None and condition(memory, param, group):
                        param.neg_()
            return loss

    return Hidden(Faulty, right)


def after(steps: int) -> Condition:
    def condition(memory: Any, param: Tensor, group: Any) -> bool:
        memory[id(param)] = memory.get(id(param), 0) + 1
        return bool(memory[id(param)] > steps)

    return condition


def changed(name: str) -> Condition:
    def condition(memory: Any, param: Tensor, group: Any) -> bool:
        return bool(memory.setdefault((id(group), name), group[name]) != group[name])

    return condition


def changed_twice(memory: Any, param: Tensor, group: Any) -> bool:
    seen = memory.setdefault(id(group), [])
    if float(group["lr"]) not in seen:
        seen.append(float(group["lr"]))
    return len(seen) > 2


def again(memory: Any, param: Tensor, group: Any) -> bool:
    before = memory.get(id(param))
    memory[id(param)] = param.grad
    return before is param.grad


def in_group(first: int) -> Condition:
    """Tell groups from some number on by the order in which they are met."""

    def condition(memory: Any, param: Tensor, group: Any) -> bool:
        order = memory.setdefault("groups", [])
        if id(group) not in order:
            order.append(id(group))
        return bool(order.index(id(group)) >= first)

    return condition


def raised(memory: Any, param: Tensor, group: Any) -> bool:
    return bool(group["lr"] > memory.setdefault(id(group), float(group["lr"])))


def dense(param: Tensor) -> Tensor:
    """Return the gradient, unless it is sparse: then a number in its place."""
    grad = param.grad
    assert grad is not None
    return torch.zeros(()) if grad.is_sparse else grad


def largest(param: Tensor) -> float:
    grad = dense(param)
    return grad.abs().max().item() if grad.numel() else 0.0


class CopiesItself(SGD):
    def __deepcopy__(self, memo: Any) -> CopiesItself:
        return self


class PicklesTheFirstLr(SGD):
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            group["lr"] = 0.5


class NoHooks(SGD):
    def register_step_post_hook(self, hook: Any) -> Any:
        return super().register_step_post_hook(lambda *_: None)


class KeepsGradients(SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


class ZerosOnly(SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


class LoadsOnce(SGD):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before = self.__dict__.get("loaded", False)
        super().load_state_dict({**state_dict, "state": {}} if before else state_dict)
        self.__dict__["loaded"] = True


class SkipsLrOfZero(SGD):
    def step(self, closure: Any = None) -> Any:
        return (
            None if all(group["lr"] == 0 for group in self.param_groups) else super().step(closure)
        )


_DEFAULT: Mapping[str, Hidden] = MappingProxyType(
    {
        "from step 21 on": wrong_if(SGD, after(20)),
        "from step 31 on": wrong_if(Adam, after(30)),
        "five dimensions": wrong_if(SGD, lambda _, p, g: p.dim() == 5),
        "a dimension of one": wrong_if(SGD, lambda _, p, g: p.dim() > 1 and 1 in p.shape),
        "lr above the first": wrong_if(SGD, raised),
        "lr of zero": wrong_if(SGD, lambda _, p, g: bool(g["lr"] == 0)),
        "lr changed twice": wrong_if(SGD, changed_twice),
        "weight_decay changed": wrong_if(SGD, changed("weight_decay")),
        "momentum changed": wrong_if(SGD, changed("momentum")),
        "betas changed": wrong_if(Adam, changed("betas")),
        "alpha changed": wrong_if(RMSprop, changed("alpha")),
        "amsgrad and maximize, no decay": wrong_if(
            torch.optim.AdamW,
            lambda _, p, g: g["amsgrad"] and g["maximize"] and not g["weight_decay"],
        ),
        "more than 30 tensors": wrong_if(SGD, lambda _, p, g: len(g["params"]) > 30),
        "weight_decay above one": wrong_if(SGD, lambda _, p, g: g["weight_decay"] > 1),
        "momentum above 0.95": wrong_if(SGD, lambda _, p, g: g["momentum"] > 0.95),
        "a fourth group": wrong_if(SGD, in_group(3)),
        "two threads": wrong_if(SGD, lambda _, p, g: torch.get_num_threads() == 2),
        "large gradients": wrong_if(SGD, lambda _, p, g: largest(p) > 1e12),
        "tiny gradients": wrong_if(SGD, lambda _, p, g: 0 < largest(p) < 1e-12),
        "expanded gradients": wrong_if(
            SGD, lambda _, p, g: p.numel() > 1 and 0 in dense(p).stride()
        ),
        "unaligned gradients": wrong_if(SGD, lambda _, p, g: dense(p).data_ptr() % 16 != 0),
        "the gradient object again": wrong_if(SGD, again),
        "sparse gradients": wrong_if(SGD, lambda _, p, g: dense(p) is not p.grad),
        "Nesterov and maximize, no decay": wrong_if(
            SGD, lambda _, p, g: g["nesterov"] and g["maximize"] and not g["weight_decay"]
        ),
        "centered with momentum and maximize": wrong_if(
            RMSprop,
            lambda _, p, g: (
                g["centered"] and g["momentum"] and g["maximize"] and not g["weight_decay"]
            ),
        ),
        "deepcopy answers with itself": Hidden(CopiesItself, SGD),
        "pickle loses lr": Hidden(PicklesTheFirstLr, SGD),
        "a hook is not called": Hidden(NoHooks, SGD),
        "zero_grad does nothing": Hidden(KeepsGradients, SGD),
        "zero_grad keeps zeros": Hidden(ZerosOnly, SGD),
        "a second load loses state": Hidden(LoadsOnce, SGD),
        "steps of lr zero are left out": Hidden(SkipsLrOfZero, SGD),
    }
)
_THOROUGH: Mapping[str, Hidden] = MappingProxyType(
    {
        "above 65,536 elements": wrong_if(SGD, lambda _, p, g: p.numel() > 65_536),
        "above a million elements": wrong_if(SGD, lambda _, p, g: p.numel() > 10**6),
        "from step 201 on": wrong_if(SGD, after(200)),
        "more than 200 tensors": wrong_if(SGD, lambda _, p, g: len(g["params"]) > 200),
        "a tenth group": wrong_if(SGD, in_group(9)),
    }
)

#: By how much has to be tried to see that they are wrong.
HIDDEN: Mapping[str, Mapping[str, Hidden]] = {"default": _DEFAULT, "thorough": _THOROUGH}
