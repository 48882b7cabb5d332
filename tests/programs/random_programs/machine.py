"""The same done to an optimizer of optimlab and to torch's, compared, and taken back."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, TypeAlias

import hypothesis
import pytest
import torch
from beside import Options, Side, attempt
from hypothesis.stateful import RuleBasedStateMachine
from torch import Tensor

import optimlab
from optimlab import execution
from optimlab.lab.compare.diff import Diff, path_name
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.lockstep.clone import clone, clone_optimizer
from optimlab.lab.parity.table import excluded
from random_programs.choices import tensor_of
from random_programs.statements import group_of

_COLUMNS = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
_IN_RULE = execution.execute.__code__

Copies: TypeAlias = tuple[list[Any], Options]
"""Of both optimizers, and the arguments that they were constructed with."""


class Diverged(AssertionError):  # noqa: N818 - it reads as what happened
    """The two sides of a random program differ."""


class OtherError(Diverged):
    """Both sides raised, but not the same."""


class Machine(RuleBasedStateMachine):
    """Both sides, and the last state in which all was well.

    Attributes:
        tally: how often anything was done, of all programs together.
    """

    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        if hypothesis.currently_in_test_context():
            hypothesis.note("from random_programs import *")
        self.ours, self.theirs = Side(optimlab, ""), Side(torch.optim, "")
        self.sides = (self.ours, self.theirs)
        self.options: Options = {}
        self._only: int | None = None  # the parameter that may have a gradient
        self._present: Copies = [], {}
        self._good = self._present
        self._at: int | None = None  # the one that must have one, which is not at fault
        self._context = ExitStack()
        self._patch = self._context.enter_context(pytest.MonkeyPatch.context())
        self._context.enter_context(warnings.catch_warnings())
        self._context.callback(torch.set_default_dtype, torch.get_default_dtype())
        self._context.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # tensors this small are faster with one
        warnings.simplefilter("ignore")

    def teardown(self) -> None:
        """Count the numbers that a program ends with; restore what it changes, or depends on."""
        for param in self.ours.params:
            self.count("numbers", param.numel())
            self.count("finite", int(param.detach().isfinite().sum()))
        self._context.close()

    def _construct(
        self, side: Side, options: Options, groups: Sequence[Options] | None = None
    ) -> None:
        """Make an optimizer, by default over the groups that there are by now."""
        given = clone(options)
        differentiable = bool(options.get("differentiable"))
        for param in side.params:
            # A leaf that requires a gradient cannot be changed in place while autograd records.
            param.requires_grad_(not differentiable)
        if differentiable:
            given = {name: _without_graph(value) for name, value in given.items()}
        if groups is None:
            groups = [_params_of(group) for group in side.optimizer.param_groups]
        side.optimizer = side.optimizer_class(groups, **given)
        self.options = options

    # How it is done.

    def _both(
        self, action: Callable[[Side], object], changes: Callable[[], bool] = lambda: False
    ) -> Exception | None:
        """Do the same to both sides; compare what it returns or raises, and all that can be seen.

        Args:
            action: does it to one side.
            changes: whether our side may have changed although it raised.

        Returns:
            The error that both raised, if they did. Unless it came from an operation under way,
            torch's side may then be half-applied, and ours is not.
        """
        (ours, error), (theirs, other) = [attempt(action, side) for side in self.sides]
        self._same_errors(error, other)
        if error is None:
            for side in self.sides:
                side.params = _params(side.optimizer)
            self._same(
                {"returned": ours, **_seen(self.ours)}, {"returned": theirs, **_seen(self.theirs)}
            )
            self._present = self._copies()
            return None
        self.count(type(error).__name__)
        if is_under_way(error):
            self._same(_seen(self.ours), _seen(self.theirs), "left by an error under way: ")
            self._present = self._copies()
        elif self._present[0] and not changes():
            before = self._present[0][0]
            unchanged = Side(optimlab, self.ours.name, _params(before))
            unchanged.optimizer = before
            self._same(_seen(self.ours), _seen(unchanged), "changed by what was refused: ")
        return error

    def _step(
        self,
        gradients: Sequence[str | None] | None = None,
        seed: int = 0,
        times: int = 1,
        call: Callable[[Side], object] = lambda side: side.optimizer.step(),
        *,
        changes: bool = False,
    ) -> None:
        """Step both; come back to the last good state after an error."""

        def stepped(side: Side) -> list[object]:
            returned = []
            for number in range(times):
                if gradients is not None:
                    self._give(side, gradients, seed, number)
                elif side is self.theirs:
                    self._give_as_ours()
                self._leave_out(side)
                if side is self.ours:
                    given[:] = clone([param.grad for param in side.params])
                returned.append(call(side))
                completed.append(side)
            return returned

        completed: list[Side] = []
        given: list[Tensor | None] = []
        try:
            error = self._both(stepped, lambda: changes or bool(completed))
        except OtherError:
            self._each_fails_alike(stepped)
            self._recover()
            return
        if error is not None:
            self._recover()
            return
        # A fused kernel takes the scale out of the gradients, in place.
        scaled = getattr(self.ours.optimizer, "grad_scale", None) is not None
        if gradients and not (changes or scaled or "shared" in gradients):
            left = [param.grad for param in self.ours.params]
            self._same({"gradients": left}, {"gradients": given}, "changed by a step: ")
        self.count("steps", times)
        self._keep()

    def _each_fails_alike(self, step: Callable[[Side], object]) -> None:
        """Compare the errors of each parameter by itself.

        Where two are at fault, torch raises the error of the first after stepping the groups before
        it. Ours looks for faults in all groups before the first operation, and so may find one that
        torch does not come to.
        """
        present = self._present
        for place in range(len(self.ours.params)):
            self._only = place
            self._restore(present)
            for side in self.sides:
                side.optimizer.param_groups[:] = [group_of(side, side.params[place])]
            self._same_errors(*(attempt(step, side)[1] for side in self.sides))
        self._only = None

    def _same_errors(self, ours: Exception | None, theirs: Exception | None) -> None:
        if (type(ours), str(ours)) != (type(theirs), str(theirs)):
            kind = OtherError if ours and theirs else Diverged
            raise kind(f"ours raised {ours!r}, theirs {theirs!r}") from (ours or theirs)

    def _same(self, ours: Options, theirs: Options, prefix: str = "") -> None:
        found = Diff().differences(ours, theirs)
        if found:
            (path, mismatch), *others = found
            raise Diverged(f"{prefix}{path_name(path)}: {mismatch}, and {len(others)} more")

    # Going on from the same bits on both sides.

    def _copies(self) -> Copies:
        return [side.quietly(clone_optimizer) for side in self.sides], self.options

    def _keep(self) -> None:
        """Remember the present state, to come back to after an error."""
        self._good = self._present

    def _recover(self) -> None:
        """Go back to the last state in which all was well."""
        self._restore(self._good)

    def _restore(self, copies: Copies) -> None:
        self._present = copies
        optimizers, self.options = copies
        for side, optimizer in zip(self.sides, optimizers, strict=True):
            side.name, side.optimizer = type(optimizer).__name__, clone_optimizer(optimizer)
            side.params = _params(side.optimizer)
            side.kept.clear()

    # Gradients.

    def _give(
        self, side: Side, gradients: Sequence[str | None], seed: int, number: int = 0
    ) -> None:
        """Give each parameter a gradient, of the given kinds in turn, another in the next step."""
        seed += number
        for place, param in enumerate(side.params):
            kind = gradients[(place + number) % len(gradients)]
            if self._at is not None and kind in (None, "sparse"):
                kind = "contiguous" if kind or place == self._at % len(side.params) else None
            param.grad = None
            if kind is not None:
                self._give_one(side, param, kind, seed + place * bool(seed))

    def _give_one(self, side: Side, param: Tensor, kind: str, seed: int) -> None:
        if kind == "nowhere" and self._is_fused():
            kind = "contiguous"  # fused kernels ask for its address
        if kind in ("nowhere", "shared") and side.name == "SGD":
            kind = "contiguous"  # torch's SGD writes to gradients every now and then
        dtype = torch.float64 if kind == "of another dtype" else param.dtype
        param.grad_dtype = dtype
        if kind == "shared":
            alike = [each for each in side.params if _kind(each) == _kind(param)]
            param.grad = alike[-1].detach()
        else:
            param.grad = tensor_of(kind, seed, tuple(param.shape), dtype)

    def _give_as_ours(self) -> None:
        """Give torch's SGD the gradients that it may have written to, and ours has not."""
        if self.ours.name == "SGD":
            for param, other in zip(self.theirs.params, self.ours.params, strict=True):
                param.grad = None
                if other.grad is not None:
                    param.grad_dtype, param.grad = other.grad.dtype, clone(other.grad)

    def _leave_out(self, side: Side) -> None:
        """Take away gradients of steps that the parity table excludes, for a reason given there."""
        if self._only is not None:
            for place, param in enumerate(side.params):
                param.grad = param.grad if place == self._only else None
        for group in side.optimizer.param_groups:
            if group.get("fused"):
                for param in group["params"]:
                    column = _COLUMNS.get(param.dtype)
                    if column and excluded(side.name, "fused", column, "cpu"):
                        param.grad = None

    def _is_fused(self) -> bool:
        optimizer = self.ours.optimizer
        entries = [optimizer.defaults, *optimizer.param_groups]
        return any(each.get("fused") for each in entries)

    def _of_group(self, side: Side, options: Options) -> Options:
        """Copy options, without a graph where the state would become a part of it."""
        given: Options = clone(options)
        if side.optimizer.defaults["differentiable"]:
            given = {name: _without_graph(value) for name, value in given.items()}
        return given

    def count(self, what: str, times: int = 1) -> None:
        self.tally[what] += times


def _params(optimizer: Any) -> list[Tensor]:
    return list({id(param): param for param in parameters(optimizer)}.values())


def _params_of(group: Options) -> Options:
    names = group.get("param_names")
    return {"params": list(zip(names, group["params"], strict=True)) if names else group["params"]}


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _without_graph(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_without_graph, value))
    return value.detach() if isinstance(value, Tensor) else value


def _seen(side: Side) -> Options:
    """Lay out what can be seen, without gradients, which torch overwrites."""
    seen = side.seen()
    del seen["gradients"]
    return seen


def is_under_way(error: Exception) -> bool:
    """Tell whether an error came from an operation of the rule, when a step was begun."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is _IN_RULE for frame, _ in frames)
