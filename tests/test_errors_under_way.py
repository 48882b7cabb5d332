"""An error inside an operation stops a step in the middle, and leaves what torch leaves.

State of groups behind it is not made yet, steps are counted up to it, momentum buffers of its group
are not stored. Going on after the error is caught gives torch's bits.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import torch
from beside import (
    NAMES,
    STATEFUL,
    Options,
    Pair,
    Side,
    one_thread,  # noqa: F401 - applies to every test here
    raised,
)

from optimlab import native
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec

Fault: TypeAlias = Callable[[Side, int], Callable[[], object]]

FIVE = (
    TensorSpec((5,)),
    TensorSpec((5,), torch.float64),
    TensorSpec((5,)),
    TensorSpec((5,), torch.float64, group=1),
    TensorSpec((5,), group=1),
)
"""Two dtypes in each of two groups."""


def one_element(side: Side, place: int) -> Callable[[], object]:
    """Let all elements of a parameter lie in one place, which cannot be written to."""
    param = side.params[place]
    before = param.data
    param.data = torch.ones(1, dtype=param.dtype).expand(5)
    return lambda: setattr(param, "data", before)


def whole_gradient(side: Side, place: int) -> Callable[[], object]:
    """Give a parameter a gradient of whole numbers."""
    param = side.params[place]
    param.grad_dtype = None
    param.grad = torch.ones(5, dtype=torch.int64)
    return lambda: setattr(param, "grad", None)


def short_state(side: Side, place: int) -> Callable[[], object]:
    """Let the last state tensor of a parameter be too short."""
    held = side.optimizer.state[side.params[place]]
    name = list(held)[-1]
    before = held[name]
    held[name] = before[:3].clone()
    return lambda: held.update({name: before})


def longer_parameter(side: Side, place: int) -> Callable[[], object]:
    """Let a parameter have more elements than its gradient."""
    param = side.params[place]
    before = param.data
    param.data = torch.ones(7, dtype=param.dtype)
    return lambda: setattr(param, "data", before)


def odd(**options: Any) -> Fault:
    """Set an option of the group of a parameter to what is no number."""

    def change(side: Side, place: int) -> Callable[[], object]:
        group = side.optimizer.param_groups[FIVE[place].group]
        known = {key: value for key, value in options.items() if key in group}
        before = {key: group[key] for key in known}
        group.update(clone(known))
        return lambda: group.update(before)

    return change


FAULTS: dict[str, Fault] = {
    "a parameter in one place": one_element,
    "a gradient of whole numbers": whole_gradient,
    "a parameter of another size": longer_parameter,
    "lr that is a string": odd(lr="0.1"),
    "lr that is too large": odd(lr=10**400),
    "lr of two elements": odd(lr=torch.tensor([0.1, 0.2])),
    "momentum that is a string": odd(momentum=torch.ones(3)),
    "eps that is a string": odd(eps="0.1"),
    "weight decay that is a string": odd(weight_decay="0.1"),
    "dampening too large": odd(dampening=10**400),
}
LATE_FAULTS: dict[str, Fault] = {**FAULTS, "state that is too short": short_state}
ALWAYS = ("a parameter in one place", "lr that is a string", "lr that is too large")
# torch's fused kernels do not look at sizes, and go beyond the end.
NOT_FUSED = ("a parameter in one place", "a parameter of another size", "state that is too short")


def steps_with_faults() -> Iterator[Any]:
    """Yield each optimizer and implementation with each fault, in early and in late steps."""
    for name in NAMES:
        for way in ({}, {"foreach": True}, {"fused": True}):
            for steps_before, faults in ((0, FAULTS), (2, LATE_FAULTS)):
                for fault in faults if "fused" not in way or name != "RMSprop" else ():
                    if "fused" not in way or fault not in NOT_FUSED:
                        label = f"{name}-{'-'.join(way) or 'for-loop'}-{fault}-{steps_before}"
                        yield pytest.param(name, way, fault, steps_before, id=label)


@pytest.fixture(params=["kernel", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the native kernel for what is in order, or ATen for everything."""
    if request.param == "plain":
        monkeypatch.setattr(native, "runner", lambda: None)
    return str(request.param)


@pytest.mark.parametrize(("name", "way", "fault", "steps_before"), list(steps_with_faults()))
def test_an_error_under_way_leaves_what_torch_leaves_and_the_next_steps_are_torchs(
    name: str, way: Options, fault: str, steps_before: int, path: str
) -> None:
    options = {**STATEFUL[name], **way}
    if name == "SGD":
        options["nesterov"] = False  # which torch's foreach writes into gradients
    errors = 0
    for place in range(len(FIVE)):
        pair = Pair(name, FIVE, **options)
        pair.step(steps_before)
        pair.set_gradients()
        mend = [LATE_FAULTS[fault](side, place) for side in pair.sides]
        before = values(pair.ours)
        ours, theirs = (raised(side.optimizer.step) for side in pair.sides)
        assert ours == theirs
        errors += ours is not None
        if ours is not None and values(pair.ours) == before:
            continue  # refused
        pair.compare()
        for each in mend:
            each()
        for _ in range(2):
            pair.set_gradients()
            ours, theirs = (raised(side.optimizer.step) for side in pair.sides)
            assert ours == theirs
            pair.compare()
    if fault in ALWAYS:
        assert errors == len(FIVE)


def values(side: Side) -> list[Any]:
    """Return the values of parameters and state."""
    held = [value for state in side.optimizer.state.values() for value in state.items()]
    return [param.tolist() for param in side.params] + [(key, t.tolist()) for key, t in held]


class Failing(torch.overrides.TorchFunctionMode):
    """Lets an operation fail, once it is called for the so-manieth time."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in COUNTED:
            self.calls -= 1
            if self.calls == 0:
                raise ArithmeticError("interrupted")
        return func(*args, **(kwargs or {}))


# What both libraries call alike: operations that change a parameter or state.
COUNTED = {"addcdiv_", "addcmul_", "lerp_", "add_", "_foreach_addcdiv_", "_foreach_addcmul_"}
COUNTED |= {"_foreach_lerp_", "_foreach_add_", "_fused_adam_", "_fused_adamw_", "_fused_sgd_"}


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("way", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_interruption_of_any_operation_leaves_what_torch_leaves(
    name: str, way: Options, steps_before: int
) -> None:
    if name == "RMSprop" and "fused" in way:
        pytest.skip("there is no such kernel")
    options = {**STATEFUL[name], "maximize": False, "weight_decay": 0, **way}
    if name == "SGD":
        options["nesterov"] = False
    interrupted = 0
    for calls in range(1, 50):
        pair = Pair(name, FIVE, **options)
        pair.step(steps_before)
        pair.set_gradients()
        outcomes = []
        for side in pair.sides:
            with Failing(calls):
                outcomes.append(raised(side.optimizer.step))
        assert outcomes[0] == outcomes[1]
        pair.compare()
        pair.step(2)
        if outcomes[0] is None:
            break
        interrupted += 1
    assert interrupted > 1
