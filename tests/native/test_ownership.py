"""State that nobody else can reach is not looked at, and whatever reaches it is noticed."""

import copy
import os
import random
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor
from twins import FOUND, Run, Twins

import optimlab
from optimlab.core.values import T
from optimlab.lab.parity import compare_tensors
from optimlab.native import ownership

pytestmark = pytest.mark.skipif(
    FOUND.kernel is None or not ownership.counts_tell(),
    reason="there is no native kernel, or no telling who has a tensor",
)

names = pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
PROGRAMS = min(int(os.environ.get("OPTIMLAB_RANDOM_PROGRAMS", "150")), 1000)


def pair(name: str) -> Twins:
    generator = torch.Generator().manual_seed(4)
    sizes = ((5,), (40,), (3, 4), (), *[(7,)] * 16)
    return Twins(name, [torch.randn(size, generator=generator) for size in sizes])


def some_state(run: Run) -> Tensor:
    """Return a state tensor as a user gets hold of it."""
    value: Tensor = list(run.state(1).values())[-1]
    return value


@names
def test_an_optimizer_comes_to_own_its_state(name: str) -> None:
    twins = pair(name)
    for times in (4, 5):
        twins.both(lambda run, times=times: run.step(times))  # type: ignore[misc]
        assert twins.ours.is_owned
    twins.compare()


@names
def test_asking_for_the_state_ends_its_ownership_for_a_step(name: str) -> None:
    run = pair(name).ours
    owned: list[bool] = []
    for asks in (False, True, False):
        if asks:
            assert run.optimizer.state
        run.step(1 if owned else 4)
        owned.append(run.is_owned)
    assert owned == [True, False, True]


def moved(value: Tensor) -> float:
    """Give a tensor other memory."""
    value.data = value.data + 1
    return 0.0


def last(held: Any) -> Tensor:
    value: Tensor = list(held.values())[-1]
    return value


def an_ordered_dict(run: Run) -> Any:
    run.optimizer.state[run.params[1]] = OrderedDict(run.state(1))
    return weakref.ref(run.optimizer.state[run.params[1]])


def a_cycle(run: Run) -> list[Any]:
    cycle: list[Any] = [some_state(run)]
    cycle.append(cycle)
    return cycle


# How one takes hold of something while one may, and how it is used much later.
WAYS: dict[str, tuple[Callable[[Run], Any], Callable[[Any, Run], Any]]] = {
    "a tensor": (some_state, lambda value, run: value),
    "its dict": (lambda run: run.state(1), lambda held, run: last(held)),
    "all state": (lambda run: run.optimizer.state, lambda s, run: last(s[run.params[1]])),
    "a view": (lambda run: run.optimizer.state.values(), lambda all_, run: last(list(all_)[1])),
    "an iterator": (lambda run: iter(run.state(1).values()), lambda values, run: list(values)[-1]),
    "a method": (
        lambda run: run.optimizer.state.__getitem__, lambda get, run: last(get(run.params[1])),
    ),
    "a tensor's method": (lambda run: some_state(run).mul_, lambda mul_, run: mul_.__self__),
    "a weak reference": (lambda run: weakref.ref(some_state(run)), lambda ref, run: ref()),
    "a weak reference to a dict": (an_ordered_dict, lambda ref, run: last(ref())),
    "a tensor's view": (lambda run: some_state(run)[:2], lambda view, run: view._base),
    "a checkpoint": (
        lambda run: run.optimizer.state_dict(), lambda saved, run: last(saved["state"][1]),
    ),
    "a shallow copy": (
        lambda run: copy.copy(run.optimizer), lambda twin, run: last(twin.state[run.params[1]]),
    ),
    "an attribute": (
        lambda run: setattr(run.optimizer, "remembered", some_state(run)),
        lambda _, run: run.optimizer.remembered,
    ),
    "a cycle": (a_cycle, lambda cycle, run: cycle[1][0]),
}  # fmt: skip


@names
@pytest.mark.parametrize(("take", "use"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_what_was_taken_hold_of_long_ago_is_noticed_when_it_is_used(
    name: str, take: Callable[[Run], Any], use: Callable[[Any, Run], Any], early: bool
) -> None:
    twins = pair(name)
    for run in (twins.ours, twins.theirs):
        run.step(2 if early else 5)  # before and after the state has become owned
        taken = take(run)
        run.step(7)
        assert run is twins.theirs or not run.is_cached or not run.is_owned
        moved(use(taken, run))
        run.step(3)
    twins.compare()


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
    twins = pair(name)
    for run in (twins.ours, twins.theirs):
        run.step(5)
        storage = get(some_state(run))
        reference = weakref.ref(storage)
        if is_weak:
            del storage
        run.step(5)
        grown: Any = reference()
        if grown is not None:
            grown.resize_(grown.nbytes() * 1000)
        del grown
        run.step(3)
    twins.compare()


@names
@pytest.mark.parametrize("kind", ["hook", "closure"])
def test_a_hook_or_a_closure_that_changes_state_is_noticed(name: str, kind: str) -> None:
    def hook(optimizer: Any, *_: Any) -> None:
        for param in list(optimizer.state)[:3]:
            for value in optimizer.state[param].values():
                value.data = value.data.clone()

    twins = pair(name)
    for run in (twins.ours, twins.theirs):
        run.step(5)
        if kind == "hook":
            handle = run.optimizer.register_step_pre_hook(hook)
            run.step(2)
            handle.remove()
        else:
            run.optimizer.step(lambda run=run: moved(some_state(run)))
        run.step(2)
    twins.compare()


@names
def test_autograd_notices_that_owned_state_has_changed(name: str) -> None:
    run = pair(name).ours
    run.step(5)
    weight = torch.ones(40, requires_grad=True)
    losses = [(v * weight).sum() for v in run.state(1).values() if v.shape == (40,)]
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
                moved(self.state[self.param_groups[0]["params"][0]]["momentum_buffer"])
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
    first, second = pair("Adam").ours, pair("Adam").ours
    first.step(2)
    second.optimizer.add_param_group({"params": []})
    second.optimizer.state = first.optimizer.state
    first.step(6)
    assert not first.is_owned


def test_where_counts_do_not_tell_nothing_is_owned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "counts_tell", lambda: False)
    run = pair("Adam").ours
    run.step(6)
    assert not run.is_owned


def test_counting_references_in_vain_becomes_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(ownership, "is_owned", looked.append)
    pair("SGD").ours.step(100)
    assert 4 < len(looked) < 10


def test_vars_shows_the_state_as_torch_does() -> None:
    twins = pair("Adam")
    twins.both(Run.step)
    ours, theirs = twins.ours.optimizer, twins.theirs.optimizer
    assert vars(ours)["state"] is ours.state
    assert set(vars(ours)) - set(vars(theirs)) == {"_cached_step"}
    del ours.state
    assert not hasattr(ours, "state")


WAYS_TO_CHANGE: tuple[Callable[[Tensor], object], ...] = (
    moved,
    lambda value: value.add_(1),
    lambda value: value.untyped_storage().resize_(4096),
)


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_random_programs_of_quiet_steps_and_changes_end_in_equal_bits(number: int) -> None:
    twins = pair(("SGD", "Adam", "RMSprop")[number % 3])
    for run in (twins.ours, twins.theirs):
        choose = random.Random(number)
        run.step()
        for _ in range(14):
            action = choose.randrange(8)
            place = choose.randrange(len(run.params))
            if action == 0:
                run.held.append(last(run.state(place)))
            elif action == 1 and run.held:
                choose.choice(WAYS_TO_CHANGE)(choose.choice(run.held))
            elif action == 2:
                value = last(run.state(place))
                if value.dim() or "step" not in run.state(place):
                    choose.choice(WAYS_TO_CHANGE)(value)
                del value
            elif action == 3:
                held = run.state(place)
                held.update({n: v.clone() for n, v in held.items()})
                del held
            elif action == 4:
                run.held.clear()
            elif action == 5:
                run.params[place].data = run.params[place].data.clone()
            elif action == 6:
                run.group["lr"] = choose.choice((0.01, 0.1, 1))
            run.step(choose.randrange(1, 4))
    twins.compare()
