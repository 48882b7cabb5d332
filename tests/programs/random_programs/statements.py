"""What a program does to an optimizer, as Python that both sides carry out and that can be read.

A statement may use: ``optimizer``, ``params`` and ``param``, one of them, with its ``group``; its
state ``held`` and of that ``last``, the last tensor; ``saved``, a copy of the state dict; ``kept``,
a list that stays; and whatever stands in this module. A statement that uses what is not there, such
as state before the first step, does nothing.
"""

from __future__ import annotations

import re
import types
from collections import defaultdict  # noqa: F401 - statements name it
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np  # noqa: F401 - as above
import torch
from beside import Side
from torch import Tensor, tensor  # noqa: F401 - as above

from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import laid_out


class Absent(LookupError):  # noqa: N818 - it reads as what happened
    """What a statement is about is not there."""


def group_of(side: Side, param: Tensor) -> dict[str, Any]:
    groups = side.optimizer.param_groups
    return next(group for group in groups if any(each is param for each in group["params"]))


def state_of(side: Side, param: Tensor) -> Any:
    held = side.optimizer.state.get(param)
    if not held:
        raise Absent
    return held


def last_of(side: Side, param: Tensor) -> Tensor:
    held = state_of(side, param)
    found = [name for name in held if name != "step" and isinstance(held[name], Tensor)]
    if not found:
        raise Absent
    return held[found[-1]]  # type: ignore[no-any-return]


NAMES: Mapping[str, Callable[[Side, Tensor], Any]] = {
    "optimizer": lambda side, _: side.optimizer,
    "params": lambda side, _: side.params,
    "param": lambda _, param: param,
    "group": group_of,
    "held": state_of,
    "last": last_of,
    "saved": lambda side, _: clone(side.optimizer.state_dict()),
    "kept": lambda side, _: side.kept,
    "library": lambda side, _: side.library,
}


def carry_out(statement: str, side: Side, at: int) -> bool:
    """Carry a statement out on one side; tell whether there was something to do.

    Args:
        statement: of one of the tables below.
        side: ours or theirs.
        at: index of the parameter that it is about.
    """
    code, needed = _compiled(statement)
    param = side.params[at % len(side.params)]
    try:
        names = {name: NAMES[name](side, param) for name in needed}
    except Absent:
        return False
    exec(code, {**globals(), **names})
    return True


@cache
def _compiled(statement: str) -> tuple[types.CodeType, Sequence[str]]:
    code = compile(statement, f"<{statement}>", "exec")
    return code, [name for name in NAMES if re.search(rf"\b{name}\b", statement)]


# What statements call.


def gaps(values: Tensor) -> Tensor:
    """Return the same numbers in every second place of some memory."""
    return laid_out(values, "every second")


def transposed(values: Tensor) -> Tensor:
    """Return the same numbers with the strides in reverse order."""
    return laid_out(values, "transposed" if values.dim() else "contiguous")


def unaligned(values: Tensor) -> Tensor:
    """Return the same numbers one byte behind where a processor likes them."""
    memory = bytearray(values.numel() * values.itemsize + 1)
    moved = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=1)
    return moved.view(values.shape).copy_(values)


def share(params: Sequence[Tensor], param: Tensor) -> None:
    """Put all parameters of the same kind into the memory of one."""
    for each in params:
        if each is not param and (each.shape, each.dtype) == (param.shape, param.dtype):
            each.grad = None
            each.data = param.data


def overlap(params: Sequence[Tensor]) -> None:
    """Put all vectors into one memory, each a number further on than the one before."""
    memory = torch.linspace(-1, 1, 64)
    for place, each in enumerate(params):
        if each.dim() == 1 and each.dtype is memory.dtype:
            each.grad = None
            each.data = memory[place : place + len(each)]


def scale_lr(optimizer: Any, factor: float) -> None:
    """Scale all learning rates as a scheduler does: tensors in place, each once."""
    filled: dict[int, Tensor] = {}
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            filled[id(group["lr"])] = group["lr"]
        else:
            group["lr"] *= factor
    for lr in filled.values():
        lr.detach().mul_(factor)


def of_another(library: Any, params: Sequence[Tensor], optimizer: Any, name: str) -> Any:
    """Return the state dict of an optimizer of another class over as many parameters."""
    copies = {param: param.detach().clone().requires_grad_() for param in params}
    groups = [
        {"params": [copies[param] for param in group["params"]]} for group in optimizer.param_groups
    ]
    other = getattr(library, name)(groups, **({"momentum": 0.9} if "Adam" not in name else {}))
    for param in copies.values():
        param.grad = param.detach().clone()
    other.step()
    return clone(other.state_dict())


CHANGES = (
    "pass",
    # gradients
    "optimizer.zero_grad()",
    "optimizer.zero_grad(set_to_none=False)",
    "param.grad = None",
    # parameters in other memory, of another layout or dtype
    "param.data = param.data.clone()",
    "param.data = gaps(param.data)",
    "param.data = transposed(param.data)",
    "param.data = unaligned(param.data)",
    "param.data = torch._neg_view(param.data)",
    "param.grad = None; param.data = param.data.real.float()",
    "param.grad = None; param.data = param.data.real.double()",
    "param.grad = None; param.data = param.data.real.bfloat16()",
    "share(params, param)",
    "overlap(params)",
    "param.data.mul_(0.5)",
    # state, looked at, changed, replaced, forgotten
    "last",
    "held['step'] += 1",
    "last.add_(1)",
    "last.data = last.data + 1",
    "last.data = torch._neg_view(last.data)",
    "last.data = transposed(last.data)",
    "last.untyped_storage().resize_(4096)",
    "held.update({name: value.clone() for name, value in held.items()})",
    "held.update(reversed(list(held.items())))",
    "held.clear()",
    "optimizer.state.pop(param, None)",
    "held.update(step=held['step'].double())",
    "optimizer.state['note'] = [1, 2]",
    # what somebody has kept of the state, and comes back to
    "kept.append(last)",
    "kept.append(last.detach())",
    "kept.append(held)",
    "kept.append(optimizer.state)",
    "kept.append(optimizer.state_dict())",
    "kept.clear()",
    "[each.data.add_(1) for each in kept if isinstance(each, torch.Tensor)]",
    "[setattr(each, 'data', each + 1) for each in kept if isinstance(each, torch.Tensor)]",
    "[each.untyped_storage().resize_(4096) for each in kept if isinstance(each, torch.Tensor)]",
    # groups and the optimizer
    "scale_lr(optimizer, 0.5)",
    "scale_lr(optimizer, 2.0)",
    "group['params'] = list(group['params'])",
    "group['params'].append(group['params'].pop(0))",
    "optimizer.param_groups.reverse()",
    "optimizer.param_groups = list(optimizer.param_groups)",
    "optimizer.param_groups[:] = [dict(each) for each in optimizer.param_groups]",
    "group['mine'] = 1",
    "optimizer.defaults['mine'] = 1",
    "optimizer.defaults.pop('lr', None)",
    # torch goes on with the very tensors that it loads, and somebody may have kept them
    "kept.clear(); optimizer.load_state_dict(optimizer.state_dict())",
    "optimizer.__setstate__(optimizer.__getstate__())",
    "raise ArithmeticError('no loss')",
)
"""What goes on afterwards; also in a hook or a closure."""

ALONE = (
    # what both sides have in common
    "torch.set_default_dtype(torch.float64)",
    "torch.set_default_dtype(torch.float32)",
    # what is refused, most of it
    "optimizer.step(5)",
    "optimizer.step(None, 5)",
    "optimizer.step(closure=lambda: 0.25, more=1)",
    "optimizer.zero_grad(5, 5)",
    "optimizer.add_param_group({'params': {param}})",
    "optimizer.add_param_group({'params': [param, 1.5]})",
    "optimizer.add_param_group({'params': param * 2})",
    "optimizer.add_param_group({'params': param.detach()[:0] * 2})",
    "optimizer.add_param_group({'params': 3})",
    "optimizer.add_param_group({'params': [tensor(1.0), ('a', tensor(1.0))]})",
    "optimizer.add_param_group({'params': [('a', tensor(1.0))]})",
    "optimizer.add_param_group({'params': tensor(1.0)})",
    "optimizer.add_param_group({'params': param})",
    "optimizer.add_param_group({'params': [tensor(1.0)] * 2, 'lr': -1})",
    "optimizer.add_param_group([param])",
    "optimizer.add_param_group({'lr': 0.1})",
    "optimizer.add_param_group({'params': []})",
)
"""What is not for hooks and closures."""

DAMAGE = (
    "saved.pop('state')",
    "saved.pop('param_groups')",
    "saved['param_groups'].append({'params': []})",
    "saved['param_groups'].pop()",
    "saved['param_groups'][-1]['params'].pop()",
    "saved['param_groups'][0].pop('params')",
    "saved['state'].clear()",
    "[each.popitem() for each in saved['state'].values() if each]",
    "[each.pop('step', None) for each in saved['state'].values()]",
    "[each.update(step=1.0) for each in saved['state'].values() if 'step' in each]",
    "[each.pop('foreach') for each in saved['param_groups']]",
    "[each.pop('maximize') for each in saved['param_groups']]",
    "[each.pop('fused', 0) for each in saved['param_groups']]",
    "[each.pop('differentiable') for each in saved['param_groups']]",
    "[each.pop('amsgrad', 0) for each in saved['param_groups']]",
    "[each.pop('momentum', 0) for each in saved['param_groups']]",
    "[each.pop('lr') for each in saved['param_groups']]",
    "saved['state'].update({'note': [1, 2], 77: tensor([1.0, 2.0]), 99: {'a': 1}})",
    "[value.requires_grad_() for each in saved['state'].values() for value in each.values()]",
    *(
        f"saved = of_another(library, params, optimizer, {name!r})"
        for name in ("SGD", "Adam", "AdamW", "RMSprop")
    ),
)
"""What is wrong with a state dict that is loaded."""

_STEPS = (
    *("tensor([3.0, 3.0])", "tensor([3.0])", "tensor(3.0, dtype=torch.float64)"),
    *("tensor(3.0, dtype=torch.bfloat16)", "tensor(3)", "tensor(3.0 + 1j)", "tensor(-5.0)"),
    *("tensor(-1.0)", "tensor(2.5)", "tensor(0.1)", "tensor(float('nan'))", "3.0", "None"),
    *("tensor(3.0, requires_grad=True)", "tensor(3.0).expand(3)", "tensor(2.0**24)"),
)
DETOURS = (
    "last.data = gaps(last.data)",
    *(f"held.update(step={step}) if 'step' in held else None" for step in _STEPS),
    "[each.update(step=held['step']) for each in optimizer.state.values() if 'step' in held]",
    "held['step'].data = held['step'].data.expand(3)",
    "held.pop('step', None)",
    "held.popitem()",
    "held.update({name: 5.0 for name in held})",
    "held.update({name: None for name in held})",
    "optimizer.state[param] = {'seen': tensor(1.0)}",
    "optimizer.state[param] = None",
    "optimizer.state = defaultdict(dict)",
    "group.update(foreach=True, fused=True)",
    "group.update(fused=True)",
    "group.update(fused=True, foreach=False)",
    "group.update(capturable=True)",
    "group.update(differentiable=True)",
    "optimizer.defaults['differentiable'] = True",
    "optimizer.grad_scale, optimizer.found_inf = tensor(1024.0), tensor(0.0)",
    "optimizer.grad_scale, optimizer.found_inf = None, tensor(0.0)",
    "optimizer.grad_scale = tensor(1024.0)",
    "optimizer.found_inf = tensor(float('momentum' not in group))",
)
"""After which a program steps, and comes back to where it was."""

UNFUSED = (
    "param.grad = None; param.data = tensor(1.0, dtype=param.dtype).expand(param.shape)",
    "held.update({name: torch.ones(2, 7) for name in held if name != 'step'})",
    "held.update({name: torch.ones(2, 7) for name in list(held)[-1:] if name != 'step'})",
)
"""As above, where no fused kernel would write to memory that is not there."""

_MEND = "before = kept.pop(); group.clear(); group.update(before)"
FAULTS: Mapping[str, str] = {
    **{
        f"kept.append(dict(group)); group.update({change})": _MEND
        for change in (
            *("lr='0.1'", "lr=tensor([0.1, 0.2])", "lr=10**400", "weight_decay='0.1'"),
            *("eps='0.1'", "momentum=torch.ones(3, 2, 7)", "betas=(0.9, '0.9')"),
        )
    },
    "param.grad_dtype = None; param.grad = torch.ones(param.shape, dtype=torch.int64)": (
        "param.grad = None; param.grad_dtype = param.dtype"
    ),
    "kept.append(dict(held)); held.update({list(held)[-1]: torch.ones(2, 7)})": (
        "held.update(kept.pop())"
    ),
}
"""What lets an operation fail, and what mends it: both sides go on from where that left them."""

ODD = (
    *("np.array(0.05)", "np.float64(0.05)", "np.float32(0.05)", "np.array([0.05])"),
    *("2**53 + 1", "2**64", "1152921573326323713", "10**400", "1e39", "1e-46", "True", "-0.0"),
    *("-0.5", "1.5", "'0.1'", "None", "1j", "[0.1]", "float('nan')", "float('inf')"),
    *("tensor([0.1, 0.2])", "tensor(1)", "tensor([[0.05]])", "tensor(0.05)"),
)
"""Values that no hyperparameter should have."""
ODD_BETAS = (*(f"(0.9, {each})" for each in ODD), "(0.9, 0.9, 0.9)", "()", "[0.9, 0.9]", "'0.9'")
