"""Shadow mode: the readable rule beside an optimizer of torch's, step by step, in the live run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from beside import (
    STATEFUL,
    TENSORS,
    WAYS,
    Options,
    Pair,
    Side,
    assert_equal,
    names,
    one_thread,  # noqa: F401 - applies to every test here
    ways,
)
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

import optimlab
from optimlab.lab.compare.diff import NothingCompared
from optimlab.lab.parity import Difference
from optimlab.lab.shadow import Shadow, ShadowDifferenceError

DTYPES = ("float32", "float64", "bfloat16", "complex64")


def live(
    name: str, dtype: str = "float32", device: torch.device | str = "cpu", **options: Any
) -> tuple[Pair, Side]:
    """Return a scenario, and torch's side of it."""
    tensors = tuple(replace(spec, dtype=getattr(torch, dtype)) for spec in TENSORS)
    pair = Pair(name, tensors, device, **{**STATEFUL[name], **options})
    return pair, pair.theirs


def step(pair: Pair, side: Side, times: int = 1) -> None:
    """Step one side alone."""
    for _ in range(times):
        pair.set_gradients()
        side.optimizer.step()


# A live run is followed, and stays as it is.


# torch's fused kernels refuse complex numbers, and some are broken in half precision.
IN_DTYPES = [
    pytest.param(*way.values, dtype, id=f"{way.id}-{dtype}")
    for way in WAYS
    for dtype in DTYPES
    if "fused" not in str(way.id) or dtype.startswith("float")
]


@pytest.mark.parametrize(("name", "way", "dtype"), IN_DTYPES)
def test_every_step_of_a_live_run_has_the_rules_bits(
    name: str, way: Options, dtype: str, device: torch.device
) -> None:
    pair, side = live(name, dtype, device, **way)
    with optimlab.shadow(side.optimizer) as follower:
        step(pair, side, 6)
    assert follower.equal
    assert (follower.steps, follower.compared.steps) == (6, 6)
    assert follower.compared.elements > 6 * 100
    assert "the same bits: 6 steps" in str(follower)


@ways
def test_a_shadow_leaves_the_bits_of_the_live_run_alone(name: str, way: Options) -> None:
    watched, alone = live(name, **way), live(name, **way)
    random = torch.get_rng_state()
    calls: list[type] = []
    hook = register_optimizer_step_post_hook(lambda each, *_: calls.append(type(each)))
    try:
        follower = optimlab.shadow(watched[1].optimizer)
        step(*watched, 5)
    finally:
        hook.remove()
    assert calls == [type(watched[1].optimizer)] * 5  # the shadow's own steps call nobody's hooks
    step(*alone, 5)
    assert follower.equal
    assert_equal(watched[1].seen(), alone[1].seen())
    assert torch.equal(torch.get_rng_state(), random)


@names
def test_a_run_with_everything_that_happens_to_one_is_followed(name: str) -> None:
    pair, side = live(name)
    optimizer = side.optimizer
    follower = optimlab.shadow(optimizer)
    schedule = lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for _ in range(4):
        step(pair, side)
        schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())
    late = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer.add_param_group({"params": [late], "lr": 0.25})
    for value in (1.0, 0.5):
        late.grad = torch.full_like(late, value)
        step(pair, side)
    assert follower.equal
    assert follower.compared.steps == 6
    follower.remove()
    step(pair, side)
    assert follower.steps == 6


@names
def test_a_closure_is_followed_from_where_it_leaves_the_gradients(name: str) -> None:
    pair, side = live(name)

    def closure() -> float:
        pair.set_gradients()
        return 1.5

    with optimlab.shadow(side.optimizer) as follower:
        for _ in range(2):
            assert side.optimizer.step(closure) == 1.5
            assert side.optimizer.step(closure=closure) == 1.5
    assert follower.equal
    assert follower.compared.steps == 4


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_is_followed(fused: bool) -> None:
    weight = nn.Parameter(torch.randn(9, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    with optimlab.shadow(optimizer) as follower:
        for factor in (1.0, 2.0, float("inf"), 3.0):
            optimizer.zero_grad()
            scaler.scale((weight * factor).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert follower.equal
    # Where a gradient is infinite, a fused kernel decides for itself; others are not called.
    assert follower.compared.steps == (4 if fused else 3)


# A planted difference is found.


def flip(tensor: Tensor) -> None:
    """Turn over the lowest bit of the first element."""
    tensor.detach()[(0,) * tensor.dim()].view(torch.int32).bitwise_xor_(1)


PLANTED: dict[str, tuple[int, str]] = {
    "parameter 1": (1, ""),
    "state 'exp_avg' of parameter 3": (3, "exp_avg"),
    "state 'exp_avg_sq' of parameter 0": (0, "exp_avg_sq"),
}


@pytest.mark.parametrize("where", PLANTED)
def test_one_bit_that_a_step_has_wrong_is_found_at_that_step(where: str) -> None:
    pair, side = live("Adam", amsgrad=False)
    number, name = PLANTED[where]

    def plant(*_: object) -> None:
        if follower.steps == 5:
            param = side.params[number]
            flip(side.optimizer.state[param][name] if name else param)

    side.optimizer.register_step_post_hook(plant)
    follower = optimlab.shadow(side.optimizer)
    step(pair, side, 4)
    assert follower.equal
    with pytest.raises(ShadowDifferenceError, match=f"step 5, after step.*: {where}: ") as raised:
        step(pair, side)
    found = raised.value.difference
    assert (found.where, found.mismatch.ulps) == (where, 1)
    assert found.mismatch.element is not None
    assert not any(found.mismatch.element)
    assert not found.also
    assert not follower.equal


WRONG_KERNELS = {"Adam": ("eps", 2), "SGD": ("momentum", 1.001), "RMSprop": ("alpha", 0.999)}


@pytest.mark.parametrize("name", WRONG_KERNELS)
def test_a_class_whose_arithmetic_is_wrong_is_found_at_the_first_step_it_shows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, (argument, factor) = f"torch.optim.{name.lower()}", WRONG_KERNELS[name]
    right = getattr(sys.modules[module], name.lower())

    def wrong(*args: Any, **given: Any) -> None:
        right(*args, **{**given, argument: given[argument] * factor})

    monkeypatch.setattr(sys.modules[module], name.lower(), wrong)
    pair, side = live(name)
    for group in side.optimizer.param_groups:
        group["nesterov"] = False  # which would use the momentum in the first step already
    found: list[Difference] = []
    follower = optimlab.shadow(side.optimizer, on_difference=found.append)
    step(pair, side, 3)
    assert follower.differing == len(found) > 0
    assert follower.difference is found[0]
    assert found[0].step == (2 if name == "SGD" else 1)  # momentum shows from the second step on
    assert f"{len(found)} of 3 compared steps differ" in str(follower)


def test_the_parameter_is_named_where_names_are_known() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for given, shadowed in ((model.parameters(), model), (model.named_parameters(), None)):
        optimizer = torch.optim.SGD(given, lr=0.1)
        optimizer.register_step_post_hook(lambda *_: flip(model[1].bias))  # type: ignore[arg-type]
        optimlab.shadow(optimizer, model=shadowed)
        model(torch.ones(2)).sum().backward()
        with pytest.raises(ShadowDifferenceError, match=r"parameter 3 \(1\.bias\): element \[0\]"):
            optimizer.step()


# What is not compared says so.


def test_every_nth_step_is_compared_from_the_first_on() -> None:
    pair, side = live("Adam")
    with optimlab.shadow(side.optimizer, every=3) as follower:
        step(pair, side, 7)
    assert (follower.steps, follower.compared.steps) == (7, 3)


def test_a_shadow_that_compared_nothing_says_so() -> None:
    pair, side = live("Adam")
    follower = optimlab.shadow(side.optimizer)
    assert not follower.equal
    assert "nothing was compared" in str(follower)
    with pytest.warns(UserWarning, match="nothing was compared in 0 steps"):
        follower.remove()
    idle = optimlab.shadow(side.optimizer)
    side.optimizer.step()
    side.optimizer.step()
    with pytest.raises(NothingCompared, match="2 not compared: no parameter has a gradient"), idle:
        pass
    assert pair.steps == 0


def test_a_hook_that_comes_later_is_taken_into_account_from_the_next_step_on() -> None:
    pair, side = live("SGD")
    follower = optimlab.shadow(side.optimizer)

    def clip(optimizer: Optimizer, *_: object) -> None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)

    side.optimizer.register_step_pre_hook(clip)
    step(pair, side, 4)
    assert follower.equal
    assert follower.compared.steps == 3
    assert sum(follower.left_out.values()) == 1
    assert "1 not compared: a hook that was attached later" in str(follower)


def test_hooks_that_come_later_before_every_step_are_warned_about() -> None:
    pair, side = live("SGD")
    follower = optimlab.shadow(side.optimizer)

    def traced(times: int) -> None:
        for _ in range(times):
            with optimlab.trace(side.optimizer):
                step(pair, side)

    with pytest.warns(UserWarning, match="nothing was compared in 2 steps.*again and again"):
        traced(3)
    assert not follower.equal


# What is refused.


class OwnStep(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class OwnName(torch.optim.Adam):
    """Changes nothing."""


REFUSED: tuple[tuple[Callable[[Tensor], Any], Options, type[Exception], str], ...] = (
    (lambda w: torch.optim.Adagrad([w]), {}, TypeError, "no rule for Adagrad"),
    (lambda w: optimlab.Adam([w]), {}, TypeError, "no rule for Adam"),
    (lambda w: OwnStep([w]), {}, TypeError, "OwnStep overrides step"),
    (lambda w: w, {}, TypeError, "Parameter is not a torch.optim.Optimizer"),
    (lambda w: torch.optim.Adam([w], differentiable=True), {}, ValueError, "differentiable"),
    (lambda w: torch.optim.Adam([w]), {"every": 0}, ValueError, "every"),
)


@pytest.mark.parametrize(("make", "options", "error", "complaint"), REFUSED)
def test_what_cannot_be_followed_is_refused(
    make: Callable[[Tensor], Any], options: Options, error: type[Exception], complaint: str
) -> None:
    given = make(nn.Parameter(torch.ones(2)))
    with pytest.raises(error, match=complaint):
        optimlab.shadow(given, **options)
    if isinstance(given, Optimizer):
        assert not given._optimizer_step_pre_hooks


class OwnParameter(nn.Parameter):
    """For which torch takes the for-loop on CUDA, too; its bits in bfloat16 are other ones."""


@names
def test_parameters_of_another_class_are_followed_where_torch_takes_the_loop(
    name: str, device: torch.device
) -> None:
    drawn = torch.randn(9, 999, generator=torch.Generator().manual_seed(0)).bfloat16().to(device)
    weight = OwnParameter(drawn[0])
    optimizer = getattr(torch.optim, name)([weight], **STATEFUL[name])
    with optimlab.shadow(optimizer) as follower:
        for grad in drawn[1:]:
            weight.grad = grad.clone()
            optimizer.step()
    assert follower.equal


def test_a_subclass_that_leaves_step_alone_is_followed() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = OwnName([weight])
    with optimlab.shadow(optimizer):
        optimizer.step()


# Under trainers, with the optimizer that the trainer makes.


@pytest.mark.parametrize(("name", "planted_after"), [("Adam", 0), ("AdamW", 0), ("Adam", 37)])
def test_100_steps_under_hugging_faces_trainer_have_the_rules_bits_or_say_which_has_not(
    name: str, planted_after: int, tmp_path: Path
) -> None:
    for package in ("transformers", "accelerate", "matplotlib", "rich", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import huggingface_trainer as example
    from transformers import TrainerCallback

    class Following(TrainerCallback):
        follower: Shadow

        def on_train_begin(self, *_: Any, **given: Any) -> None:
            given["optimizer"].optimizer.register_step_post_hook(self.plant)
            self.follower = optimlab.shadow(given["optimizer"], model=given["model"])

        def plant(self, optimizer: Optimizer, *_: object) -> None:
            if self.follower.steps == planted_after:
                flip(optimizer.state[optimizer.param_groups[0]["params"][2]]["exp_avg"])

    given = {"optimizer_cls_and_kwargs": (getattr(torch.optim, name), {"lr": 1e-2})}
    callback = Following()
    expected = pytest.raises(ShadowDifferenceError) if planted_after else nullcontext()
    with torch.random.fork_rng(devices=[]), expected as raised:
        built = example.build(None, lambda *_: given, tmp_path, 100, 3, "cpu")
        built.add_callback(callback)
        built.train()
    if raised is not None:
        found = raised.value.difference
        assert (found.step, found.mismatch.ulps) == (37, 1)
        assert found.where.startswith("state 'exp_avg' of parameter 2 (transformer.h.0.")
        assert found.compared.steps == 37
        return
    assert type(callback.follower.optimizer) is getattr(torch.optim, name)
    assert callback.follower.equal
    assert callback.follower.compared.steps == 100
    assert callback.follower.compared.elements > 1_000_000


def test_lightnings_optimizer_with_its_closure_is_followed() -> None:
    for package in ("lightning", "matplotlib", "rich", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import lightning_trainer as example

    followers: list[Shadow] = []

    def make(params: Any) -> Optimizer:
        optimizer = torch.optim.Adam(params, lr=1e-2)
        followers.append(optimlab.shadow(optimizer))
        return optimizer

    with torch.random.fork_rng(devices=[]):
        example.fit(example.Classifier(make, 1, 3), 1, "cpu")
    assert followers[0].equal
    assert followers[0].compared.steps > 5
