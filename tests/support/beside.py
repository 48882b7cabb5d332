"""optimlab's optimizers beside torch's own: the same done to both, and everything compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias

import pytest
import torch
from one_thread import one_thread as one_thread  # noqa: PLC0414 - for those who import it here
from torch import Tensor
from torch.optim import Optimizer

import optimlab
from optimlab.lab.compare.diff import Diff, path_name
from optimlab.lab.compare.snapshot import snapshot
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import Scenario, TensorSpec
from optimlab.lab.parity.table import IMPLEMENTATIONS, TABLE

Options: TypeAlias = dict[str, Any]

LIBRARIES = (optimlab, torch.optim)
NAMES = tuple(row.name for row in TABLE)
STATEFUL: dict[str, Options] = {row.name: dict(row.many) for row in TABLE}
"""Options with which each optimizer has as much state as it can have."""

_HERE = {"for-loop", "foreach", "default", "fused"}
WAYS = tuple(
    pytest.param(row.name, dict(IMPLEMENTATIONS[way]), id=f"{row.name}-{way}")
    for row in TABLE
    for way in row.implementations
    if way in _HERE
)
"""Each optimizer with each of its implementations that runs on every device."""

ways = pytest.mark.parametrize(("name", "way"), WAYS)
names = pytest.mark.parametrize("name", NAMES)

TENSORS = (
    TensorSpec((2, 3, 3, 5), layout="channels last", gradient_layout="channels last"),
    TensorSpec((17,), gradients="sometimes"),
    TensorSpec(()),
    TensorSpec((4, 3), layout="transposed", group=1),
    TensorSpec((9,), gradients="never", group=1),
)

SMALL = (
    TensorSpec((5,)),
    TensorSpec((4, 3)),
    TensorSpec((7,), group=1),
    TensorSpec((3,), group=1),
)
"""All contiguous, and with a gradient at every step."""


@dataclass
class Side:
    """One of the two libraries, with an optimizer over parameters of its own."""

    library: ModuleType
    name: str
    params: list[Tensor] = field(default_factory=list)
    optimizer: Optimizer = field(init=False)
    kept: list[Any] = field(default_factory=list)

    @property
    def optimizer_class(self) -> Any:
        """The library's class of that name."""
        return getattr(self.library, self.name)

    def seen(self) -> Options:
        """Lay out everything that can be seen, parameters by their values only."""
        with unnoticed(self.optimizer):
            return {
                **snapshot(self.optimizer, self.params),
                "parameters": [param.detach() for param in self.params],
                "gradients": [param.grad for param in self.params],
                "printed": repr(self.optimizer),
            }

    def quietly(self, look: Callable[[Any], Any]) -> Any:
        """Look at the optimizer unnoticed."""
        with unnoticed(self.optimizer):
            return look(self.optimizer)

    def identities(self) -> list[int]:
        """Tell apart the objects that make up the optimizer."""
        optimizer = self.optimizer
        dicts = [optimizer.defaults, optimizer.state, optimizer.param_groups]
        held = [value for value in optimizer.state.values() if isinstance(value, dict)]
        tensors = [item for value in held for item in value.values()]
        return [id(item) for item in [*dicts, *optimizer.param_groups, *held, *tensors]]


class Pair:
    """An optimizer of optimlab and torch's, over parameters that start from equal bits.

    Args:
        name: the class.
        tensors: the parameters, those of group 1 in a second group with its own ``lr``.
        device: where they are.
        options: keyword arguments; each side gets tensors of its own.
    """

    def __init__(
        self,
        name: str,
        tensors: tuple[TensorSpec, ...] = TENSORS,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        self.scenario = Scenario(tensors=tensors, device=str(device))
        self.options = options
        self.steps = 0
        self.ours, self.theirs = Side(optimlab, name), Side(torch.optim, name)
        self.comparison = Diff()
        for side in self.sides:
            side.params = [torch.nn.Parameter(value) for value in self.scenario.start()]
            side.optimizer = self.new(side)
        self.compare()

    @property
    def sides(self) -> tuple[Side, Side]:
        """Ours, then theirs."""
        return self.ours, self.theirs

    def new(self, side: Side) -> Optimizer:
        """Make another optimizer over a side's parameters."""
        made: Optimizer = side.optimizer_class(self.groups(side), **clone(self.options))
        return made

    def groups(self, side: Side) -> list[Options]:
        """Return the parameter groups to construct with."""
        members: list[Options] = [{"params": []}, {"params": [], "lr": clone(self.second_lr)}]
        for param, spec in zip(side.params, self.scenario.tensors, strict=True):
            members[spec.group]["params"].append(param)
        return members if members[1]["params"] else members[:1]

    @property
    def second_lr(self) -> Any:
        """``lr`` of the second group, of the type that the options have."""
        return 0.03 if not isinstance(self.options.get("lr"), Tensor) else torch.tensor(0.03)

    def set_gradients(self) -> None:
        """Give all parameters the gradients of the coming step."""
        self.steps += 1
        gradients = list(self.scenario.gradients(self.steps))
        for side in self.sides:
            for param, grad in zip(side.params, gradients, strict=True):
                param.grad = None if grad is None else clone(grad)

    def step(self, times: int = 1) -> None:
        """Step both with fresh gradients; compare after each step."""
        for _ in range(times):
            self.set_gradients()
            self.both(lambda side: side.optimizer.step())

    def both(self, action: Callable[[Side], object]) -> Any:
        """Do the same to both sides; compare what it returns and all that can be seen.

        Returns:
            What it returned on our side.
        """
        ours, theirs = action(self.ours), action(self.theirs)
        assert_equal({"returned": ours}, {"returned": theirs})
        self.compare()
        return ours

    def refused(self, action: Callable[[Side], object]) -> None:
        """Check that both refuse with the same error, and that ours is left as it was."""
        before, objects = clone(self.ours.seen()), self.ours.identities()
        errors = [raised(partial(action, side)) for side in self.sides]
        assert errors[0] == errors[1], f"ours raised {errors[0]}, theirs {errors[1]}"
        assert errors[0] is not None, "neither side raised"
        assert_equal(self.ours.seen(), before)
        assert self.ours.identities() == objects, "equal, but no longer the same objects"

    def compare(self) -> None:
        """Compare everything that can be seen of both sides, bit for bit."""
        _report(self.comparison, self.ours.seen(), self.theirs.seen())


@contextmanager
def unnoticed(optimizer: Optimizer) -> Iterator[None]:
    """Read the state of an optimizer of ours without its noticing that somebody asked for it.

    Steps of optimizers that own their state (``optimlab/native/ownership.py``) would not be tested
    otherwise, because every comparison asks.
    """
    cached = vars(optimizer).get("_cached_step")
    has_escaped = cached is not None and cached.escaped[0]
    yield
    if cached is not None:
        cached.escaped[0] = has_escaped


def assert_equal(ours: object, theirs: object) -> None:
    """Compare two nested values: tensors and floats as integers, dicts with the order of keys."""
    _report(Diff(), ours, theirs)


def beside_torch(program: Callable[[Any], Any]) -> Any:
    """Run a program with our library and with torch's; compare what it returns, or its error.

    Args:
        program: is called with ``optimlab``, and with ``torch.optim``, from one random state.

    Returns:
        What it returned with ours, or type and text of the error that it raised.
    """
    __tracebackhide__ = True
    ends = []
    for library in LIBRARIES:
        torch.manual_seed(5)
        end, error = attempt(program, library)
        ends.append(end if error is None else (type(error), str(error)))
    assert_equal(*ends)
    return ends[0]


def _report(comparison: Diff, ours: object, theirs: object) -> None:
    __tracebackhide__ = True
    found = comparison.differences(ours, theirs)
    if found:
        (place, mismatch), *others = found
        pytest.fail(f"{path_name(place)}: {mismatch}, and {len(others)} more")


def attempt(action: Callable[..., object], *arguments: object) -> tuple[object, Exception | None]:
    """Return what an action returns, and the error that it raises in place of that."""
    try:
        return action(*arguments), None
    except Exception as error:  # noqa: BLE001 - which errors are raised is what is compared
        return None, error


def raised(action: Callable[[], object]) -> tuple[type[BaseException], str] | None:
    """Return type and message of what an action raises, ``None`` if it succeeds."""
    _, error = attempt(action)
    return None if error is None else (type(error), str(error))


def profiled(action: Callable[[], object]) -> list[str]:
    """Return the names under which an action of an optimizer shows in a profile."""
    with torch.autograd.profiler.profile() as profile:
        action()
    return [event.name for event in profile.function_events or () if "Optimizer" in event.name]


@contextmanager
def all_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Record every warning, also one that was given before."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield given
