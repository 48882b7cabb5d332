"""State that nobody else can reach is not looked at, and whatever reaches it is noticed."""

import copy
import os
import random
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from beside import (
    one_thread,  # noqa: F401 - applies to every test here
    unnoticed,
)
from torch import Tensor

import optimlab
from optimlab.core.values import T
from optimlab.lab.parity import compare_tensors
from optimlab.native import ownership, self_check

pytestmark = pytest.mark.skipif(
    self_check.capabilities().kernel is None or not ownership.counts_tell(),
    reason="there is no native kernel, or no telling who has a tensor",
)

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
}
names = pytest.mark.parametrize("name", OPTIMIZERS)
SIZES = ((5,), (40,), (3, 4), ())
PROGRAMS = min(int(os.environ.get("OPTIMLAB_RANDOM_PROGRAMS", "150")), 1000)


class Run:
    """One library's optimizer over parameters of its own."""

    def __init__(self, library: Any, name: str) -> None:
        generator = torch.Generator().manual_seed(4)
        self.params = [
            torch.randn(size, generator=generator).requires_grad_()
            for size in (*SIZES, *[(7,)] * 16)
        ]
        self.optimizer: Any = getattr(library, name)(self.params, **OPTIMIZERS[name])
        self.gradients = torch.Generator().manual_seed(6)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for param in self.params:
                param.grad = torch.randn(param.shape, generator=self.gradients)
            self.optimizer.step()

    @property
    def is_owned(self) -> bool:
        return bool(self.optimizer._cached_step.ownership.holds)

    def tensors(self) -> Iterator[Tensor]:
        with unnoticed(self.optimizer):
            state = dict(self.optimizer.state)
        for param in self.params:
            yield param.detach()
            yield from state[param].values()

    def some_state(self) -> tuple[dict[str, Any], str, Tensor]:
        """Return a state tensor as a user gets hold of it, with its dict and name."""
        held = self.optimizer.state[self.params[1]]
        name, value = list(held.items())[-1]
        return held, name, value


def pair(name: str) -> tuple[Run, Run]:
    return Run(optimlab, name), Run(torch.optim, name)


def compare(ours: Run, theirs: Run) -> None:
    for mine, other in zip(ours.tensors(), theirs.tensors(), strict=True):
        assert compare_tensors(mine, other) is None


@names
def test_an_optimizer_comes_to_own_its_state(name: str) -> None:
    ours, theirs = pair(name)
    for run in (ours, theirs):
        run.step(4)
    assert ours.is_owned
    for run in (ours, theirs):
        run.step(5)
    assert ours.is_owned
    compare(ours, theirs)


@names
def test_asking_for_the_state_ends_its_ownership_for_a_step(name: str) -> None:
    run, _ = pair(name)
    owned: list[bool] = []
    for asks in (False, True, False):
        if asks:
            assert run.optimizer.state
        run.step(1 if owned else 4)
        owned.append(run.is_owned)
    assert owned == [True, False, True]


@names
def test_other_memory_given_to_state_between_two_steps_is_noticed(name: str) -> None:
    ours, theirs = pair(name)
    for run in (ours, theirs):
        run.step(4)
        _, _, value = run.some_state()
        value.data = value.data * 2
        del value
        run.step(4)
    assert ours.is_owned
    compare(ours, theirs)


# Each takes hold of something while it may, and returns how to use it much later.
Way = Callable[[Run], Callable[[], Tensor]]


def a_tensor(run: Run) -> Callable[[], Tensor]:
    _, _, value = run.some_state()
    return lambda: value


def its_dict(run: Run) -> Callable[[], Tensor]:
    held, name, _ = run.some_state()
    return lambda: held[name]


def all_state(run: Run) -> Callable[[], Tensor]:
    state, param = run.optimizer.state, run.params[1]
    return lambda: list(state[param].values())[-1]


def a_view_of_all_state(run: Run) -> Callable[[], Tensor]:
    dicts = run.optimizer.state.values()
    return lambda: list(list(dicts)[1].values())[-1]


def an_iterator_of_a_dict(run: Run) -> Callable[[], Tensor]:
    held, _, _ = run.some_state()
    values = iter(held.values())
    return lambda: list(values)[-1]


def a_method(run: Run) -> Callable[[], Tensor]:
    look_up = run.optimizer.state.__getitem__
    return lambda: list(look_up(run.params[1]).values())[-1]


def a_method_of_a_tensor(run: Run) -> Callable[[], Tensor]:
    bound: Any = run.some_state()[-1].mul_
    return lambda: bound.__self__


def a_weak_reference(run: Run) -> Callable[[], Tensor]:
    reference = weakref.ref(run.some_state()[-1])

    def value() -> Tensor:
        found = reference()
        assert found is not None
        return found

    return value


def a_weak_reference_to_another_kind_of_dict(run: Run) -> Callable[[], Tensor]:
    run.optimizer.state[run.params[1]] = OrderedDict(run.optimizer.state[run.params[1]])
    reference = weakref.ref(run.optimizer.state[run.params[1]])

    def value() -> Tensor:
        found: Any = reference()
        return list(found.values())[-1]  # type: ignore[no-any-return]

    return value


def a_view(run: Run) -> Callable[[], Tensor]:
    view = run.some_state()[-1][:2]
    return lambda: view._base  # type: ignore[return-value]


def a_state_dict(run: Run) -> Callable[[], Tensor]:
    saved = run.optimizer.state_dict()
    return lambda: list(saved["state"][1].values())[-1]


def a_shallow_copy(run: Run) -> Callable[[], Tensor]:
    twin = copy.copy(run.optimizer)
    return lambda: list(twin.state[run.params[1]].values())[-1]


def an_attribute_of_the_optimizer(run: Run) -> Callable[[], Tensor]:
    run.optimizer.remembered = run.some_state()[-1]
    return lambda: run.optimizer.remembered


def a_cycle(run: Run) -> Callable[[], Tensor]:
    cycle: list[Any] = [run.some_state()[-1]]
    cycle.append(cycle)
    return lambda: cycle[1][0]


WAYS: list[Way] = [
    a_tensor,
    its_dict,
    all_state,
    a_view_of_all_state,
    an_iterator_of_a_dict,
    a_method,
    a_method_of_a_tensor,
    a_weak_reference,
    a_weak_reference_to_another_kind_of_dict,
    a_view,
    a_state_dict,
    a_shallow_copy,
    an_attribute_of_the_optimizer,
    a_cycle,
]


@names
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_what_was_taken_hold_of_long_ago_is_noticed_when_it_is_used(
    name: str, way: Way, early: bool
) -> None:
    ours, theirs = pair(name)
    for run in (ours, theirs):
        run.step(2 if early else 5)  # before and after the state has become owned
        reach = way(run)
        run.step(7)
        if run is ours and "_cached_step" in vars(run.optimizer):
            assert not run.is_owned
        value = reach()
        value.data = value.data.clone() + 1
        del value
        run.step(3)
    compare(ours, theirs)


@names
@pytest.mark.parametrize(
    "get",
    [lambda value: value.untyped_storage(), lambda value: value.detach().untyped_storage()],
    ids=["the storage", "the storage of an alias"],
)
@pytest.mark.parametrize("is_weak", [False, True])
def test_memory_that_moves_because_a_storage_grows_is_noticed(
    name: str, get: Callable[[Tensor], Any], is_weak: bool
) -> None:
    ours, theirs = pair(name)
    for run in (ours, theirs):
        run.step(5)
        storage = get(run.some_state()[-1])
        reference = weakref.ref(storage)
        if is_weak:
            del storage
        run.step(5)
        grown: Any = reference()
        if grown is not None:
            grown.resize_(grown.nbytes() * 1000)
        del grown
        run.step(3)
    compare(ours, theirs)


@names
def test_a_hook_that_changes_state_is_noticed(name: str) -> None:
    ours, theirs = pair(name)

    def hook(optimizer: Any, *_: Any) -> None:
        for param in list(optimizer.state)[:3]:
            for value in optimizer.state[param].values():
                value.data = value.data.clone()

    for run in (ours, theirs):
        run.step(5)
        handle = run.optimizer.register_step_pre_hook(hook)
        run.step(2)
        handle.remove()
        run.step(2)
    compare(ours, theirs)


@names
def test_a_closure_that_changes_state_is_noticed(name: str) -> None:
    ours, theirs = pair(name)
    for run in (ours, theirs):
        run.step(5)

        def closure(run: Run = run) -> float:
            _, _, value = run.some_state()
            value.data = value.data + 1
            return 0.0

        run.optimizer.step(closure)
        run.step(2)
    compare(ours, theirs)


@names
def test_autograd_notices_that_owned_state_has_changed(name: str) -> None:
    run, _ = pair(name)
    run.step(5)
    weight = torch.ones(40, requires_grad=True)
    held = run.optimizer.state[run.params[1]]
    moments = [value for value in held.values() if value.shape == (40,)]
    losses = [(value * weight).sum() for value in moments]
    del held, moments
    run.step()
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_rule_that_reaches_for_the_state_itself_is_noticed() -> None:
    class Reaching(optimlab.SGD):
        """A rule that moves its own state every now and then."""

        moves = False

        def update(
            self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
        ) -> None:
            if self.moves:
                value = self.state[self.param_groups[0]["params"][0]]["momentum_buffer"]
                value.data = value.data + 1
                self.moves = False
            super().update(param, grad, state, step, group)

    ends = []
    for quiet in (True, False):
        param = torch.linspace(-1, 1, 6).requires_grad_()
        optimizer = Reaching([param], lr=0.5, momentum=0.9)
        for step in range(9):
            param.grad = torch.full((6,), 0.1 * step)
            if not quiet:
                assert optimizer.state is not None
            optimizer.moves = step == 6
            optimizer.step()
        ends.append(param.detach())
    assert compare_tensors(*ends) is None


def test_optimizers_that_share_their_state_are_not_owned() -> None:
    first, second = (Run(optimlab, "Adam") for _ in range(2))
    first.step(2)
    second.optimizer.add_param_group({"params": []})
    second.optimizer.state = first.optimizer.state
    first.step(6)
    assert not first.is_owned


def test_where_counts_do_not_tell_nothing_is_owned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "counts_tell", lambda: False)
    run, _ = pair("Adam")
    run.step(6)
    assert not run.is_owned


def test_counting_references_in_vain_becomes_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def is_owned(cached: Any) -> bool:
        looked.append(cached)
        return False

    monkeypatch.setattr(ownership, "is_owned", is_owned)
    run, _ = pair("SGD")
    run.step(100)
    assert 4 < len(looked) < 10


def test_vars_shows_the_state_as_torch_does() -> None:
    run, other = pair("Adam")
    for side in (run, other):
        side.step()
    assert vars(run.optimizer)["state"] is run.optimizer.state
    assert set(vars(run.optimizer)) - set(vars(other.optimizer)) == {"_cached_step"}
    del run.optimizer.state
    assert not hasattr(run.optimizer, "state")


def moved(value: Tensor) -> None:
    value.data = value.data + 1


def changed_in_place(value: Tensor) -> None:
    value.add_(1)


def resized(value: Tensor) -> None:
    value.untyped_storage().resize_(4096)


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_random_programs_of_quiet_steps_and_changes_end_in_equal_bits(number: int) -> None:
    name = list(OPTIMIZERS)[number % len(OPTIMIZERS)]
    ours, theirs = pair(name)
    for run in (ours, theirs):
        choose = random.Random(number)
        kept: list[Any] = []
        run.step()
        for _ in range(14):
            action = choose.randrange(8)
            place = choose.randrange(len(run.params))
            if action == 0:
                kept.append(list(run.optimizer.state[run.params[place]].values())[-1])
            elif action == 1 and kept:
                choose.choice((moved, changed_in_place, resized))(choose.choice(kept))
            elif action == 2:
                value = list(run.optimizer.state[run.params[place]].values())[-1]
                if value.dim() or "step" not in run.optimizer.state[run.params[place]]:
                    choose.choice((moved, changed_in_place, resized))(value)
                del value
            elif action == 3:
                held = run.optimizer.state[run.params[place]]
                held.update({n: v.clone() for n, v in held.items()})
                del held
            elif action == 4:
                kept.clear()
            elif action == 5:
                run.params[place].data = run.params[place].data.clone()
            elif action == 6:
                run.optimizer.param_groups[0]["lr"] = choose.choice((0.01, 0.1, 1))
            run.step(choose.randrange(1, 4))
    compare(ours, theirs)
