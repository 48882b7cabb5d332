"""The container: parameter groups, state, checkpoints, hooks and gradients, without a step.

A subclass adds what a step does: :class:`~optimlab.rule.Rule` for all whose arithmetic is an update
rule, or a ``step(closure)`` of its own. Hooks, profiling and the graph-capture check are those of
:class:`torch.optim.Optimizer`, which this class extends. Everything that a program can observe is
as in torch, with these decisions:

* ``add_param_group`` or ``load_state_dict`` that is refused leaves the optimizer as it was.
* The dict given to ``add_param_group`` is copied, not completed in place: two optimizers built from
  one dict do not share their learning rate.
* ``load_state_dict`` copies every tensor: two optimizers never share momentum.
* ``state_dict`` refers to the live tensors, as in torch, but its dicts are its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

import torch
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from optimlab import renamed
from optimlab.core import devices, renamed_state
from optimlab.core.checkpoint import StateDict, complete_old_groups, pack, unpack
from optimlab.core.groups import ParamGroup, all_params, complete_group, zero

_P = ParamSpec("_P")
_R = TypeVar("_R")

__getattr__ = renamed.moved_from(__name__)


def _is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether a hook or a profiler waits for the optimizer's step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )


class Optimizer(torch.optim.Optimizer):
    """Base class of all optimizers: everything but the step.

    Attributes:
        state_dict_defaults: hyperparameters that old checkpoints may lack, with their values.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define parameter groups.
        defaults: the hyperparameters of groups that do not set their own.

    Raises:
        TypeError: if ``params`` is a tensor, or contains something that is not a tensor.
        ValueError: if ``params`` is empty, a parameter is not a leaf, or is in two groups.
    """

    state_dict_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        renamed_state.adopt(cls)

    @staticmethod
    def profile_hook_step(func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Wrap a step in torch's profiling and hooks, which cost nothing while nobody watches."""

        @functools.wraps(func)
        def with_optimizer(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            # A hook may have changed the arguments: the errors that follow are torch's.
            _ = cast(Any, args[0]).defaults
            return func(*args, **kwargs)

        watched = torch.optim.Optimizer.profile_hook_step(with_optimizer)

        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # A closure may register a hook.
            if len(args) != 1 or kwargs or torch.compiler.is_compiling() or _is_watched(args[0]):
                return watched(*args, **kwargs)
            return func(*args)  # type: ignore[call-arg]

        return wrapper

    @devices.outside_compile
    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add a parameter group, such as the layers that fine-tuning unfreezes.

        Args:
            param_group: a dict with ``"params"`` (a parameter, or an ordered collection of
                parameters or of ``(name, parameter)`` pairs) and any hyperparameters that differ
                from the defaults. It is copied, not changed.

        Raises:
            TypeError: if the group is not a dict, its parameters come in a set, or one of them is
                not a tensor.
            ValueError: if a parameter is not a leaf tensor, is already in a group, or only some
                parameters or groups have names.
        """
        self.param_groups.append(complete_group(param_group, self.defaults, self.param_groups))

    @devices.outside_compile
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters.

        Args:
            set_to_none: drop the gradients instead of filling them with zeros. A parameter whose
                gradient is ``None`` is left out of the next step; one whose gradient is zero takes
                part, and momentum and weight decay still move it.
        """
        if not hasattr(self, "_zero_grad_profile_name"):
            self._patch_step_function()
        with torch.autograd.profiler.record_function(self._zero_grad_profile_name):
            params = list(all_params(self.param_groups))
            if set_to_none:
                for param in params:
                    param.grad = None
            else:
                listed = self.defaults.get("foreach") or self.defaults.get("fused")
                zero([p.grad for p in params if p.grad is not None], listed=bool(listed))

    # Checkpoints.

    @devices.outside_compile
    def state_dict(self) -> StateDict:
        """Return the optimizer as a dict that can be saved.

        Parameters are replaced by indices, counted through all groups in order::

            {
                "state": {0: {"momentum_buffer": tensor(...)}, 1: ...},
                "param_groups": [{"lr": 0.1, ..., "params": [0, 1]}, ...],
            }

        The tensors are the live ones: save or clone them before the next step.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)

        state_dict = pack(self.state, self.param_groups)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        return state_dict

    @devices.outside_compile
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue from a saved optimizer: the mechanism behind resuming from a checkpoint.

        Hyperparameters come from ``state_dict``, parameters stay this optimizer's own. Groups and
        parameters are matched by position. Each state tensor is copied to its parameter's device
        and, unless it is ``step``, dtype.

        Args:
            state_dict: what :meth:`state_dict` returned, of this class or torch's.

        Raises:
            ValueError: if the number of groups, or of parameters in a group, differs.
            KeyError: if ``state_dict`` lacks an entry, for example SGD's state given to Adam.
                Whatever is raised, the optimizer stays as it was.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            if replaced is not None:
                state_dict = replaced

        state, param_groups = unpack(state_dict, self.param_groups)
        before = {n: value for n, value in vars(self).items() if n in ("state", "param_groups")}
        try:
            self.__setstate__({"state": state, "param_groups": param_groups})
            for post_hook in self._optimizer_load_state_dict_post_hooks.values():
                post_hook(self)
        except BaseException:
            self.__dict__.pop("state", None)
            self.__dict__.update(before)
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        complete_old_groups(self.param_groups, self.state_dict_defaults)
