"""Two optimizers in lock step: an optimlab one and torch's own, with equal parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

import optimlab
from optimlab.lab.compare.diff import Diff, Differences, path_name
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.lockstep.scenario import laid_out
from optimlab.lab.parity.table import excluded
from random_programs.drawing import Source
from random_programs.sides import (
    Diverged,
    Gradients,
    Group,
    Options,
    OtherError,
    Raised,
    Side,
    Tally,
    attempt,
    give,
)

Snapshot: TypeAlias = tuple[list[Tensor], list[Group], Options]
"""Values of the parameters, the groups, and a state dict."""

SHAPES = ((), (1,), (0,), (3,), (8,), (17,), (33,), (4, 3), (2, 3, 2, 2))
_COLUMNS = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Machine(Source):
    """Both sides, what they were made from, and the last state in which all was well.

    Args:
        number: the program's number.
        name: the name of the optimizer class.

    Attributes:
        palette: dtypes of new parameters.
        options: the arguments that both optimizers were constructed with.
        groups: their parameter groups.
        gradients: the gradients of the last step.
        log: what was done, in words.
    """

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number)
        self.number = number
        self.name = name
        self.ours, self.theirs = Side(optimlab), Side(torch.optim)
        self.sides = (self.ours, self.theirs)
        self.palette: Sequence[torch.dtype] = (torch.float32,)
        self.options: Options = {}
        self.groups: list[Group] = []
        self.gradients: Gradients = []
        self.log: list[str] = []
        self.tally = Tally()
        self._comparison = Diff()
        self._good: Snapshot = ([], [], {})

    # Doing the same to both sides.

    def both(self, what: str, action: Callable[[Side], Any]) -> Raised | None:
        """Do the same to both sides and compare results, errors and everything to be seen.

        Args:
            what: is done, for the log.
            action: does it to one side.

        Returns:
            The error that both raised, if they did. Unless it came from an operation under way,
            torch's side may then be half-applied, and ours is not.

        Raises:
            Diverged: if they differ, or if our side changed although it refused the action.
        """
        self.log.append(what)
        before = clone(self.ours.seen()) if hasattr(self.ours, "optimizer") else None
        ours, our_error = attempt(action, self.ours)
        theirs, their_error = attempt(action, self.theirs)
        self._equal_errors(our_error, their_error)
        if our_error is None:
            pair = (
                {"returned": ours, **self.ours.seen()},
                {"returned": theirs, **self.theirs.seen()},
            )
            self._report(self._comparison.differences(*pair))
            return None
        self.log[-1] += f" -> {our_error}"
        self.tally.errors[our_error.type.__name__] += 1
        if before is not None and our_error.in_rule:
            found = self._comparison.differences(self.ours.seen(), self.theirs.seen())
            self._report(found, "left by an error under way: ")
        elif before is not None:
            self._report(Diff().differences(self.ours.seen(), before), "changed by refusal: ")
        return our_error

    def _equal_errors(self, ours: Raised | None, theirs: Raised | None) -> None:
        if ours != theirs:
            kind = OtherError if ours and theirs else Diverged
            self._fail(f"ours raised {ours}, theirs {theirs}", kind)

    def _report(self, found: Differences, prefix: str = "") -> None:
        if found:
            (place, mismatch), *others = found
            self._fail(f"{prefix}{path_name(place)}: {mismatch} and {len(others)} more")

    def _fail(self, difference: str, kind: type[Diverged] = Diverged) -> None:
        made = f"{self.name}({self.options}) over {self.groups}"
        raise kind("\n  ".join([f"program {self.number}: {made}", *self.log, difference]))

    # Going on from the same bits on both sides.

    def construct(self, side: Side) -> None:
        """Make an optimizer over the groups that there are by now."""
        groups = [group.of(side) for group in self.groups]
        side.optimizer = getattr(side.library, self.name)(groups, **clone(self.options))

    def keep(self) -> None:
        """Remember the present state, to come back to after an error."""
        self._good = self.snapshot()

    def recover(self) -> None:
        """Go back to the last state in which all was well."""
        self.restore(self._good)

    @contextmanager
    def detour(self) -> Iterator[None]:
        """Come back afterwards, also from where all seems well."""
        good = self._good
        yield
        self._good = good
        self.recover()

    def snapshot(self) -> Snapshot:
        """Copy the present state of our side."""
        saved = clone(self.ours.optimizer.state_dict())
        return clone(self.ours.params), list(self.groups), saved

    def restore(self, snapshot: Snapshot) -> None:
        """Bring both sides to a state."""
        params, groups, saved = snapshot
        self.groups = list(groups)
        for side in self.sides:
            del side.params[len(params) :]
            for param, value in zip(side.params, clone(params), strict=True):
                param.grad = None
                param.data = value.detach()
            self.construct(side)
            side.optimizer.load_state_dict(clone(saved))

    def step(
        self,
        what: str = "step",
        *,
        before: Callable[[Side], object] = lambda side: None,
        closure: Callable[[Side], Callable[[], float]] | None = None,
        leaves_gradients_alone: bool = True,
    ) -> None:
        """Step both with copies of the current gradients; come back after an error.

        Args:
            what: is done, for the log.
            before: does something to one side once it has its gradients.
            closure: makes one side's closure.
            leaves_gradients_alone: whether our side has to leave the gradients as they are.
        """

        def stepped(side: Side) -> Any:
            give(side, self.gradients)
            before(side)
            return side.optimizer.step() if closure is None else side.optimizer.step(closure(side))

        present = self.snapshot()
        try:
            error = self.both(what, stepped)
        except OtherError:
            if len(self.groups) == 1:
                raise
            self._each_group_fails_alike(present, stepped)
            self.recover()
            return
        if error is not None:
            if not error.in_rule or self.chance(0.5):  # else both go on from where they were left
                self.recover()
            return
        if leaves_gradients_alone:
            gradients = [param.grad for param in self.ours.params]
            self._report(Diff().differences(gradients, self.gradients), "changed gradient ")
        self.tally.steps += 1
        self.keep()

    def _each_group_fails_alike(self, present: Snapshot, step: Callable[[Side], object]) -> None:
        """Compare the errors of each group by itself.

        Where two groups are at fault, torch raises the error of the first after stepping those
        before it. Ours looks for faults in all groups before the first operation, and so may find
        one in the second group that torch does not come to.
        """
        for index in range(len(self.groups)):
            self.restore(present)
            for side in self.sides:
                side.optimizer.param_groups[:] = [side.optimizer.param_groups[index]]
            self.log.append(f"the same with groups[{index}] only")
            self._equal_errors(*(attempt(step, side)[1] for side in self.sides))

    # Drawing parameters and gradients.

    def new_param(self) -> int:
        """Give both sides one more parameter, of equal bits, and return its index."""
        shape = self.random.choice(SHAPES)
        value = self.values(shape, self.random.choice(self.palette))
        layout = self.layout(shape)
        for side in self.sides:
            param = laid_out(value, layout)
            # A leaf that requires a gradient cannot be changed in place while autograd records.
            differentiable = self.options.get("differentiable")
            side.params.append(param if differentiable else torch.nn.Parameter(param))
        return len(self.ours.params) - 1

    def new_gradients(self, *, but_one_for: int | None = None) -> Gradients:
        """Draw a gradient for most parameters, and none for the others.

        Args:
            but_one_for: index of a parameter that is to have one.
        """
        return self.without_excluded(
            [
                self._new_gradient(param, 0.0 if i == but_one_for else 0.2)
                for i, param in enumerate(self.ours.params)
            ]
        )

    def _new_gradient(self, param: Tensor, none: float) -> Tensor | None:
        if self.chance(none):
            return None
        if self.name == "SGD" and self.chance(0.03):
            return self.sparse(param)
        return laid_out(self.values(param.shape, param.dtype, odd=0.02), self.layout(param.shape))

    def without_excluded(self, gradients: Gradients) -> Gradients:
        """Take out gradients of steps that the parity table excludes, for a reason given there."""
        return [
            None if grad is not None and self._is_excluded(i, grad.dtype) else grad
            for i, grad in enumerate(gradients)
        ]

    def _is_excluded(self, index: int, dtype: torch.dtype) -> bool:
        if dtype not in _COLUMNS or not excluded(self.name, "fused", _COLUMNS[dtype], "cpu"):
            return False
        groups = zip(self.groups, self.ours.optimizer.param_groups, strict=True)
        return any(index in given.members and group.get("fused") for given, group in groups)
