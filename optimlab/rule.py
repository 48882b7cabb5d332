"""The base of optimizers whose update rule is written once, and their one ``step``.

A subclass adds its rule, :meth:`Rule.update`, and declares the state that the rule keeps. Beside
torch there are these decisions, and those of ``optimizer.py``:

* A step that is refused leaves the optimizer as it was: every group is checked before any is
  changed. (What fails after that, in an operation, leaves what it leaves in torch.)
* ``p.grad`` is only ever read. (torch's foreach Nesterov momentum overwrites it, and so does a
  weight decay that autograd differentiates.)
"""

from __future__ import annotations

import functools
import inspect
import types
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimlab.core import checks, devices, renamed_state
from optimlab.core.batch import Batch, Execution, FusedStep, Member
from optimlab.core.checkpoint import steps_to_tensors
from optimlab.core.decorators import pure, unequal_steps
from optimlab.core.groups import ParamGroup
from optimlab.core.program import Program
from optimlab.core.state import Count, First, Like, StateSpec
from optimlab.core.tracer import trace_rule
from optimlab.core.values import L, T
from optimlab.execution import execute, of_one_kind
from optimlab.optimizer import Optimizer

__all__ = ["Count", "First", "Like", "Rule", "StateSpec", "Step", "pure", "unequal_steps"]

Step: TypeAlias = float | T
"""A step count: a number, or a tensor where its value must stay on the device or in autograd.

In place of a number, a rule declared :func:`unequal_steps` gets :class:`optimlab.values.StepCount`.
"""


class Rule(Optimizer):
    """Base class of optimizers whose update rule is written once.

    A subclass defines :meth:`update`, passes its hyperparameters to ``super().__init__`` as
    ``defaults``, and declares what differs from the usual:

    Attributes:
        state_spec: the state that the rule keeps of each parameter; by default none.
        keys: the entries of a group that a step reads, in torch's order; a group that lacks one is
            refused. Where a class names none, all hyperparameters that it was constructed with.
        scalars: those of them that may be 1-element tensors of any shape; the rule gets them
            without dimensions.
        complex_as_real: whether complex parameters are optimized as pairs of real numbers.
        sparse_gradients: ``True``, or the message of the error that refuses them.
        state_dict_defaults: hyperparameters that old checkpoints may lack, with their values.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define parameter groups.
        defaults: the hyperparameters of groups that do not set their own.

    Raises:
        TypeError: if ``params`` is a tensor, or contains something that is not a tensor.
        ValueError: if ``params`` is empty, a parameter is not a leaf, or is in two groups.
        RuntimeError: if ``fused`` is combined with ``differentiable`` or ``foreach``.
    """

    state_spec: ClassVar[StateSpec] = StateSpec()
    keys: tuple[str, ...] = ()
    scalars: ClassVar[tuple[str, ...]] = ()
    complex_as_real: ClassVar[bool] = True
    sparse_gradients: ClassVar[bool | str] = True

    # Whether a group that asks for ``foreach`` and ``fused`` gets the former.
    _prefers_foreach: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Give a class that names a rule a ``step`` of its own, whose errors name the class."""
        super().__init_subclass__(**arguments)
        if Rule in cls.__bases__ and "step" not in vars(cls):
            cls.step = _named_after(cls, inspect.unwrap(Rule.step))  # type: ignore[method-assign]

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        defaults.setdefault("differentiable", False)
        self._name_keys(defaults)
        super().__init__(params, defaults)
        if defaults.get("fused"):
            if defaults["differentiable"]:
                raise RuntimeError("`fused` does not support `differentiable`")
            if defaults.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
            # torch.amp.GradScaler asks this, and then leaves unscaling to the kernel.
            self._step_supports_amp_scaling = True

    def _name_keys(self, defaults: Mapping[str, Any]) -> None:
        """Note which hyperparameters a class has that does not say so itself."""
        if not self.keys:
            self.keys = tuple(defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.pop("_cached_step", None)  # which would keep the old state alive
        self._name_keys(self.defaults)
        if self.state_spec.count is not None:
            steps_to_tensors(self.state, self.param_groups, self._flag)

    if not TYPE_CHECKING:  # for one release

        def __getattr__(self, name):
            return renamed_state.old_attribute(self, name)

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The state of each parameter: a dict of tensors by name.

        Whoever asks may change it: the next step looks at all of it (``native/ownership.py``).
        """
        try:
            state: defaultdict[Tensor, Any] = self.__dict__["state"]
        except KeyError:
            name = type(self).__name__
            raise AttributeError(f"{name!r} object has no attribute 'state'") from None
        # In this order: who has the state before the flag is up shows in the counts of references.
        cached = self.__dict__.get("_cached_step")
        if cached is not None:
            cached.escaped[0] = 1
        return state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.__dict__["state"] = state

    @state.deleter
    def state(self) -> None:
        del self.__dict__["state"]

    # The rule, which a subclass writes.

    def update(
        self, param: T, grad: T, state: dict[str, T], step: Step[T], group: ParamGroup
    ) -> None:
        """Change ``param`` and ``state`` by one step: the update rule.

        Args:
            param: the parameter, changed in place.
            grad: its gradient, which must not be written to.
            state: the tensors that :attr:`state_spec` names, changed in place.
            step: how many steps this one makes, counted from 1.
            group: the hyperparameters.
        """
        raise NotImplementedError

    def fused_update(
        self, param: L, grad: L, state: dict[str, L], step: L, group: ParamGroup, scaling: FusedStep
    ) -> None:
        """Hand the step to a fused kernel of torch; only for optimizers that have one."""
        raise NotImplementedError

    def check(self, batch: Batch) -> None:
        """Refuse, before anything has changed, what the rule cannot do with this batch.

        Raises:
            AssertionError: if lists of tensors are to be differentiated through, or a graph
                captured where that is not possible.
        """
        checks.check_autograd(batch)
        checks.check_capturable(batch)

    # One step.

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Perform one optimization step on every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or ``None``.
        """
        if devices.HAS_GRAPHS and "capturable" in self.keys:
            self._check_graph_capture()
        cached: Any = self.__dict__.get("_cached_step")
        can_replay = closure is None and cached is not None and not torch.compiler.is_compiling()
        if can_replay and cached.replay(self):
            return None
        loss = None
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
                cached = self.__dict__.get("_cached_step")  # which the closure may have dropped
                if cached is not None and not torch.compiler.is_compiling() and cached.replay(self):
                    return loss
            batches = [self._checked_batch(group) for group in self.param_groups]
            cached = execute(self, batches)
            if cached is not None:
                self._cached_step = cached
        return loss

    def _check_graph_capture(self) -> None:
        # torch 2.11 knows it by its old name.
        check = getattr(self, "_accelerator_graph_capture_health_check", None)
        (check or self._cuda_graph_capture_health_check)()

    def _checked_batch(self, group: ParamGroup) -> Batch:
        """Collect what takes part in a step and refuse what cannot; nothing is changed yet."""
        batch = self._collect(group)
        if self.state_spec.count is not None:
            checks.check_counts(batch)
        self.check(batch)
        if batch.execution is not Execution.FOR_LOOP:
            batch.lists = of_one_kind(batch)
        if batch.execution is not Execution.FUSED:
            negated = self._flag(group, "maximize")
            checks.check_dtypes(batch, negated=negated, complex_as_real=self.complex_as_real)
        return batch

    def _collect(self, group: ParamGroup) -> Batch:
        """Collect what a parameter group takes part in a step with.

        Raises:
            KeyError: for what the group, or the state of a parameter, lacks.
        """
        pairs = ((param, param.grad) for param in group["params"])
        members = [self._collect_member(p, grad, group) for p, grad in pairs if grad is not None]
        for key in self.keys:
            _ = group[key]
        # torch asks what is kept parameter by parameter, but once a group for what its rule makes.
        asks = bool(members) or self.state_spec.made_by_rule
        return Batch(
            group,
            self.state_spec.names(group) if asks else (),
            members,
            self._execution(group, [member.param for member in members]),
            self._flag(group, "capturable"),
            self._flag(group, "differentiable"),
        )

    def _collect_member(self, param: Tensor, grad: Tensor, group: ParamGroup) -> Member:
        """Collect what a parameter takes part in a step with; refuse what the rule cannot take."""
        if grad.is_sparse and self.sparse_gradients is not True:
            raise RuntimeError(self.sparse_gradients)
        spec = self.state_spec
        if spec.made_by_rule:
            held = {name: self.state.get(param, {}).get(name) for name in spec.names(group)}
            return Member(param, grad, {k: v for k, v in held.items() if v is not None})
        held = self.state.get(param, {})
        if len(held) == 0:
            if self._flag(group, "fused"):
                devices.check_fused(param)
            _ = self._flag(group, "capturable"), spec.names(group)
            return Member(param, grad, {}, is_new=True)
        state = {name: held[name] for name in spec.reads(group)}
        return Member(param, grad, state, None if spec.count is None else state.pop("step"))

    def _flag(self, group: ParamGroup, name: str) -> Any:
        """Return an option of a group, if optimizers of this class have it."""
        return group[name] if name in self.keys else None

    def _execution(self, group: ParamGroup, params: Sequence[Tensor]) -> Execution:
        foreach, fused = self._flag(group, "foreach"), self._flag(group, "fused")
        if foreach is None and fused is None:
            foreach = self._foreach_by_default(params, group)
        if fused and not (foreach and self._prefers_foreach):
            return Execution.FUSED
        return Execution.FOREACH if foreach else Execution.FOR_LOOP

    def _foreach_by_default(self, params: Sequence[Tensor], group: ParamGroup) -> bool:
        """Tell what ``foreach=None`` means for these parameters, as torch decides it."""
        return devices.foreach_by_default(params, differentiable=group["differentiable"])

    # Reading the rule.

    def program(self, group: int | ParamGroup = 0, *, step: int | None = None) -> Program:
        """Record what a step does to each parameter of a group, as a list of instructions.

        Args:
            group: a parameter group, or its index.
            step: which step to record, counted from 1; by default the next one.

        Returns:
            Program: print it to read it, :meth:`~optimlab.Program.run` it to carry it out.

        Example:
            >>> import torch, optimlab
            >>> optimizer = optimlab.SGD([torch.zeros(2)], lr=0.1, momentum=0.9)
            >>> print(optimizer.program(step=2))
            SGD, step 2, for-loop: param, grad, momentum_buffer
                momentum_buffer.mul_(0.9)                # momentum
                momentum_buffer.add_(grad, alpha=1.0)    # 1 - dampening
                param.add_(momentum_buffer, alpha=-0.1)  # -lr
        """
        if isinstance(group, int):
            group = self.param_groups[group]
        if step is None:
            held = next((self.state[p] for p in group["params"] if self.state.get(p)), None)
            step = 1 if held is None else 1 + int(held["step"] if self.state_spec.count else 1)
        params = [param for param in group["params"] if param.grad is not None] or group["params"]
        return trace_rule(
            self,
            group,
            step,
            self._execution(group, params),
            is_complex=any(param.is_complex() for param in params),
            step_is_tensor=bool(
                self._flag(group, "capturable") or self._flag(group, "differentiable")
            ),
        )


renamed_state.take_over(Rule)


def _named_after(cls: type, function: Any) -> Any:
    """Copy a method, for a class of its own: errors of its arguments then name that class."""
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    functools.update_wrapper(copy, function)
    vars(copy).pop("__wrapped__")
    copy.__qualname__ = f"{cls.__qualname__}.{function.__name__}"
    copy.__module__ = cls.__module__
    return copy
