"""Hooks of the container: which are called, when, in which order, and what they may change."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from beside import STATEFUL, Options, Pair, Side, assert_equal, names, profiled, raised
from one_thread import one_thread  # noqa: F401 - applies to every test here
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from optimlab.lab.lockstep.clone import clone

STEP = ("step_pre_hook", "step_post_hook")
SAVE = ("state_dict_pre_hook", "state_dict_post_hook")
LOAD = ("load_state_dict_pre_hook", "load_state_dict_post_hook")
KINDS = (*STEP, *SAVE, *LOAD)


def register(side: Side, kind: str, hook: Callable[..., Any], **options: bool) -> Any:
    """Register a hook of a kind."""
    return getattr(side.optimizer, f"register_{kind}")(hook, **options)


def reload(side: Side) -> Any:
    """Save and load."""
    return side.optimizer.load_state_dict(clone(side.optimizer.state_dict()))


@names
def test_all_hooks_are_called_once_and_in_torchs_order(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    logs: dict[int, list[Any]] = {id(side.optimizer): [] for side in pair.sides}

    def noted(words: str) -> Callable[..., None]:
        def hook(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
            entry = words, type(optimizer).__name__, len(optimizer.state), len(arguments)
            logs[id(optimizer)].append(entry)

        return hook

    with ExitStack() as stack:
        for side in pair.sides:
            for kind in KINDS:
                register(side, kind, noted(f"first {kind}"))
                register(side, kind, noted(f"second {kind}"))
                register(side, kind, noted(f"removed {kind}")).remove()
                if kind not in STEP:
                    register(side, kind, noted(f"prepended {kind}"), prepend=True)
        pre = register_optimizer_step_pre_hook(noted("global pre"))
        post = register_optimizer_step_post_hook(noted("global post"))
        stack.callback(pre.remove)
        stack.callback(post.remove)
        pair.step(2)
        pair.both(reload)
        pair.set_gradients()
        pair.both(lambda side: side.optimizer.step(lambda: 0.25))
    ours, theirs = logs.values()
    assert ours == theirs
    words = [entry[0] for entry in ours]
    step = ["first step_pre_hook", "second step_pre_hook"]
    step += ["first step_post_hook", "second step_post_hook"]
    assert words[:6] == ["global pre", *step, "global post"]
    assert not any(word.startswith("removed") for word in words)
    for kind in (*SAVE, *LOAD):
        of_kind = [word.partition(" ")[0] for word in words if word.endswith(f" {kind}")]
        assert of_kind[:3] == ["prepended", "first", "second"]


@names
def test_a_pre_hook_may_replace_the_arguments_of_a_step(name: str) -> None:
    pair = Pair(name)
    given: list[list[Any]] = [[], []]

    def replace(side: Side, log: list[Any]) -> Any:
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


@pytest.mark.parametrize("kind", ["step_pre_hook", *SAVE, *LOAD])
@names
def test_an_error_in_a_hook_is_passed_on_and_changes_nothing(name: str, kind: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)
    pair.set_gradients()
    saved = clone(pair.ours.optimizer.state_dict())
    active = [False]

    def fail(*_: Any) -> None:
        if active[0]:
            raise ArithmeticError("in a hook")

    def do(side: Side) -> None:
        active[0] = True
        try:
            if kind in STEP:
                side.optimizer.step()
            elif kind in SAVE:
                side.optimizer.state_dict()
            else:
                side.optimizer.load_state_dict(clone(saved))
        finally:
            active[0] = False

    for side in pair.sides:
        register(side, kind, fail)
    pair.refused(do)
    if kind not in LOAD:  # torch is left half-loaded
        pair.compare()


@names
def test_hooks_may_replace_and_edit_state_dicts_but_not_the_callers(name: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)

    def rename(_: Any, saved: Options) -> Any:
        saved["wrapped"]["state"] = saved["wrapped"].pop("renamed")
        return saved.pop("wrapped")

    def load(side: Side) -> Any:
        register(side, SAVE[1], lambda _, saved: {"wrapped": saved})
        register(side, SAVE[1], lambda _, saved: saved.update(note=len(saved)))
        saved = clone(side.optimizer.state_dict())
        saved["wrapped"]["renamed"] = saved["wrapped"].pop("state")
        register(side, LOAD[0], rename)
        side.optimizer.load_state_dict(saved)
        assert_equal(list(side.optimizer.state_dict()), ["wrapped", "note"])
        return list(saved)

    ours, theirs = map(load, pair.sides)
    assert ours == theirs == ["wrapped", "note"]
    assert_equal(*([*side.optimizer.state.values()] for side in pair.sides))


def parents_step(self: Any) -> Any:
    """Do as a class that overrides its parent's step."""
    return super(type(self), self).step()


@pytest.mark.parametrize("members", [{}, {"step": parents_step}], ids=["inherited", "overridden"])
@names
def test_hooks_and_profiles_see_the_steps_of_a_subclass_as_with_torch(
    name: str, members: Options
) -> None:
    found = []
    for side in Pair(name).sides:  # the parent class has been constructed by now
        optimizer: Any = type("Named", (side.optimizer_class,), members)([torch.ones(2)])
        shown = [*profiled(optimizer.step), *profiled(optimizer.zero_grad)]
        calls: list[int] = []
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(2))
        optimizer.step()
        found.append((shown, calls))
    assert found[0] == found[1]
    if not members:
        names_shown = ["Optimizer.step#Named.step", "Optimizer.zero_grad#Named.zero_grad"]
        assert found[0] == (names_shown, [1, 2])
