"""For-loop, foreach, fused and native: what they read, write and leave behind, beside torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import pytest
import torch
from actions import FOREACH, FUSED, same_outcome, scaled, step, taken
from beside import NAMES, SMALL, STATEFUL, Options, Pair, Side, assert_equal, names, raised, ways
from graphs_on_cpu import let_graphs_be_captured_on_cpu
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

from optimlab import native
from optimlab.lab.lockstep.clone import clone
from optimlab.lab.parity import TensorSpec


@pytest.fixture
def graphs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `capturable` be tested where there is no GPU."""
    let_graphs_be_captured_on_cpu(monkeypatch)


# Foreach: lists of tensors that have made unequal numbers of steps.

LISTED: tuple[Options, ...] = (
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "momentum": 0.9, "dampening": 0.3, "amsgrad": True, "centered": True},
    {"weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    {"momentum": 0.9, "maximize": True},
)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("options", LISTED, ids=str)
@names
def test_foreach_keeps_one_list_of_tensors_in_one_memory_whatever_their_steps(
    name: str, options: Options, dtype: torch.dtype, capturable: bool, graphs_on_cpu: None
) -> None:
    more = taken(name, {"capturable": capturable})
    specs = tuple(TensorSpec((31,), dtype) for _ in range(3))
    pair = Pair(name, specs, **taken(name, options), **more, **FOREACH)
    for side in pair.sides:
        for param in side.params[1:]:
            param.data = side.params[0].data
    for missing in ((1, 2), (), (0,), (2,), ()):
        pair.set_gradients()
        for side in pair.sides:
            for i in missing:
                side.params[i].grad = None
        pair.both(step)


@pytest.mark.parametrize("way", [{}, FOREACH], ids=str)
@names
def test_tensors_that_share_a_step_count_or_state_are_stepped_as_in_torch(
    name: str, way: Options
) -> None:
    pair = Pair(name, (TensorSpec((5,)), TensorSpec((5,))), **STATEFUL[name], **way)
    pair.step(2)
    for side in pair.sides:
        first, second = (side.optimizer.state[param] for param in side.params)
        second.update(first)
    pair.step(2)


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes which foreach operations are called, with which overload."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "foreach" in str(func):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("options", LISTED, ids=str)
@names
def test_foreach_calls_the_operations_that_torch_calls(
    name: str, options: Options, apart: bool
) -> None:
    pair = Pair(name, SMALL, **taken(name, options), **FOREACH)
    pair.step(1)
    pair.set_gradients()
    if apart:
        for side in pair.sides:
            side.params[0].grad = None
        pair.both(step)
        pair.set_gradients()
    called = []
    for side in pair.sides:
        with Calls() as calls:
            side.optimizer.step()
        called.append(calls.names)
    assert called[0]
    # In torch the step is counted once gradients are negated, here before.
    assert sorted(called[0]) == sorted(called[1])


# Fused: what torch.amp.GradScaler and a kernel agree on.

fused = pytest.mark.parametrize("name", FUSED)


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("overflow", [None, 0.0, 1.0])
@pytest.mark.parametrize("options", [True, False], ids=["stateful", "plain"])
@fused
def test_a_fused_step_unscales_and_skips_as_torchs(
    name: str, options: bool, overflow: float | None, scale: float | None
) -> None:
    pair = Pair(name, SMALL, fused=True, **(STATEFUL[name] if options else {}))
    for found_inf in (overflow and 0.0, overflow, 0.0):
        pair.set_gradients()
        before = clone([param.detach() for param in pair.ours.params])
        for side in pair.sides:
            for key, value in (("grad_scale", scale), ("found_inf", found_inf)):
                setattr(side.optimizer, key, None if value is None else torch.tensor(value))
        pair.both(step)
        unmoved = [torch.equal(a, b) for a, b in zip(before, pair.ours.params, strict=True)]
        assert unmoved == [found_inf == 1.0] * len(SMALL)
    if name != "SGD":
        steps = [held["step"].item() for held in pair.ours.optimizer.state.values()]
        assert steps == [2.0 if overflow == 1.0 else 3.0] * len(SMALL)


@fused
def test_a_first_step_that_overflows_leaves_zeros(name: str) -> None:
    pair = Pair(name, SMALL, fused=True, **STATEFUL[name])
    pair.set_gradients()
    before = clone([param.detach() for param in pair.ours.params])
    for side in pair.sides:
        scaled(found_inf=1.0)(side)
        side.optimizer.step()
    assert_equal([param.detach() for param in pair.ours.params], before)
    for held in pair.ours.optimizer.state.values():
        assert not any(tensor.any() for tensor in held.values())
    if name != "SGD":  # whose momentum torch leaves to whatever the memory held
        pair.compare()


@ways
def test_only_a_fused_optimizer_says_that_it_unscales(name: str, way: Options) -> None:
    pair = Pair(name, **way)
    attribute = "_step_supports_amp_scaling"
    ours, theirs = (getattr(side.optimizer, attribute, None) for side in pair.sides)
    assert ours == theirs == (True if way.get("fused") else None)


# Parameters and gradients of unlike dtypes.

DTYPES = (torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool)


@pytest.mark.parametrize("gradient", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("options", [{}, *LISTED], ids=str)
@names
def test_a_gradient_of_another_dtype_does_what_it_does_in_torch(
    name: str, options: Options, dtype: torch.dtype, gradient: torch.dtype
) -> None:
    for way in ({}, FOREACH):
        for place in (0, 1):
            specs = (TensorSpec((3,), dtype), TensorSpec((3,), dtype))
            pair = Pair(name, specs, **taken(name, options), **way)
            for _ in range(2):
                pair.set_gradients()
                for side in pair.sides:
                    side.params[place].grad_dtype = None
                    side.params[place].grad = torch.ones(3, dtype=gradient)
                if not same_outcome(pair):
                    break


# What autograd gets.


@pytest.mark.parametrize("dtypes", [DTYPES[:1] * 3, (torch.float32, torch.float64) * 2], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("more", [{}, {"amsgrad": True, "maximize": True}], ids=str)
@names
def test_derivatives_with_respect_to_hyperparameters_have_torchs_bits(
    name: str,
    more: Options,
    precision: torch.dtype,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
) -> None:
    sides = Pair(name).sides
    assert_equal(*(derivatives(side, more, precision, shape, dtypes) for side in sides))


def derivatives(
    side: Side,
    more: Options,
    precision: torch.dtype,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
) -> list[Any]:
    """Step three times and go back; return derivatives, or what is raised in the place of some."""
    numbers = (0.1, 0.9, 0.99, 0.2)
    learned = [torch.full(shape, x, dtype=precision, requires_grad=True) for x in numbers]
    lr, beta1, beta2, weight_decay = learned
    options: Options = {"lr": lr, "betas": (beta1, beta2), "differentiable": True, **more}
    if side.name == "SGD" and more and not shape:
        options["weight_decay"] = weight_decay
    sources = [
        torch.linspace(-1, 2 + i, 5, dtype=dtype, requires_grad=True)
        for i, dtype in enumerate(dtypes)
    ]
    params = [source.clone() for source in sources]
    optimizer = side.optimizer_class(params, **taken(side.name, options))
    if "betas" in optimizer.defaults:  # with their dimensions, which the constructor takes away
        optimizer.param_groups[0]["betas"] = (beta1, beta2)

    def differentiate() -> None:
        for number in range(3):
            for source, param in zip(sources, params, strict=True):
                param.grad = (source * (number + 1.5)).sin()
            optimizer.step()
        torch.stack([(param.double() ** 2).sum() for param in params]).sum().backward()

    return [raised(differentiate), *(tensor.grad for tensor in (*learned, *sources))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@ways
def test_a_step_moves_the_version_counters_of_what_it_writes(
    name: str, way: Options, dtype: torch.dtype
) -> None:
    specs = (TensorSpec((7,), dtype), TensorSpec((3,), dtype))
    if way.get("fused") and dtype is torch.bfloat16:
        pytest.skip("torch's fused SGD is wrong in half precision")
    pair = Pair(name, specs, **STATEFUL[name], **way)
    pair.step(1)
    for _ in range(4):
        pair.set_gradients()
        optimizer = pair.ours.optimizer
        written: list[Tensor] = [*pair.ours.params]
        written += [tensor for held in optimizer.state.values() for tensor in held.values()]
        before = [tensor._version for tensor in written]
        pair.both(step)
        after = [tensor._version for tensor in written]
        if not way.get("fused"):
            assert all(new > old for new, old in zip(after, before, strict=True))


# Errors under way.
#
# An error inside an operation stops a step in the middle, and leaves what torch leaves. State of
# groups behind it is not made yet, steps are counted up to it, momentum buffers of its group are
# not stored. Going on after the error is caught gives torch's bits.

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
        monkeypatch.setattr(native, "usable", lambda: None)
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
