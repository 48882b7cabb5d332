"""The native kernel: ATen's bits, and never an outdated address."""

import copy
import itertools
from array import array
from collections import UserDict
from collections.abc import Callable, Iterator
from sys import getrefcount
from types import MappingProxyType
from typing import Any

import pytest
import torch
from beside import unnoticed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import optimlab
from optimlab.core.state import Like, StateSpec
from optimlab.core.values import T
from optimlab.lab.parity import compare_tensors
from optimlab.native import self_check
from optimlab.native.bytecode import Opcode
from optimlab.native.launch import DTYPES
from optimlab.native.library import Kernel
from optimlab.native.self_check import (
    Instruction,
    superinstructions,
    with_two_results,
)
from optimlab.native.step_cache import ALONE

FOUND = self_check.capabilities()
pytestmark = pytest.mark.skipif(FOUND.kernel is None, reason=FOUND.reason)

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"maximize": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
SIZES = ((), (0,), (7,), (33,), (5, 3), (513,), (16385,))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The kernel, in the end without a limit to its instruction sets."""
    assert FOUND.kernel is not None
    yield FOUND.kernel
    FOUND.kernel.limit_instruction_set(2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep the tests fast on a busy machine; one test asks for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Beside:
    """optimlab's and torch's optimizer over equal parameters."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        self.generator = torch.Generator().manual_seed(11)
        starts = [self.normal(size, dtype) for size in SIZES]
        starts.append(self.normal((2, 3, 4, 5), dtype).to(memory_format=torch.channels_last))
        starts.append(self.normal((6, 4), dtype).t())
        starts.append(self.normal((4, 4), dtype))
        self.ours = [start.clone().requires_grad_() for start in starts]
        self.theirs = [start.clone().requires_grad_() for start in starts]
        options = {**RULES[name], **options}
        self.mine: Any = getattr(optimlab, name)(self.ours, **options)
        self.torchs: Any = getattr(torch.optim, name)(self.theirs, **options)

    def normal(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        values = torch.randn(size, generator=self.generator, dtype=torch.float64)
        return (values * 10.0 ** torch.randint(-3, 2, (1,), generator=self.generator)).to(dtype)

    def both(self, action: Callable[[Any, list[Tensor]], Any]) -> None:
        action(self.mine, self.ours)
        action(self.torchs, self.theirs)

    def step(self, times: int = 1) -> None:
        """Step both with fresh gradients, and compare every bit."""
        for _ in range(times):
            for ours, theirs in zip(self.ours, self.theirs, strict=True):
                gradient = torch.empty_like(ours, requires_grad=False)
                gradient.copy_(self.normal(tuple(ours.shape), ours.dtype))
                ours.grad, theirs.grad = gradient, gradient.clone()
            self.step_as_it_is()

    def step_as_it_is(self) -> None:
        self.mine.step()
        self.torchs.step()
        self.compare()

    def compare(self) -> None:
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            assert compare_tensors(ours, theirs) is None
            with unnoticed(self.mine):
                held = dict(self.mine.state.get(ours, {}))
            assert list(held) == list(self.torchs.state.get(theirs, {}))
            for name, value in held.items():
                assert compare_tensors(value, self.torchs.state[theirs][name]) is None, name

    @property
    def is_cached(self) -> bool:
        """Whether the last step left something for the next: the kernel served every tensor."""
        return "_cached_step" in self.mine.__dict__


names = pytest.mark.parametrize("name", RULES)


@names
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_rule_is_served_to_the_bits_of_torch(
    name: str, dtype: torch.dtype, threads: int
) -> None:
    torch.set_num_threads(threads)
    pair = Beside(name, dtype)
    pair.step(2)
    assert pair.is_cached
    pair.step(4)
    assert pair.is_cached


@names
def test_large_tensors_are_gone_through_by_several_threads(name: str) -> None:
    torch.set_num_threads(2)
    sizes = (525_288, ALONE + 5, 3)
    pair = Beside(name)
    for optimizer, params in ((pair.mine, pair.ours), (pair.torchs, pair.theirs)):
        added = [pair.normal((size,), torch.float32) for size in sizes]
        params.extend(added)
        optimizer.add_param_group({"params": added, "lr": 0.5})
        pair.generator.manual_seed(3)
    for ours, theirs in zip(pair.ours[-3:], pair.theirs[-3:], strict=True):
        theirs.copy_(ours)
    pair.step(3)
    assert pair.is_cached


def replaced_data(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        param.data = param.data.clone()


def shrunk_data(optimizer: Any, params: list[Tensor]) -> None:
    """The same address, fewer elements."""
    param = params[3]
    param.data = param.data[:20]
    param.grad = None
    for name, value in list(optimizer.state[param].items()):
        optimizer.state[param][name] = value if name == "step" else value[:20]


def reshaped_data(optimizer: Any, params: list[Tensor]) -> None:
    """The same address, other strides."""
    param = params[4]
    param.data = param.data.t()
    param.grad = None
    for name, value in list(optimizer.state[param].items()):
        optimizer.state[param][name] = value if name == "step" else value.t()


def turned_data(optimizer: Any, params: list[Tensor]) -> None:
    """The same address, shape and state, other strides."""
    params[-1].data = params[-1].data.t()


def turned_state(optimizer: Any, params: list[Tensor]) -> None:
    """The same addresses and shapes, other strides."""
    for name, value in list(optimizer.state[params[-1]].items()):
        optimizer.state[params[-1]][name] = value if name == "step" else value.t()


def another_parameter(optimizer: Any, params: list[Tensor]) -> None:
    params[2] = torch.full((7,), 0.5, requires_grad=True)
    optimizer.param_groups[0]["params"][2] = params[2]


def another_dict(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.75}


def fused(optimizer: Any, params: list[Tensor]) -> None:
    if isinstance(optimizer, (optimlab.Adam, torch.optim.Adam)):
        optimizer.param_groups[0]["fused"] = True


def replaced_state(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        for name, value in optimizer.state[param].items():
            optimizer.state[param][name] = value * 2


def replaced_state_data(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        for value in optimizer.state[param].values():
            value.data = value.data + 1


def replaced_step_data(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        if "step" in optimizer.state[param]:
            optimizer.state[param]["step"].data = optimizer.state[param]["step"].data + 2


def replaced_dicts(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        optimizer.state[param] = {n: v.clone() for n, v in optimizer.state[param].items()}


def edited_state(optimizer: Any, params: list[Tensor]) -> None:
    for value in optimizer.state[params[2]].values():
        value.add_(3)


def forgotten_state(optimizer: Any, params: list[Tensor]) -> None:
    del optimizer.state[params[2]]


def loaded(optimizer: Any, params: list[Tensor]) -> None:
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)


def other_hyperparameters(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0].update(lr=0.25, weight_decay=0.5)


def tensor_lr(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["lr"] = torch.tensor(0.125)


def lists(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["foreach"] = True


def maximized(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["maximize"] = not optimizer.param_groups[0]["maximize"]


def reordered_group(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"].reverse()


def shortened_group(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"].pop(2)


def lengthened_group(optimizer: Any, params: list[Tensor]) -> None:
    params.append(torch.full((9,), 0.5, requires_grad=True))
    optimizer.param_groups[0]["params"].append(params[-1])


def replaced_list(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"] = params[:3]


def replaced_list_of_another_kind(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"] = tuple(params)


def groups_in_a_tuple(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.param_groups = tuple(optimizer.param_groups)


def state_in_another_kind_of_dict(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.state = UserDict(optimizer.state)


def dicts_of_another_kind(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        optimizer.state[param] = UserDict(optimizer.state[param])


def proxies_of_dicts(optimizer: Any, params: list[Tensor]) -> None:
    if isinstance(optimizer, (optimlab.SGD, torch.optim.SGD)):
        return  # torch's writes into them at every step
    for param in params:
        optimizer.state[param] = MappingProxyType(dict(optimizer.state[param]))


def betas_in_a_list(optimizer: Any, params: list[Tensor]) -> None:
    if "betas" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["betas"] = [0.9, 0.99]


def another_group(optimizer: Any, params: list[Tensor]) -> None:
    params.append(torch.full((9,), 0.5, requires_grad=True))
    optimizer.add_param_group({"params": params[-1], "lr": 0.5})


def moved_away_and_back(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        param.data = param.data.double().float()


CHANGES = [
    replaced_data,
    shrunk_data,
    reshaped_data,
    turned_data,
    turned_state,
    another_parameter,
    another_dict,
    fused,
    replaced_state,
    replaced_state_data,
    replaced_step_data,
    replaced_dicts,
    edited_state,
    forgotten_state,
    loaded,
    other_hyperparameters,
    tensor_lr,
    lists,
    maximized,
    reordered_group,
    shortened_group,
    lengthened_group,
    replaced_list,
    replaced_list_of_another_kind,
    groups_in_a_tuple,
    state_in_another_kind_of_dict,
    dicts_of_another_kind,
    proxies_of_dicts,
    betas_in_a_list,
    another_group,
    moved_away_and_back,
]


@names
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_between_two_steps_is_noticed(
    name: str, change: Callable[[Any, list[Tensor]], None]
) -> None:
    pair = Beside(name)
    pair.step(3)
    assert pair.is_cached
    pair.both(change)
    pair.step(3)


def test_hyperparameters_that_change_by_themselves_are_noticed() -> None:
    pair = Beside("Adam")
    pair.both(betas_in_a_list)
    pair.step(4)
    pair.both(lambda optimizer, _: optimizer.param_groups[0]["betas"].__setitem__(0, 0.5))
    pair.step(3)


@names
def test_an_entry_that_takes_the_place_of_another_is_no_error(name: str) -> None:
    pair = Beside(name)
    pair.both(lambda optimizer, _: optimizer.param_groups[0].update(mine=0.5))
    pair.step(4)
    pair.both(lambda optimizer, _: optimizer.param_groups[0].pop("mine"))
    pair.both(lambda optimizer, _: optimizer.param_groups[0].update(other=0.5))
    pair.step(3)


@names
@pytest.mark.parametrize(
    "cut", [lambda t: t[:2], lambda t: t[:, :2], lambda t: t[0], lambda t: t[:2, :2]]
)
def test_a_tensor_cut_down_in_its_memory_leaves_the_rest_alone(
    name: str, cut: Callable[[Tensor], Tensor]
) -> None:
    pair = Beside(name)
    pair.step(3)
    wholes: list[list[Tensor]] = []

    def cut_down(optimizer: Any, params: list[Tensor]) -> None:
        param = params[-1]
        param.grad = None
        held = [value for value in optimizer.state[param].values() if value.dim()]
        wholes.append([tensor.data for tensor in (param, *held)])
        for tensor in (param, *held):
            tensor.data = cut(tensor.data)

    pair.both(cut_down)
    pair.step(3)
    for ours, theirs in zip(*wholes, strict=True):
        assert compare_tensors(ours, theirs) is None


@names
@pytest.mark.parametrize("changes", list(itertools.combinations(CHANGES[:5], 2)))
def test_two_changes_at_once_are_noticed(name: str, changes: tuple[Any, Any]) -> None:
    if changes == (shrunk_data, reshaped_data) or name in ("AdamW", "SGD"):
        pytest.skip("once for two rules is enough")
    pair = Beside(name)
    pair.step(2)
    for change in changes:
        pair.both(change)
    pair.step(2)


def step_or_error(optimizer: Any) -> str:
    """Make a step, or name the error that it ends with: which operation meets it first may vary."""
    try:
        optimizer.step()
    except (AssertionError, RuntimeError) as error:
        return type(error).__name__
    return ""


def viewed_as_another_shape(optimizer: Any, params: list[Tensor]) -> None:
    params[4].data = params[4].data.view(3, 5)
    params[4].grad = torch.ones_like(params[4], requires_grad=False)


def viewed_with_fewer_dimensions(optimizer: Any, params: list[Tensor]) -> None:
    params[4].data = params[4].data.view(15)
    params[4].grad = torch.ones_like(params[4], requires_grad=False)


def gradient_in_another_precision(optimizer: Any, params: list[Tensor]) -> None:
    grad: Any = params[3].grad
    grad.data = grad.data.double() if grad.dtype == torch.float32 else grad.data.float()


def gradient_turned_complex(optimizer: Any, params: list[Tensor]) -> None:
    grad: Any = params[3].grad
    grad.data = grad.data.to(torch.complex64)


def gradient_of_another_shape(optimizer: Any, params: list[Tensor]) -> None:
    grad: Any = params[4].grad
    grad.data = grad.data.view(3, 5)


def gradient_scale_left_behind(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.grad_scale = torch.tensor(2.0)


def overflow_left_behind(optimizer: Any, params: list[Tensor]) -> None:
    optimizer.found_inf = torch.tensor(1.0)


@names
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "change",
    [
        viewed_as_another_shape,
        viewed_with_fewer_dimensions,
        gradient_in_another_precision,
        gradient_turned_complex,
        gradient_of_another_shape,
        gradient_scale_left_behind,
        overflow_left_behind,
    ],
)
def test_what_torch_refuses_between_two_steps_is_refused(
    name: str, dtype: torch.dtype, change: Callable[[Any, list[Tensor]], None]
) -> None:
    pair = Beside(name, dtype)
    pair.step(3)
    assert pair.is_cached
    pair.both(change)
    ours = step_or_error(pair.mine)
    assert ours == step_or_error(pair.torchs)
    if not ours:
        pair.compare()


@names
def test_a_step_that_is_refused_leaves_the_version_counters(name: str) -> None:
    pair = Beside(name)
    pair.step(3)
    tensors = [*pair.ours, *pair.mine.state[pair.ours[2]].values()]
    before = [tensor._version for tensor in tensors]
    pair.mine.param_groups[0]["lr"] = None
    with pytest.raises(TypeError):
        pair.mine.step()
    assert [tensor._version for tensor in tensors] == before


def test_a_rule_that_begins_to_keep_state_is_noticed() -> None:
    pair = Beside("SGD", momentum=0.0, nesterov=False)
    pair.step(2)
    pair.both(lambda optimizer, _: optimizer.param_groups[0].update(momentum=0.9))
    pair.step(3)


def test_an_optimizer_that_is_pickled_with_all_its_attributes_goes_on_stepping() -> None:
    class Whole(optimlab.Adam):
        """An optimizer whose copies take everything along."""

        def __getstate__(self) -> dict[str, Any]:
            return self.__dict__

    param = torch.linspace(-1, 1, 6).requires_grad_()
    optimizer = Whole([param])
    for _ in range(3):
        param.grad = torch.ones(6)
        optimizer.step()
    twin = copy.deepcopy(optimizer)
    (other,) = twin.param_groups[0]["params"]
    for one in (optimizer, twin):
        one.param_groups[0]["params"][0].grad = torch.ones(6)
        one.step()
    assert compare_tensors(param.detach(), other.detach()) is None


def test_a_rule_too_long_for_the_machine_runs_all_the_same() -> None:
    class Long(optimlab.Rule):
        def update(
            self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
        ) -> None:
            for _ in range(70):
                param.add_(grad, alpha=-0.01)

    param = torch.ones(9, requires_grad=True)
    optimizer = Long([param], {"foreach": None})
    expected = param.detach().clone()
    for _ in range(2):
        param.grad = torch.full((9,), 0.3)
        optimizer.step()
        for _ in range(70):
            expected.add_(param.grad, alpha=-0.01)
    assert compare_tensors(param.detach(), expected) is None


@names
def test_gradients_come_and_go(name: str) -> None:
    pair = Beside(name)
    for absent in ((), (2,), (2, 4), (), tuple(range(10)), (0, 8)):
        pair.step()
        for place in absent:
            pair.ours[place].grad = pair.theirs[place].grad = None
        pair.step_as_it_is()


@names
def test_a_gradient_may_lie_otherwise_than_its_parameter(name: str) -> None:
    pair = Beside(name)
    pair.step(2)
    for ours, theirs in zip(pair.ours, pair.theirs, strict=True):
        if ours.dim() == 2:
            gradient = torch.randn(tuple(ours.t().shape), generator=pair.generator).t()
            ours.grad, theirs.grad = gradient, gradient.clone(memory_format=torch.preserve_format)
    pair.step_as_it_is()
    pair.step(2)
    assert pair.is_cached


@names
def test_a_gradient_that_is_a_lazy_negation_is_negated(name: str) -> None:
    pair = Beside(name)
    pair.step(2)
    for ours, theirs in zip(pair.ours, pair.theirs, strict=True):
        gradient = torch._neg_view(torch.rand_like(ours, requires_grad=False))
        assert gradient.is_neg()
        ours.grad, theirs.grad = gradient, gradient.clone()
    pair.step_as_it_is()


@names
def test_memory_that_two_parameters_share_takes_the_plain_path(name: str) -> None:
    sides = []
    for package in (optimlab, torch.optim):
        memory = torch.linspace(-1, 1, 12)
        params = [memory[:8], memory[4:]]
        optimizer = getattr(package, name)(params, **RULES[name])
        for step in range(4):
            for place, param in enumerate(params):
                param.grad = torch.full((8,), 0.5 * step - place)
            optimizer.step()
        sides.append((memory, optimizer))
    assert compare_tensors(sides[0][0], sides[1][0]) is None
    assert "_cached_step" not in sides[0][1].__dict__


@names
def test_a_gradient_in_the_memory_of_a_parameter_takes_the_plain_path(name: str) -> None:
    pair = Beside(name)
    pair.step(2)
    assert pair.is_cached

    def alias(_: Any, params: list[Tensor]) -> None:
        params[2].grad = params[3].data[10:17]

    pair.both(alias)
    pair.step_as_it_is()
    assert not pair.is_cached


@names
def test_autograd_notices_that_what_it_saved_is_gone(name: str) -> None:
    pair = Beside(name)
    pair.step(2)
    before = [value._version for value in pair.mine.state[pair.ours[2]].values()]
    loss = (pair.ours[2] * pair.ours[2]).sum()
    pair.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    after = [value._version for value in pair.mine.state[pair.ours[2]].values()]
    assert all(new > old for new, old in zip(after, before, strict=True))


@names
def test_gradients_are_not_kept_alive(name: str) -> None:
    pair = Beside(name)
    pair.step(3)
    held = [grad for param in pair.ours if (grad := param.grad) is not None]
    before = [getrefcount(grad) for grad in held]
    pair.step_as_it_is()
    assert [getrefcount(grad) for grad in held] == before


@names
def test_what_intercepts_operations_sees_them(name: str) -> None:
    class Counting(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.operations += 1
            return func(*args, **(kwargs or {}))

    pair = Beside(name)
    pair.step(2)
    with Counting() as counting:  # type: ignore[no-untyped-call]
        pair.mine.step()
    assert counting.operations > len(pair.ours)


class Subclass(Tensor):
    """A tensor that is not plain memory to its user."""


@names
@pytest.mark.parametrize(
    "make",
    [
        lambda values: values.as_subclass(Subclass),
        lambda values: values.bfloat16(),
        lambda values: values.to(torch.complex64),
        lambda values: torch.stack([values, values], dim=1)[:, 0],
    ],
    ids=["subclass", "half precision", "complex", "gaps"],
)
def test_what_is_not_served_takes_the_plain_path(name: str, make: Callable[..., Any]) -> None:
    sides = []
    for package in (optimlab, torch.optim):
        params = [make(torch.linspace(-1, 1, 40)), torch.linspace(0, 1, 40)]
        optimizer = getattr(package, name)(params, **RULES[name])
        for step in range(3):
            for param in params:
                param.grad = torch.full_like(param, 0.5 - step)
            optimizer.step()
        sides.append((params, optimizer))
    for ours, theirs in zip(sides[0][0], sides[1][0], strict=True):
        assert compare_tensors(ours, theirs) is None
    assert "_cached_step" not in sides[0][1].__dict__


def test_flushing_denormals_takes_the_plain_path() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        pair = Beside("Adam")
        pair.step(3)
        assert not pair.is_cached
    finally:
        torch.set_flush_denormal(False)


def test_denormals_that_begin_to_be_flushed_are_noticed() -> None:
    pair = Beside("Adam", weight_decay=0.0)
    pair.step(3)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        for params in (pair.ours, pair.theirs):
            for param in params:
                param.grad = torch.full_like(param, 1e-21)  # its square is denormal
        pair.step_as_it_is()
    finally:
        torch.set_flush_denormal(False)


@names
def test_a_step_count_that_differs_far_behind_is_noticed(name: str) -> None:
    sides = []
    for package in (optimlab, torch.optim):
        params = [torch.full((3,), float(place), requires_grad=True) for place in range(300)]
        optimizer = getattr(package, name)(params, **RULES[name])
        for step in range(5):
            for place, param in enumerate(params):
                param.grad = torch.full((3,), 0.1 * step - place)
            if step == 3 and "step" in optimizer.state[params[250]]:
                optimizer.state[params[250]]["step"].add_(7)
            optimizer.step()
        sides.append((params, optimizer))
    for ours, theirs in zip(sides[0][0], sides[1][0], strict=True):
        assert compare_tensors(ours.detach(), theirs.detach()) is None


def test_a_check_of_the_users_own_is_asked_at_every_step() -> None:
    class Careful(optimlab.Adam):
        asked = 0

        def check(self, batch: Any) -> None:
            self.asked += 1
            super().check(batch)

    param = torch.ones(4, requires_grad=True)
    optimizer = Careful([param])
    for _ in range(3):
        param.grad = torch.ones(4)
        optimizer.step()
    assert optimizer.asked == 3


class Lion(optimlab.Rule):
    """A rule of a user's own, in ten lines."""

    state_spec = StateSpec(Like("exp_avg"))

    def __init__(self, params: Any, foreach: bool | None = None) -> None:
        super().__init__(params, {"lr": 1e-2, "betas": (0.9, 0.99), "foreach": foreach})

    def update(
        self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        direction = state["exp_avg"].mul(beta1).add_(grad, alpha=1 - beta1).sign_()
        param.add_(direction, alpha=-group["lr"])
        state["exp_avg"].lerp_(grad, 1 - beta2)


def test_a_users_rule_is_served_without_a_line_of_c() -> None:
    sides = []
    for options in ({}, {"foreach": True}):
        params = [torch.linspace(-1, 1, size) for size in (5, 40, 16387)]
        optimizer = Lion(params, **options)
        for step in range(4):
            for param in params:
                param.grad = torch.cos(param * (step + 1))
            optimizer.step()
        sides.append((params, optimizer))
    assert "_cached_step" in sides[0][1].__dict__
    assert "_cached_step" not in sides[1][1].__dict__
    for ours, theirs in zip(sides[0][0], sides[1][0], strict=True):
        assert compare_tensors(ours, theirs) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_instructions_give_atens_bits_here(dtype: torch.dtype) -> None:
    if FOUND.reason:
        pytest.skip(FOUND.reason)
    assert FOUND.trusted[dtype] == {int(operation) for operation in Opcode}


@pytest.mark.parametrize("most", [0, 1, 2])
def test_every_instruction_set_gives_the_same_bits(kernel: Kernel, most: int) -> None:
    kernel.limit_instruction_set(most)
    for operation, dtype in itertools.product(Opcode, DTYPES):
        expected = int(operation) in FOUND.trusted[dtype]
        assert self_check._is_right(kernel, operation, dtype) == expected, operation


# Registers of the programs below: 0 to 3 are tensors, 4 and above temporaries.
T1, T2 = 4, 5
# Which of the operands a, b, c and the result are the same register.
ALIASES = [
    (a, b, c, result)
    for a, b, c in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2))
    for result in sorted({a, b, c, 3})
]


def in_place() -> list[tuple[list[Instruction], int]]:
    """Write down what is joined, or is not, by reason of other uses, and how much is left."""
    op = Opcode
    scale = (op.MULTIPLY_SCALAR, 0, 0, 0, 0, 0.9)
    add = (op.ADD_SCALED, 0, 0, 1, 0, 0.3)
    add_eps = (op.ADD_SCALAR, T1, 1, 1, 1, 1e-8)
    quotient = (op.ADD_QUOTIENT, 0, 0, 2, T1, -0.01)
    return [
        ([scale, add], 1),
        ([scale, scale, add], 2),
        ([scale, scale, (op.SIGN, T1, 1, 1, 1, 0.0), (op.ADD_SCALED, 0, 0, T1, 0, 0.3)], 2),
        ([scale, scale, add_eps, quotient], 2),
        ([scale, (op.ADD_SCALED, 0, 0, 0, 0, 0.3)], 2),
        ([scale, (op.ADD_SCALED, 1, 0, 1, 1, 0.3)], 2),  # a tensor must have its new value
        ([scale, (op.ADD_PRODUCT, 0, 0, 1, 1, 0.3)], 1),
        ([scale, (op.ADD_PRODUCT, 0, 0, 1, 0, 0.3)], 2),
        ([scale, (op.ADD_PRODUCT, 0, 0, 0, 1, 0.3)], 2),
        ([scale, (op.ADD_QUOTIENT, 0, 0, 1, 0, 0.3)], 2),
        ([(op.MULTIPLY_SCALAR, 0, 1, 1, 1, 0.9), (op.ADD_PRODUCT, 0, 0, 2, 0, 0.3)], 2),
        ([(op.MULTIPLY_SCALAR, 0, 1, 1, 1, 0.9), (op.ADD_SCALED, 0, 0, 1, 0, 0.3)], 1),
        # In between what has nothing to do with it, reads it, writes it, writes its operand
        ([scale, (op.LERP, 2, 2, 1, 2, 0.1), add], 2),
        ([scale, (op.LERP, 2, 2, 0, 2, 0.1), add], 3),
        ([scale, (op.COPY, 0, 2, 2, 2, 0.0), add], 3),
        ([(op.MULTIPLY_SCALAR, T1, 0, 0, 0, 0.9), (op.NEGATE, 0, 0, 0, 0, 0.0),
          (op.ADD_SCALED, 2, T1, 1, 1, 0.3)], 3),
        ([(op.MULTIPLY_SCALAR, T1, 0, 0, 0, 0.9), (op.ADD_SCALED, 0, T1, 0, 0, 0.3)], 1),
        # A temporary that is read once more, or is written first
        ([add_eps, quotient], 1),
        ([add_eps, quotient, (op.MULTIPLY, 3, T1, 1, 1, 0.0)], 3),
        ([add_eps, quotient, add_eps, (op.MULTIPLY, 3, T1, 1, 1, 0.0)], 3),
        ([(op.ADD_SCALAR, 3, 1, 1, 1, 1e-8), (op.ADD_QUOTIENT, 0, 0, 2, 3, -0.01)], 2),
        ([(op.ADD_SCALAR, 0, 1, 1, 1, 1e-8), (op.ADD_QUOTIENT, 0, 3, 2, 0, -0.01)], 1),
        ([add_eps, (op.ADD_QUOTIENT, 0, 0, T1, T1, -0.01)], 2),
        ([add_eps, (op.ADD_QUOTIENT, 0, T1, 2, T1, -0.01)], 2),
        ([(op.SIGN, T1, 0, 0, 0, 0.0), (op.ADD_SCALED, 0, T1, T1, 0, 0.3)], 2),
        ([(op.SIGN, T1, 0, 0, 0, 0.0), (op.ADD_SCALED, 0, T1, 1, 0, 0.3)], 2),
        ([(op.ADD_SCALED, T1, 0, 1, 0, 0.7), (op.ADD_SCALED, 0, T1, 1, 0, 0.3)], 2),
        ([(op.ADD_SCALED, 0, 1, 2, 0, 0.7), (op.ADD_SCALED, 0, 3, 0, 0, 0.3)], 1),
        ([(op.SQUARE_ROOT, 0, 0, 0, 0, 0.0), add_eps, (op.ADD_QUOTIENT, 2, 2, 0, T1, 0.1)], 2),
        # Two results in one pass
        ([add, (op.ADD_SCALED, 2, 2, 0, 0, 0.7)], 1),
        ([add, (op.ADD_SCALED, 1, 1, 0, 0, 0.7), (op.ADD_SCALED, 2, 2, 1, 0, -0.1)], 2),
        ([add, (op.ADD_SCALED, 2, 3, 0, 0, 0.7)], 2),
        ([add, (op.ADD_SCALED, 0, 0, 0, 0, 0.7)], 2),
        (lerp_and_square(0, 1, 2, 0.1), 1),
        (lerp_and_square(0, 1, 2, 0.7), 1),
        (lerp_and_square(0, 1, 1, 0.1), 3),
        (lerp_and_square(0, 0, 1, 0.1), 2),
        ([(op.LERP, 3, 0, 1, 0, 0.1), *lerp_and_square(0, 1, 2, 0.1)[1:]], 1),
        ([(op.LERP, 0, 0, 3, 0, 0.1), *lerp_and_square(0, 1, 2, 0.1)[1:]], 2),
        ([*lerp_and_square(0, 1, 2, 0.1)[:2], (op.ADD_PRODUCT, 2, 2, 1, 3, 0.01)], 2),
        ([*lerp_and_square(0, 1, 2, 0.1)[:2], (op.ADD_PRODUCT, 2, 2, 3, 1, 0.01)], 2),
        ([*lerp_and_square(0, 1, 2, 0.1)[:2], (op.ADD_PRODUCT, 3, 2, 1, 1, 0.01)], 3),
    ]  # fmt: skip


def lerp_and_square(a: int, b: int, c: int, weight: float) -> list[Instruction]:
    return [
        (Opcode.LERP, a, a, b, a, weight),
        (Opcode.MULTIPLY_SCALAR, c, c, c, c, 0.99),
        (Opcode.ADD_PRODUCT, c, c, b, b, 0.01),
    ]


def two_results() -> Iterator[list[Instruction]]:
    """Write down an average and a sum of squares, or two sums of which one takes up the other."""
    for result, a, b, c in itertools.product(range(3), repeat=4):
        scaled_a = (Opcode.MULTIPLY_SCALAR, T1, a, a, a, 0.9)
        scaled_c = (Opcode.MULTIPLY_SCALAR, T2, c, c, c, 1.1)
        first = (Opcode.ADD_SCALED, result, a, b, b, 0.7)
        second = (Opcode.ADD_SCALED, c, c, result, c, -0.3)
        scaled_first = [scaled_a, (Opcode.ADD_SCALED, result, T1, b, b, 0.7)]
        scaled_second = [scaled_c, (Opcode.ADD_SCALED, c, T2, result, c, -0.3)]
        for begin, end in itertools.product(([first], scaled_first), ([second], scaled_second)):
            yield [*begin, *end]
        for weight in (0.1, 0.7):
            average = (Opcode.LERP, result, a, b, a, weight)
            yield [average, scaled_c, (Opcode.ADD_PRODUCT, c, T2, b, b, 0.01)]


# Around the lengths of vectors, of pairs of vectors and of chunks; many, and empty ones in between.
SHORT = (*range(34), 63, 64, 65, 127, 129, 255, 256, 257, 511, 513, 0, 1023, 1024, 1025)


def values_for(dtype: torch.dtype, total: int) -> list[list[Tensor]]:
    """Make operands that are full of special values, without any, and with few."""
    special = [
        operand.repeat(total // self_check.SIZE + 1)[:total]
        for operand in self_check.operands(dtype)
    ]
    special.append(special[0].flip(0))
    generator = torch.Generator().manual_seed(5)
    tame = [torch.rand(total, generator=generator, dtype=dtype) * 3 + 1e-6 for _ in special]
    odd = [torch.rand(total, generator=generator) < 0.01 for _ in special]
    few = [torch.where(*each) for each in zip(odd, special, tame, strict=True)]
    return [special, tame, few]


def run_of(
    program: list[Instruction],
    values: list[Tensor],
    sizes: tuple[int, ...],
    *,
    joined: bool,
    threads: int = 1,
) -> list[Tensor]:
    """Run a program on copies, cut into tensors of these sizes."""
    assert FOUND.kernel is not None
    registers = [tensor.clone() for tensor in values]
    starts = [0, *itertools.accumulate(sizes)]
    itemsize = registers[0].element_size()
    FOUND.kernel.run(
        array("d", itertools.chain.from_iterable(program)),
        array("q", [r.data_ptr() + itemsize * start for r in registers for start in starts[:-1]]),
        array("q", sizes),
        inputs=len(registers),
        total=starts[-1],
        is_double=registers[0].dtype == torch.float64,
        threads=threads,
        joined=joined,
    )
    return registers


def joined_length(program: list[Instruction]) -> int:
    assert FOUND.kernel is not None
    return FOUND.kernel.joined_length(array("d", itertools.chain.from_iterable(program)), 4)


@pytest.fixture
def every_instruction_set(kernel: Kernel) -> Callable[[], Iterator[int]]:
    """Limit the kernel to each instruction set in turn."""

    def each() -> Iterator[int]:
        for most in (0, 1, 2):
            kernel.limit_instruction_set(most)
            yield most

    return each


EachSet = Callable[[], Iterator[int]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", superinstructions(0, 1, 2, 3))
def test_instructions_that_are_joined_round_as_one_after_the_other(
    name: str, dtype: torch.dtype, every_instruction_set: EachSet
) -> None:
    for aliases in ALIASES:
        program = superinstructions(*aliases)[name]
        assert joined_length(program) == 1, aliases
        compare_joined(program, dtype, every_instruction_set)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("program", "left"), in_place())
def test_what_is_needed_once_more_is_not_joined(
    program: list[Instruction], left: int, dtype: torch.dtype, every_instruction_set: EachSet
) -> None:
    assert joined_length(program) == left
    compare_joined(program, dtype, every_instruction_set)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_results_in_one_pass_are_those_of_two(
    dtype: torch.dtype, every_instruction_set: EachSet
) -> None:
    lengths = set()
    for program in two_results():
        lengths.add(joined_length(program))
        compare_joined(program, dtype, every_instruction_set)
    assert lengths == {1, 2}


def compare_joined(program: list[Instruction], dtype: torch.dtype, each_set: EachSet) -> None:
    for values in values_for(dtype, sum(SHORT)):
        FOUND.kernel.limit_instruction_set(0)  # type: ignore[union-attr]
        expected = run_of(program, values, SHORT, joined=False)
        for most in each_set():
            found = run_of(program, values, SHORT, joined=True)
            for separate, together in zip(expected, found, strict=True):
                assert compare_tensors(separate, together) is None, (program, most)


PIECE = 16384  # that of program.h
DIVISIONS = {
    "one tensor": (2 * PIECE + 77,),
    "shares of one piece and a little": (2 * PIECE + 130, 1, 63),
    "around the borders of pieces": (PIECE - 1, 2, PIECE, 0, 1, PIECE + 1, 100, 3 * PIECE - 5),
    "thousands of tensors": tuple(17 * i % 41 for i in range(5000)),
    "less than a cache line for each thread": (5, 0, 60, 3),
    "nothing": (0, 0),
    "too much for the caches": (1_000_003, 40, 100_000),
}


@pytest.mark.parametrize("sizes", DIVISIONS.values(), ids=DIVISIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_division_among_threads_gives_the_same_bits(
    dtype: torch.dtype, sizes: tuple[int, ...]
) -> None:
    several = [step for program, _ in in_place()[:6] for step in program]
    for program in (
        superinstructions(0, 1, 2, 0)["scaled, plus quotient by divided root"],
        several,
    ):
        for values in values_for(dtype, sum(sizes)):
            expected = run_of(program, values, (sum(sizes),), joined=False)
            for threads in (1, 2, 3, 9):
                found = run_of(program, values, sizes, joined=True, threads=threads)
                for whole, divided in zip(expected, found, strict=True):
                    assert compare_tensors(whole, divided) is None, threads


def test_fewer_threads_than_asked_for_leave_nothing_out(kernel: Kernel) -> None:
    try:
        set_dynamic = kernel._library.omp_set_dynamic
    except AttributeError:
        pytest.skip("the kernel was built without threads")
    program = superinstructions(0, 1, 2, 0)["scaled, plus"]
    values = values_for(torch.float32, 9 * PIECE)[1]
    expected = run_of(program, values, (9 * PIECE,), joined=True)
    set_dynamic(1)  # no more threads than there are processors
    try:
        found = run_of(program, values, (9 * PIECE,), joined=True, threads=200)
    finally:
        set_dynamic(0)
    assert compare_tensors(expected[0], found[0]) is None


def test_roots_of_few_numbers_are_those_of_torch(every_instruction_set: EachSet) -> None:
    root = [(Opcode.SQUARE_ROOT, 0, 0, 0, 0, 0.0)]
    generator = torch.Generator().manual_seed(9)
    bits = torch.randint(0, 0x7F7FFFFF, (8000,), generator=generator, dtype=torch.int32)
    for most, size in itertools.product(every_instruction_set(), (1, 3, 7, 8, 9, 15, 31)):
        pieces = bits[: 8000 // size * size].view(torch.float32).split(size)
        found = run_of(root, [torch.cat(pieces)], (size,) * len(pieces), joined=True)[0]
        expected = torch.cat([piece.sqrt() for piece in pieces])
        assert compare_tensors(expected, found) is None, (most, size)


def test_what_is_not_a_program_is_refused(kernel: Kernel) -> None:
    tensor = torch.ones(4)
    for numbers in ([99, 0, 0, 0, 0, 0.0], [0, 40, 0, 0, 0, 0.0], [0, 0, -1, 0, 0, 0.0]):
        with pytest.raises(ValueError, match="not a program"):
            kernel.run(
                array("d", numbers),
                array("q", [tensor.data_ptr()]),
                array("q", [4]),
                inputs=1,
                total=4,
                is_double=False,
                threads=1,
            )
    assert tensor.tolist() == [1.0] * 4


def test_an_instruction_that_is_wrong_is_not_used(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {**self_check.REFERENCES, Opcode.LERP: lambda a, b, c, s: a + s * (b - a)}
    monkeypatch.setattr(self_check, "REFERENCES", wrong)
    found = self_check.check.__wrapped__(kernel)
    assert "LERP" in found.reason
    assert not found.serves(frozenset({int(Opcode.LERP)}), torch.float32)
    assert found.serves(frozenset({int(Opcode.MULTIPLY)}), torch.float32)


@pytest.mark.parametrize("name", [*superinstructions(0, 1, 2, 3), *with_two_results()])
def test_superinstructions_that_are_wrong_are_not_used(
    name: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = self_check.run_program
    program = {**superinstructions(0, 1, 2, 3), **with_two_results()}[name]
    assert joined_length(program) == 1

    def run_wrongly(kernel: Kernel, given: list[Instruction], registers: list[Tensor]) -> None:
        run(kernel, given, registers)
        if given == program:
            registers[given[-1][1]].neg_()

    monkeypatch.setattr(self_check, "run_program", run_wrongly)
    found = self_check.check.__wrapped__(kernel)
    assert not found.joins
    assert "superinstructions" in found.reason
    assert found.trusted == FOUND.trusted


def test_info_names_what_serves_each_optimizer() -> None:
    text = str(optimlab.info(Lion))
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Lion"):
        assert f"{name}:" in text
    assert ("native kernel" in text) or ("ATen" in text)
