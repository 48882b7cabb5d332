"""One of the two optimizers that are compared, and what a scenario does to it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import leaves, snapshot
from optimlab.lab.lockstep.clone import clone, save_and_load
from optimlab.lab.lockstep.scenario import Scenario, laid_out

_SCALE = 1024.0

#: Makes an optimizer from what torch calls ``params``: a list of group dicts.
Make: TypeAlias = Callable[[list[dict[str, Any]]], Optimizer]


class Replica:
    """An optimizer with parameters of its own, and what a scenario does to it."""

    optimizer: Optimizer  # once it was constructed
    seen: dict[str, Any]  # all that there was to be seen at the last snapshot
    saved: dict[str, Any]  # the last state dict

    def __init__(self, make: Make, scenario: Scenario, ignored: Collection[str] = ()) -> None:
        self._make = make
        self._ignored = ignored
        self._scenario = scenario
        groups = {0, 1, *(spec.group for spec in scenario.tensors)} - {2}
        self._groups = sorted(groups)
        self._reused: dict[int, Tensor] = {}
        # What calls between steps saw, to be compared, too.
        self.noted: list[Any] = []
        self._number = 0
        # The gradients of the last step, of which the parameters hold copies.
        self.given: Sequence[Tensor | None] = ()
        # In a differentiable scenario parameters are computed from sources, and gradients from
        # what was passed.
        self.passed: list[Tensor] = []
        self.derivatives: Sequence[Tensor | str | None] = ()
        self.sources: list[Tensor] = [value.requires_grad_() for value in scenario.start()]
        self.params: list[Tensor] = self.sources
        if scenario.differentiable:
            self.params = [self._computed(source) for source in self.sources]

    def construct(self) -> None:
        """Make the optimizer over the groups that there are by now."""
        self.optimizer = self._make([self._group(number) for number in self._groups])

    def add_group(self) -> None:
        """Add group 2."""
        self._groups.append(2)
        self.optimizer.add_param_group(self._group(2))

    def halve_lr(self) -> None:
        """Halve the learning rate of every group as a scheduler does."""
        self.scale_lr(0.5)

    def scale_lr(self, factor: float) -> None:
        """Multiply the learning rate of every group as a scheduler does, each tensor once."""
        filled: set[int] = set()
        for group in self.optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"] * factor
            elif id(group["lr"]) not in filled:
                filled.add(id(group["lr"]))
                with torch.no_grad():
                    group["lr"].mul_(factor)

    def set_option(self, name: str, value: Any) -> None:
        """Give every group another value, in place if it is a tensor."""
        for group in self.optimizer.param_groups:
            before = group.get(name)
            if isinstance(before, Tensor):
                with torch.no_grad():
                    before.fill_(value)
            elif isinstance(before, tuple) and len(before) == len(value):
                group[name] = value
            elif isinstance(before, float | int) and (before or name != "momentum"):
                group[name] = value  # a momentum that was none has no state to go on with

    def reload(self) -> None:
        """Load the optimizer's own state dict into itself."""
        self.optimizer.load_state_dict(save_and_load(self.optimizer.state_dict()))

    def load_anew(self) -> None:
        """Go on in a new optimizer that loads the state dict."""
        self.resume(save_and_load(self.optimizer.state_dict()))

    def deepcopy(self) -> None:
        """Go on in a deep copy of the optimizer and its parameters."""
        before = self.optimizer, _addresses(self.optimizer)
        self.optimizer, self.params = copy.deepcopy((self.optimizer, self.params))
        shared = before[1] & _addresses(self.optimizer)
        self.noted.append({"itself": self.optimizer is before[0], "shared state": len(shared)})

    def pickle(self) -> None:
        """Go on in what pickle makes of the optimizer and its parameters."""
        self.optimizer, self.params = _pickled((self.optimizer, self.params))

    def register_hooks(self) -> None:
        """Register a hook of each kind that notes in which steps it was called.

        A class that calls ``super().step()`` may call those of a step twice.
        """
        for kind in ("step_pre", "step_post", "load_state_dict_pre", "load_state_dict_post"):
            register = getattr(self.optimizer, f"register_{kind}_hook")
            register(partial(self._note_call, kind))

    def _note_call(self, kind: str, *_: Any) -> None:
        if (kind, self._number) not in self.noted:
            self.noted.append((kind, self._number))

    def zero_grad(self, set_to_none: bool) -> None:
        """Call ``zero_grad()`` and note what it leaves."""
        self.optimizer.zero_grad(set_to_none=set_to_none)
        self.noted.append([clone(param.grad) for param in self.params])

    def save(self) -> None:
        """Take a state dict, for either side to resume from."""
        self.saved = self.optimizer.state_dict()

    def resume(self, state_dict: dict[str, Any]) -> None:
        """Go on in a new optimizer that loads a state dict."""
        self.construct()
        self.optimizer.load_state_dict(state_dict)

    def step(self, number: int, gradients: Sequence[Tensor | None]) -> None:
        """Give every parameter a copy of its gradient and call ``step()``."""
        self.given, self._number = gradients, number
        for index, (param, grad) in enumerate(zip(self.params, gradients, strict=True)):
            param.grad = None if grad is None else self._passed(self._copied(index, grad))
        if self._scenario.unscale:
            self._tell_scale(found_inf=number % 4 == 0)
        self.optimizer.step()

    def backward(self) -> None:
        """Differentiate the parameters with respect to where they started and all gradients.

        Where autograd refuses, because a later step changed in place what an earlier one saved, the
        kind of error is kept instead: its message counts operations.
        """
        outputs = [param for param in self.params if param.requires_grad]
        ones = [torch.ones_like(output) for output in outputs]
        try:
            self.derivatives = torch.autograd.grad(
                outputs, [*self.sources, *self.passed], ones, allow_unused=True, retain_graph=True
            )
        except RuntimeError as error:
            self.derivatives = [type(error).__name__]

    def snapshot(self) -> None:
        """Lay out in ``seen`` all that can be seen of this side now."""
        self.seen = snapshot(self.optimizer, self.params, self._ignored)
        self.seen["backward"] = list(self.derivatives)
        self.seen["noted"] = list(self.noted)

    def _tell_scale(self, found_inf: bool) -> None:
        # The names through which torch.amp.GradScaler tells an optimizer.
        device = self._scenario.device
        self.optimizer.grad_scale = torch.tensor(_SCALE, device=device)  # type: ignore[attr-defined]
        self.optimizer.found_inf = torch.tensor(  # type: ignore[attr-defined]
            float(found_inf), device=device
        )

    def _copied(self, index: int, grad: Tensor) -> Tensor:
        if self._scenario.gradients_in_place and index in self._reused:
            return self._reused[index].copy_(grad)
        if self._scenario.tensors[index].gradient_layout == "unaligned":
            self._reused[index] = laid_out(grad, "unaligned")
        else:
            self._reused[index] = clone(grad)
        return self._reused[index]

    def _passed(self, grad: Tensor) -> Tensor:
        if not self._scenario.differentiable:
            return grad
        self.passed.append(grad)
        return grad.clone()  # the result of a computation, as a differentiable gradient is

    def _computed(self, source: Tensor) -> Tensor:
        # Strides stay, and the result is no leaf, so that autograd sees through the steps.
        param = source.view_as(source).clone(memory_format=torch.preserve_format)
        param.retain_grad()
        return param

    def _group(self, number: int) -> dict[str, Any]:
        names = self._scenario.names
        members = [i for i, spec in enumerate(self._scenario.tensors) if spec.group == number]
        params = [(names[i], self.params[i]) if names else self.params[i] for i in members]
        turn = number - 1 if number <= 2 else number % 2
        override = self._scenario.overrides[turn] if number else {}
        return {"params": params, **{key: clone(value) for key, value in override.items()}}


class _Pickler(pickle.Pickler):
    """Leaves classes as they are: those of a function or a notebook have no name to import."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.classes: list[type] = []

    def persistent_id(self, value: Any) -> int | None:
        if not (isinstance(value, type) and issubclass(value, Optimizer)):
            return None
        self.classes.append(value)
        return len(self.classes) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, classes: Sequence[type]) -> None:
        super().__init__(file)
        self.classes = classes

    def persistent_load(self, pid: Any) -> Any:
        return self.classes[pid]


def _pickled(value: Any) -> Any:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    file.seek(0)
    return _Unpickler(file, pickler.classes).load()


def _addresses(optimizer: Optimizer) -> set[int]:
    """Say where the tensors of the state are."""
    tensors = (v for entries in optimizer.state.values() for _, v in leaves(entries))
    return {v.data_ptr() for v in tensors if isinstance(v, Tensor) and v.numel()}
