"""The base of every optimizer: parameter groups, state, checkpoints and the one ``step``.

What a subclass adds is its rule: :meth:`Optimizer.update`, and the names of the state it keeps.
Hooks, profiling and the graph-capture check are those of :class:`torch.optim.Optimizer`, which
this class extends. Everything that a program can observe is as in torch, with these decisions:

* A step, ``add_param_group`` or ``load_state_dict`` that is refused leaves the optimizer as it was.
  ``step`` checks every group before it changes any. (What fails after that, in an operation, leaves
  what it leaves in torch.)
* The dict given to ``add_param_group`` is copied, not completed in place: two optimizers built from
  one dict do not share their learning rate.
* ``load_state_dict`` copies every tensor: two optimizers never share momentum.
* ``state_dict`` refers to the live tensors, as in torch, but its dicts are its own.
* ``p.grad`` is only ever read. (torch's foreach Nesterov momentum overwrites it, and so does a
  weight decay that autograd differentiates.)
"""

from __future__ import annotations

import functools
import inspect
import types
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, ParamSpec, TypeAlias, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import (
    ParamsT,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from optimlab.core import devices
from optimlab.core.batch import Batch, Execution, FusedStep, Member
from optimlab.core.checkpoint import StateDict, complete_old_groups, pack, steps_to_tensors, unpack
from optimlab.core.groups import ParamGroup, all_params, complete_group, zero
from optimlab.core.program import Program, Recorder, Symbol
from optimlab.core.values import L, T, as_scalars
from optimlab.execution import carry_out, of_one_kind

Step: TypeAlias = float | T
"""A step count: a number, or a tensor where its value must stay on the device or in autograd.

In place of a number, a rule declared :func:`unequal_steps` gets :class:`optimlab.values.Unread`.
"""


_P = ParamSpec("_P")
_R = TypeVar("_R")


def pure(update: Callable[_P, _R]) -> Callable[_P, _R]:
    """Declare that an update rule depends on its arguments alone, and changes nothing else.

    Such a rule need not be run anew for the numbers of each step, which saves some microseconds.
    A rule that looks at attributes of the optimizer, the time or a random number is not pure, and
    neither is one that asks for the ``type()`` of a hyperparameter, rather than ``isinstance``.
    """
    cast(Any, update).declared_pure = update  # itself: functools.wraps copies attributes
    return update


def unequal_steps(update: Callable[_P, _R]) -> Callable[_P, _R]:
    """Declare that an update rule can be read on a list of tensors of unequal step counts.

    It gets a step count that :func:`optimlab.values.read_step` reads, and must not compare or
    convert that: on lists it is one number for each tensor (:class:`optimlab.values.Numbers`).
    Where the rule makes state itself, some of the tensors may have it and others not
    (:class:`optimlab.values.PartialState`). For a rule without this declaration lists are divided,
    so that each has one step count, which is a float, and either all of its state or none.
    """
    cast(Any, update).declared_unequal = update  # itself: functools.wraps copies attributes
    return update


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
    """Base class of optimizers whose update rule is written once.

    A subclass defines :meth:`update` and :meth:`state_names`, passes its hyperparameters to
    ``super().__init__`` as ``defaults``, and declares what differs from the usual:

    Attributes:
        keys: the entries of a group that a step reads, in torch's order; a group that lacks one is
            refused. Where a class names none, all hyperparameters that it was constructed with.
        scalars: those of them that may be 1-element tensors of any shape; the rule gets them
            without dimensions.
        prefers_foreach: whether a group that asks for ``foreach`` and ``fused`` gets the former.
        counts_steps: whether each parameter has a state tensor ``step``.
        complex_as_real: whether complex parameters are optimized as pairs of real numbers.
        sparse_gradients: ``True``, or the message of the error that refuses them.
        rule_makes_state: whether the rule itself makes the state at a parameter's first step;
            otherwise state starts as zeros of the parameter's shape, dtype and strides.
        step_device: where step counts live that need not be on the device; ``None`` for torch's
            default device.
        state_dict_defaults: hyperparameters that old checkpoints may lack, with their values.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define parameter groups.
        defaults: the hyperparameters of groups that do not set their own.

    Raises:
        TypeError: if ``params`` is a tensor, or contains something that is not a tensor.
        ValueError: if ``params`` is empty, a parameter is not a leaf, or is in two groups.
        RuntimeError: if ``fused`` is combined with ``differentiable`` or ``foreach``.
    """

    keys: tuple[str, ...] = ()
    scalars: ClassVar[tuple[str, ...]] = ()
    prefers_foreach: ClassVar[bool] = False
    counts_steps: ClassVar[bool] = True
    complex_as_real: ClassVar[bool] = True
    sparse_gradients: ClassVar[bool | str] = True
    rule_makes_state: ClassVar[bool] = False
    step_device: ClassVar[str | None] = "cpu"
    state_dict_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Give a class that names a rule a ``step`` of its own, whose errors name the class."""
        super().__init_subclass__(**arguments)
        if Optimizer in cls.__bases__ and "step" not in vars(cls):
            cls.step = _named_after(cls, inspect.unwrap(Optimizer.step))  # type: ignore[method-assign]

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
            state: the tensors named by :meth:`state_names`, changed in place.
            step: how many steps this one makes, counted from 1.
            group: the hyperparameters.
        """
        raise NotImplementedError

    def fused_update(
        self,
        param: L,
        grad: L,
        state: dict[str, L],
        step: L,
        group: ParamGroup,
        scaling: FusedStep,
    ) -> None:
        """Hand the step to a fused kernel of torch; only for optimizers that have one."""
        raise NotImplementedError

    def state_names(self, group: ParamGroup) -> tuple[str, ...]:
        """Return the names of the state tensors that the rule uses with these hyperparameters."""
        return ()

    def init_state(self, param: Tensor, group: ParamGroup) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step."""
        return {
            name: torch.zeros_like(param, memory_format=torch.preserve_format)
            for name in self.state_names(group)
        }

    def init_step(self, param: Tensor, group: ParamGroup) -> Tensor:
        """Return the step count of a parameter before its first step.

        It lives on the CPU, because launching a kernel to count costs more than counting, unless
        a captured graph or a fused kernel must count by itself.
        """
        fused = self._flag(group, "fused")
        dtype = devices.step_dtype(fused=fused)
        if self._flag(group, "capturable") or fused:
            return torch.zeros((), dtype=dtype, device=param.device)
        # A constant, whose value is known also where tensors are fake.
        return torch.tensor(0.0, dtype=dtype, device=self.step_device)

    def check(self, batch: Batch) -> None:
        """Refuse, before anything has changed, what the rule cannot do with this batch.

        Raises:
            AssertionError: if lists of tensors are to be differentiated through, or a graph
                captured where that is not possible.
        """
        self.check_autograd(batch)
        self.check_capturable(batch)

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
            cached = carry_out(self, batches)
            if cached is not None:
                self._cached_step = cached
        return loss

    @staticmethod
    def profile_hook_step(func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Wrap a step in torch's profiling and hooks, which cost nothing while nobody watches."""

        @functools.wraps(func)
        def with_optimizer(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            # A hook may have changed the arguments: the errors that follow are torch's.
            _ = cast(Any, args[0]).defaults["differentiable"]
            return func(*args, **kwargs)

        watched = torch.optim.Optimizer.profile_hook_step(with_optimizer)

        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # A closure may register a hook.
            if len(args) != 1 or kwargs or torch.compiler.is_compiling() or _is_watched(args[0]):
                return watched(*args, **kwargs)
            return func(*args)  # type: ignore[call-arg]

        return wrapper

    def _check_graph_capture(self) -> None:
        # torch 2.11 knows it by its old name.
        check = getattr(self, "_accelerator_graph_capture_health_check", None)
        (check or self._cuda_graph_capture_health_check)()

    def _checked_batch(self, group: ParamGroup) -> Batch:
        """Collect what takes part in a step and refuse what cannot; nothing is changed yet."""
        batch = self.collect(group)
        if self.counts_steps and not all(
            member.is_new or isinstance(member.step, Tensor) for member in batch.members
        ):
            raise RuntimeError(
                "API has changed, `state_steps` argument must contain a list of singleton tensors"
            )
        self.check(batch)
        if batch.execution is not Execution.ONE_BY_ONE:
            batch.lists = of_one_kind(batch)
        if batch.execution is not Execution.FUSED:
            self._check_dtypes(batch)
        return batch

    def _check_dtypes(self, batch: Batch) -> None:
        """Let ATen refuse now what it would refuse only once the step is counted."""
        negated = self._flag(batch.group, "maximize")
        for member in batch.members:
            if negated and member.grad.dtype is torch.bool:
                _ = -member.grad
            if self.complex_as_real and member.param.is_complex():
                for tensor in member.state.values():
                    _ = torch.view_as_real(tensor)

    def collect(self, group: ParamGroup) -> Batch:
        """Collect what a parameter group takes part in a step with.

        Raises:
            KeyError: if the group lacks an entry, as one of another optimizer's checkpoint may.
        """
        pairs = ((param, param.grad) for param in group["params"])
        members = [self.collect_member(p, grad, group) for p, grad in pairs if grad is not None]
        for key in self.keys:
            _ = group[key]
        return Batch(
            group,
            self.state_names(group),
            members,
            self._execution(group, members),
            self._flag(group, "capturable"),
            self._flag(group, "differentiable"),
        )

    def collect_member(self, param: Tensor, grad: Tensor, group: ParamGroup) -> Member:
        """Collect what a parameter takes part in a step with.

        Raises:
            RuntimeError: for a sparse gradient that the rule does not take, or a parameter that a
                fused kernel does not take.
            KeyError: if the parameter has state, but not all of it.
        """
        if grad.is_sparse and self.sparse_gradients is not True:
            raise RuntimeError(self.sparse_gradients)
        if self.rule_makes_state:
            made = {}
            for name in self.state_names(group):
                tensor = self.state.get(param, {}).get(name)
                if tensor is not None:
                    made[name] = tensor
            return Member(param, grad, made)
        held = self.state.get(param, {})
        if len(held) == 0:
            if self._flag(group, "fused"):
                devices.check_fused(param)
            _ = self._flag(group, "capturable"), self.state_names(group)
            return Member(param, grad, {}, is_new=True)
        names = self.state_names(group)
        if not self.counts_steps:
            return Member(param, grad, {name: held[name] for name in names})
        state = {name: held[name] for name in self.reading_order(names)}
        return Member(param, grad, state, state.pop("step"))

    def reading_order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the state entries in the order in which a step of torch's would miss them."""
        return (*names, "step")

    def _flag(self, group: ParamGroup, name: str) -> Any:
        """Return an option of a group, if optimizers of this class have it."""
        return group[name] if name in self.keys else None

    def _complete_state(self, batch: Batch) -> None:
        """Make the state of parameters that take their first step."""
        if self.rule_makes_state:
            if batch.names:
                for member in batch.members:
                    _ = self.state[member.param]  # which keeps the order of the parameters
            return
        for member in batch.members:
            if member.is_new:
                held = self.state[member.param]
                if len(held) == 0:
                    if self.counts_steps:
                        held["step"] = self.init_step(member.param, batch.group)
                    held.update(self.init_state(member.param, batch.group))
                member.state = {name: held[name] for name in batch.names}
                member.step = held["step"] if self.counts_steps else None

    def _execution(self, group: ParamGroup, members: Sequence[Member]) -> Execution:
        foreach, fused = self._flag(group, "foreach"), self._flag(group, "fused")
        if foreach is None and fused is None:
            foreach = self.foreach_by_default([member.param for member in members], group)
        if fused and not (foreach and self.prefers_foreach):
            return Execution.FUSED
        return Execution.TOGETHER if foreach else Execution.ONE_BY_ONE

    def foreach_by_default(self, params: Sequence[Tensor], group: ParamGroup) -> bool:
        """Tell what ``foreach=None`` means for these parameters, as torch decides it."""
        return devices.foreach_by_default(params, differentiable=group["differentiable"])

    def check_scaling(self, batch: Batch) -> None:
        """Refuse what ``torch.amp.GradScaler`` leaves for fused kernels only.

        Raises:
            AssertionError: if it left anything and the kernel is not asked for.
        """
        left = [getattr(self, name, None) for name in ("grad_scale", "found_inf")]
        if batch.execution is not Execution.FUSED and any(item is not None for item in left):
            raise AssertionError("Expected grad_scale and found_inf to be None")

    def check_capturable(self, batch: Batch, *, lists_on_xla: bool = True) -> None:
        """Refuse ``capturable`` where no graph can be captured.

        Args:
            batch: the group and its parameters.
            lists_on_xla: whether lists of tensors may be on XLA devices.

        Raises:
            AssertionError: if a parameter or its step count is on another device.
        """
        if batch.capturable and batch.execution is not Execution.FUSED:
            devices.check_capturable(
                ((m.param, m.param if m.step is None else m.step) for m in batch.members),
                supports_xla=lists_on_xla or batch.execution is not Execution.TOGETHER,
            )

    def check_autograd(self, batch: Batch) -> None:
        """Refuse to differentiate through operations on lists.

        Raises:
            AssertionError: if ``differentiable`` is combined with lists of tensors.
        """
        listed = batch.execution is Execution.TOGETHER and bool(batch.members)
        if listed and batch.differentiable:
            raise AssertionError("_foreach ops don't support autograd")

    # Parameter groups.

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
        self.__dict__.pop("_cached_step", None)

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
        self._name_keys(self.defaults)
        self.__dict__.pop("_cached_step", None)  # which would keep the old state alive
        complete_old_groups(self.param_groups, self.state_dict_defaults)
        if self.counts_steps:
            steps_to_tensors(self.state, self.param_groups, self._flag)

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
        step = self._next_step(group) if step is None else step
        params = [param for param in group["params"] if param.grad is not None] or group["params"]
        members = [Member(param, param, {}) for param in params]
        return self._record(group, step, self._execution(group, members), params)

    def _next_step(self, group: ParamGroup) -> int:
        held = next((self.state[p] for p in group["params"] if self.state.get(p)), None)
        if held is None:
            return 1
        return int(held["step"]) + 1 if self.counts_steps else 2

    def _record(
        self, group: ParamGroup, step: int, execution: Execution, params: Sequence[Tensor]
    ) -> Program:
        recorder = Recorder(listed=execution is not Execution.ONE_BY_ONE)
        as_pairs = self.complex_as_real and any(param.is_complex() for param in params)
        made_by_rule = self.rule_makes_state and step == 1 and execution is not Execution.FUSED
        names = ("param", "grad", *(() if made_by_rule else self.state_names(group)))
        inputs = {name: recorder.input(name, is_complex=as_pairs) for name in names}
        # Where complex numbers are viewed as pairs: see values.as_real.
        views_first = names if recorder.listed else names[2:]
        state = {n: x.as_real() if n in views_first else x for n, x in inputs.items()}
        param, grad = state.pop("param"), state.pop("grad")

        counted = recorder.scalars.group(as_scalars(group, self.scalars))
        number: Any = recorder.scalars.step_count(float(step))
        if execution is Execution.FUSED:
            steps = recorder.input("step") if self.counts_steps else Symbol(recorder)
            self.fused_update(param, grad, state, steps, counted, FusedStep(step == 1))
        elif self.counts_steps and (
            self._flag(group, "capturable") or self._flag(group, "differentiable")
        ):
            self.update(param, grad, state, recorder.input("step"), counted)
        else:
            self.update(param, grad, state, number, counted)
        kind = {Execution.TOGETHER: "foreach", Execution.FUSED: "fused"}.get(execution, "for-loop")
        outputs = {**state, **inputs}
        del outputs["grad"]
        return recorder.program(f"{type(self).__name__}, step {step}, {kind}", outputs)


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
