"""Following an optimizer that somebody else made: each of its steps again, by the readable rule.

A trainer that makes its own ``torch.optim`` optimizer leaves no place to swap the class.
:func:`shadow` attaches to it by step hooks instead: it copies everything before a step, takes the
step with optimlab's rule on the copies, and compares what came of both, bit for bit.
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from optimlab.adam import Adam
from optimlab.adamw import AdamW
from optimlab.lab.compare.diff import Compared, Diff, NothingCompared
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.outcome import Difference
from optimlab.lab.record.step_scope import Closure, StepScope
from optimlab.rmsprop import RMSprop
from optimlab.rule import Rule
from optimlab.sgd import SGD

OnDifference: TypeAlias = Literal["raise"] | Callable[[Difference], object]

# AdamW first: it is a subclass of Adam.
_RULES: dict[type[torch.optim.Optimizer], type[Rule]] = {
    getattr(torch.optim, rule.__name__): rule for rule in (AdamW, Adam, SGD, RMSprop)
}
_SCALING = ("grad_scale", "found_inf")  # by which torch.amp.GradScaler tells a fused optimizer


class ShadowDifferenceError(AssertionError):
    """A step whose bits are not those of the rule.

    Attributes:
        difference: where; "ours" is the rule's value, "theirs" the live optimizer's.
    """

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


def shadow(
    optimizer: torch.optim.Optimizer,
    *,
    on_difference: OnDifference = "raise",
    every: int = 1,
    model: nn.Module | None = None,
) -> Shadow:
    """Follow an optimizer of torch's that a trainer made, and compare its steps with the rule.

    Every step is recomputed from a copy of what was there before it: parameters, gradients, state,
    hyperparameters, with the same ``foreach``, ``fused`` and ``capturable``. Schedulers, gradient
    scalers, groups added in mid-run, loaded checkpoints and closures may come in between. The live
    run keeps its bits; while a step is compared there is memory for a second model, its gradients
    and its state.

    What hooks do that were attached to the optimizer before counts as part of its step, what later
    ones do after the step does not.

    Args:
        optimizer: a :class:`torch.optim.SGD`, ``Adam``, ``AdamW`` or ``RMSprop``, or of a subclass
            that leaves ``step`` alone. The wrappers of accelerate and Lightning are looked into.
        on_difference: ``"raise"``, or what is called with the
            :class:`~optimlab.parity.Difference` of each step that has one.
        every: compare the first step and then every n-th.
        model: whose names the parameters are called by, unless the optimizer knows names itself.

    Returns:
        Shadow: print it to see what was compared. ``remove()`` it, or use it as a context manager.

    Raises:
        TypeError: if the optimizer is of another class, or overrides ``step``.
        ValueError: if it is ``differentiable``, or ``every`` is not positive.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> live = torch.optim.Adam([weight])
        >>> with optimlab.shadow(live) as follower:
        ...     for _ in range(2):
        ...         weight.grad = torch.ones(3)
        ...         live.step()
        >>> print(follower)
        shadow of Adam: the same bits: 2 steps, 8 tensors, 20 elements, 8 other values compared
    """
    live = _unwrapped(optimizer)
    rule = _rule_of(live)
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    if any(group.get("differentiable") for group in live.param_groups):
        raise ValueError("a differentiable step cannot be taken a second time on copies")
    return Shadow(live, rule, on_difference, every, model)


class Shadow:
    """A shadow that :func:`optimlab.shadow` has attached.

    Attributes:
        optimizer: the live optimizer.
        steps: how many of its steps were seen.
        compared: how much of them was compared.
        left_out: how many steps were seen and not compared, by reason.
        difference: the first difference, ``None`` if there was none.
        differing: how many steps had a difference.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rule: type[Rule],
        on_difference: OnDifference,
        every: int,
        model: nn.Module | None,
    ) -> None:
        self.optimizer = optimizer
        self.steps = 0
        self.left_out: defaultdict[str, int] = defaultdict(int)
        self.difference: Difference | None = None
        self.differing = 0
        self._rule, self._on_difference, self._every = rule, on_difference, every
        self._names = {} if model is None else {id(p): n for n, p in model.named_parameters()}
        self._diff = Diff()
        self._due = False
        self._twin: Rule | None = None
        self._scope = StepScope(optimizer, self._begin, self._end, self._around)

    @property
    def compared(self) -> Compared:
        """How much was compared."""
        return self._diff.compared

    @property
    def equal(self) -> bool:
        """Whether every compared step had the rule's bits, and any was compared."""
        return self._diff.steps > 0 and self.difference is None

    def remove(self) -> None:
        """Detach from the optimizer; warns if nothing was ever compared."""
        self._scope.remove()
        if not self._diff.steps:
            warnings.warn(str(self), stacklevel=2)

    def __enter__(self) -> Shadow:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self._scope.remove()
        if error_type is None and not self._diff.steps:
            raise NothingCompared(str(self))

    def __str__(self) -> str:
        name = f"shadow of {type(self.optimizer).__name__}"
        left_out = "".join(f"; {n} not compared: {why}" for why, n in self.left_out.items())
        if not self._diff.steps:
            return f"{name}: nothing was compared in {self.steps} steps{left_out}"
        if self.difference is None:
            return f"{name}: the same bits: {self.compared}{left_out}"
        differing = f"{self.differing} of {self._diff.steps} compared steps differ{left_out}"
        return f"{name}: {differing}\n{self.difference}"

    def _begin(self, optimizer: torch.optim.Optimizer, has_closure: bool) -> None:
        """Copy what the step starts from, or have the closure do so when there are gradients."""
        self._twin = None
        self.steps += 1
        self._due = (self.steps - 1) % self._every == 0
        if self._due and not self._scope.is_last():
            self._due = False  # from the next step on it is the last: see _end
            self._leave_out_for_a_later_hook()
        if self._due and not has_closure:
            self._copy()

    def _around(self, closure: Closure, *args: Any, **kwargs: Any) -> Any:
        loss = closure(*args, **kwargs)
        if self._due:
            self._copy()
        return loss

    def _leave_out_for_a_later_hook(self) -> None:
        """Count it, and warn at the second time: then it may well be so at every step."""
        why = "a hook that was attached later could still change the gradients"
        self.left_out[why] += 1
        if self.left_out[why] == 2:
            warnings.warn(
                f"{self}. Hooks are being attached again and again, by optimlab.trace around each "
                "step, for one: attach the shadow after them, or leave them out",
                stacklevel=2,
            )

    def _copy(self) -> None:
        if all(param.grad is None for param in parameters(self.optimizer)):
            self.left_out["no parameter has a gradient"] += 1
        else:
            self._twin = twin_of(self.optimizer, self._rule)

    def _end(self, optimizer: torch.optim.Optimizer) -> None:
        self._scope.go_last()
        twin, self._twin = self._twin, None
        if twin is None:
            return
        inspect.unwrap(self._rule.step)(twin)  # no hook of anybody's sees this step
        found = self._diff.differences(_seen(twin), _seen(optimizer))
        self._diff.steps += 1
        if not found:
            return
        names = self._parameter_names()
        difference = Difference.first_of(found, self.compared, self.steps, "step()", names)
        self.difference = self.difference or difference
        self.differing += 1
        if callable(self._on_difference):
            self._on_difference(difference)
        else:
            raise ShadowDifferenceError(difference)

    def _parameter_names(self) -> tuple[str, ...]:
        groups = self.optimizer.param_groups
        if all("param_names" in group for group in groups):
            return tuple(name for group in groups for name in group["param_names"])
        if not self._names:
            return ()
        params = parameters(self.optimizer)
        return tuple(self._names.get(id(param), "not in the model") for param in params)


def twin_of(optimizer: torch.optim.Optimizer, rule: type[Rule]) -> Rule:
    """Copy an optimizer with its parameters and gradients, to be stepped by a rule of ours."""
    memo = {id(param): _with_gradient(param) for param in parameters(optimizer)}
    groups = clone(optimizer.param_groups, memo)
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, value in optimizer.state.items():
        state[memo.get(id(key), key)] = clone(value, memo)
    twin = rule.__new__(rule)
    defaults = clone(optimizer.defaults, memo)
    twin.__setstate__({"defaults": defaults, "state": state, "param_groups": groups})
    for name in _SCALING:
        if getattr(optimizer, name, None) is not None:
            setattr(twin, name, clone(getattr(optimizer, name), memo))
    for group, live in zip(twin.param_groups, optimizer.param_groups, strict=True):
        _choose_loop(twin, group, live["params"])
    return twin


def _choose_loop(twin: Rule, group: dict[str, Any], live: Sequence[Tensor]) -> None:
    """Ask for the for-loop where torch takes it because of a parameter's own class."""
    chosen = group.get("foreach") is None and group.get("fused") is None
    with_gradient = [param for param in live if param.grad is not None]
    if chosen and not twin._foreach_by_default(with_gradient, group):
        group["foreach"] = False


def _with_gradient(param: Tensor) -> Tensor:
    # Detached: the copy is a plain tensor, where the parameter may be an nn.Parameter.
    copy: Tensor = clone(param.detach())
    copy.grad = None if param.grad is None else clone(param.grad.detach())
    return copy


def _seen(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Lay out what a step changes, parameters being their numbers."""
    params = parameters(optimizer)
    numbers = {id(param): number for number, param in enumerate(params)}
    state = {numbers.get(id(key), key): value for key, value in optimizer.state.items()}
    return {"state": state, "parameters": {n: param.detach() for n, param in enumerate(params)}}


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Find the optimizer that a trainer has wrapped."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not a torch.optim.Optimizer")
    return optimizer


def _rule_of(optimizer: torch.optim.Optimizer) -> type[Rule]:
    """Find the rule of a class that has no step of its own."""
    live = type(optimizer)
    for theirs, rule in _RULES.items():
        if isinstance(optimizer, theirs):
            if inspect.unwrap(live.step) is not inspect.unwrap(theirs.step):
                raise TypeError(
                    f"{live.__name__} overrides step, so {theirs.__name__}'s rule is not what it "
                    "is meant to do; optimlab.parity compares any two optimizers"
                )
            return rule
    known = ", ".join(theirs.__name__ for theirs in _RULES)
    raise TypeError(f"there is no rule for {live.__name__}: a shadow follows torch.optim's {known}")
