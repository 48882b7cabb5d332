"""Hooks: which are called, when, in which order, and what they may change."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import torch
from beside import (
    STATEFUL,
    Options,
    Pair,
    Side,
    assert_equal,
    names,
    one_thread,  # noqa: F401 - applies to every test here
    profiled,
    raised,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from optimlab.lab.lockstep.clone import clone

Log: TypeAlias = list[Any]
KINDS = (
    "step_pre_hook",
    "step_post_hook",
    "state_dict_pre_hook",
    "state_dict_post_hook",
    "load_state_dict_pre_hook",
    "load_state_dict_post_hook",
)


def noted(log: Log, words: str) -> Callable[..., None]:
    """Make a hook that notes that it was called, and with what."""

    def hook(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        steps = [held.get("step") for held in optimizer.state.values()]
        log.append((words, type(optimizer).__name__, len(steps), len(arguments)))

    return hook


def register(side: Side, kind: str, hook: Callable[..., Any], **options: bool) -> RemovableHandle:
    """Register a hook of a kind."""
    handle: RemovableHandle = getattr(side.optimizer, f"register_{kind}")(hook, **options)
    return handle


@pytest.fixture
def global_hooks() -> Iterator[Callable[[Callable[..., RemovableHandle], Any], None]]:
    """Register hooks of all optimizers, and remove them afterwards."""
    handles: list[RemovableHandle] = []
    yield lambda register_global, hook: handles.append(register_global(hook))
    for handle in handles:
        handle.remove()


def lived_through(pair: Pair) -> None:
    """Do with both sides whatever calls hooks."""
    pair.step(2)
    for side in pair.sides:
        side.optimizer.load_state_dict(clone(side.optimizer.state_dict()))
    pair.set_gradients()
    for side in pair.sides:
        side.optimizer.step(lambda: 0.25)


@names
def test_all_hooks_are_called_once_and_in_torchs_order(
    name: str, global_hooks: Callable[[Any, Any], None]
) -> None:
    pair = Pair(name, **STATEFUL[name])
    logs: list[Log] = [[], []]
    by_optimizer = {id(side.optimizer): log for side, log in zip(pair.sides, logs, strict=True)}

    def in_common(words: str) -> Callable[..., None]:
        return lambda optimizer, *rest: noted(by_optimizer[id(optimizer)], words)(optimizer, *rest)

    global_hooks(register_optimizer_step_pre_hook, in_common("global pre"))
    global_hooks(register_optimizer_step_post_hook, in_common("global post"))
    for side, log in zip(pair.sides, logs, strict=True):
        for kind in KINDS:
            register(side, kind, noted(log, f"first {kind}"))
            register(side, kind, noted(log, f"second {kind}"))
    lived_through(pair)
    assert logs[0] == logs[1]
    words = [entry[0] for entry in logs[0]]
    assert [word for word in words if "step" in word or "global" in word][:6] == [
        "global pre",
        "first step_pre_hook",
        "second step_pre_hook",
        "first step_post_hook",
        "second step_post_hook",
        "global post",
    ]
    assert {f"{which} {kind}" for which in ("first", "second") for kind in KINDS} < set(words)


@pytest.mark.parametrize("kind", KINDS[2:])
@names
def test_a_hook_may_be_put_before_the_others(name: str, kind: str) -> None:
    pair = Pair(name)
    logs: list[Log] = [[], []]
    for side, log in zip(pair.sides, logs, strict=True):
        register(side, kind, noted(log, "first"))
        register(side, kind, noted(log, "second"), prepend=True)
    lived_through(pair)
    assert logs[0] == logs[1]
    # `lived_through` loads once; `Pair` takes state dicts besides, to compare them.
    assert [entry[0] for entry in logs[0][:2]] == ["second", "first"]


@pytest.mark.parametrize("kind", KINDS)
@names
def test_a_removed_hook_is_not_called(name: str, kind: str) -> None:
    pair = Pair(name)
    log: Log = []
    for side in pair.sides:
        register(side, kind, noted(log, "removed")).remove()
    lived_through(pair)
    assert not log


@names
def test_a_pre_hook_may_replace_the_arguments_of_a_step(name: str) -> None:
    pair = Pair(name)
    given: list[Log] = [[], []]

    def replace(side: Side, log: Log) -> Any:
        def hook(optimizer: Any, arguments: Any, options: Any) -> Any:
            log.append((arguments[0] is side.optimizer, len(arguments), list(options)))
            return (optimizer, lambda: 0.5), {}

        return hook

    for side, log in zip(pair.sides, given, strict=True):
        register(side, "step_pre_hook", replace(side, log))
    assert pair.both(lambda side: side.optimizer.step()) == 0.5
    assert pair.both(lambda side: side.optimizer.step(closure=lambda: 0.25)) == 0.5
    assert pair.both(lambda side: side.optimizer.step(lambda: 0.25)) == 0.5
    assert given[0] == given[1]


@names
def test_a_pre_hook_that_returns_anything_else_is_refused(name: str) -> None:
    pair = Pair(name)
    for side in pair.sides:
        register(side, "step_pre_hook", lambda *_: (1, 2, 3))
    ours, theirs = (raised(side.optimizer.step) for side in pair.sides)
    assert ours is not None
    assert theirs is not None
    assert ours[0] is theirs[0] is RuntimeError
    # What comes before is the function, printed with its address.
    assert ours[1].split(" must ")[1] == theirs[1].split(" must ")[1]


@pytest.mark.parametrize("kind", ["step_pre_hook", "state_dict_pre_hook", "state_dict_post_hook"])
@names
def test_an_error_in_a_hook_is_passed_on_and_changes_nothing(name: str, kind: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)
    pair.set_gradients()
    active = [True]

    def fail(*_: Any) -> None:
        if active[0]:
            raise ArithmeticError("in a hook")

    def do(side: Side) -> None:
        active[0] = True
        try:
            side.optimizer.state_dict() if "dict" in kind else side.optimizer.step()
        finally:
            active[0] = False

    for side in pair.sides:
        register(side, kind, fail)
    active[0] = False
    pair.refused(do)
    pair.compare()


@names
def test_a_hook_may_replace_a_state_dict(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)
    for side in pair.sides:
        register(side, "state_dict_post_hook", lambda _, saved: {"wrapped": saved})
        register(side, "state_dict_post_hook", lambda _, saved: saved.update(note=len(saved)))
    ours, theirs = (side.optimizer.state_dict() for side in pair.sides)
    assert_equal(ours, theirs)
    assert list(ours) == ["wrapped", "note"]
    for side in pair.sides:
        register(side, "load_state_dict_pre_hook", lambda _, saved: saved.pop("wrapped"))
        side.optimizer.load_state_dict(clone(side.optimizer.state_dict()))
    assert_equal(*([*side.optimizer.state.values()] for side in pair.sides))


@names
def test_a_hook_may_edit_the_dict_it_is_given_but_not_the_callers(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)

    def rename(_: Any, saved: Options) -> None:
        saved["state"] = saved.pop("renamed")

    def load(side: Side) -> Any:
        saved = clone(side.optimizer.state_dict())
        saved["renamed"] = saved.pop("state")
        register(side, "load_state_dict_pre_hook", rename)
        side.optimizer.load_state_dict(saved)
        return list(saved)

    assert pair.both(load) == ["param_groups", "renamed"]
    pair.step(2)


def parents_step(self: Any) -> Any:
    """Do as a class that overrides its parent's step."""
    return super(type(self), self).step()


@names
def test_an_override_that_calls_its_parent_fires_hooks_as_often_as_with_torch(name: str) -> None:
    counts: list[int] = []
    for side in Pair(name).sides:  # the parent class has been constructed by now
        doubled = type("Doubled", (side.optimizer_class,), {"step": parents_step})
        optimizer = doubled([torch.ones(2)])
        calls: list[int] = []
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        optimizer.step()
        counts.append(len(calls))
    assert counts[0] == counts[1]


@names
def test_a_subclass_without_a_step_of_its_own_fires_hooks_once(name: str) -> None:
    for side in Pair(name).sides:
        subclass = type("Subclass", (side.optimizer_class,), {})
        for optimizer in (subclass([torch.ones(2)]), side.optimizer_class([torch.ones(2)])):
            calls: list[int] = []
            optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
            optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(2))
            optimizer.step()
            assert calls == [1, 2]


@names
def test_a_subclass_shows_its_own_name_in_a_profile(name: str) -> None:
    recorded = []
    for side in Pair(name).sides:
        optimizer = type("Named", (side.optimizer_class,), {})([torch.ones(2)])
        recorded.append([*profiled(optimizer.step), *profiled(optimizer.zero_grad)])
    assert recorded[0] == recorded[1]
    assert recorded[0] == ["Optimizer.step#Named.step", "Optimizer.zero_grad#Named.zero_grad"]
