"""What is built around optimizers, driving optimlab's and torch's side by side.

Nothing here is part of optimlab: schedulers, gradient scaling, averaging, compilation, hooks on
gradients and distributed checkpoints. They know torch's optimizers, and are to see no difference.
"""

import ast
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from beside import (
    SMALL,
    STATEFUL,
    Options,
    Pair,
    Side,
    all_warnings,
    assert_equal,
    names,
    one_thread,  # noqa: F401 - applies to every test here
    ways,
)
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import Optimizer

import optimlab
from optimlab.lab.lockstep.clone import clone

STEPS = 10


def test_a_program_finds_schedulers_and_averaging_where_it_expects_them() -> None:
    import optimlab as optim

    assert optim.lr_scheduler.StepLR is torch.optim.lr_scheduler.StepLR
    assert optim.swa_utils.AveragedModel is torch.optim.swa_utils.AveragedModel
    for name in optim.__all__:
        assert hasattr(optim, name)


# Learning rate schedulers.


def halved(epoch: int) -> float:
    """Return a factor for a scheduler."""
    return 0.5**epoch


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, halved),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.75),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5], gamma=0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.3, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=7),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o, total_iters=2), lr_scheduler.ExponentialLR(o, gamma=0.9)],
        milestones=[4],
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5, eta_min=1e-4),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, gamma=0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, min_lr=1e-4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=6, power=2.0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
    "SWALR, linear": lambda o: swa_utils.SWALR(
        o, swa_lr=0.05, anneal_epochs=4, anneal_strategy="linear"
    ),
}
LOSSES = (3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0, 1.0)


def test_every_scheduler_of_torch_is_in_these_tests() -> None:
    tested = {name.partition(",")[0] for name in SCHEDULERS}
    assert tested - {"SWALR"} == set(lr_scheduler.__all__) - {"LRScheduler"}


def scheduled(pair: Pair, scheduler: str) -> list[list[Any]]:
    """Train both with a scheduler of the given name; return the learning rates of both."""
    schedulers = [SCHEDULERS[scheduler](side.optimizer) for side in pair.sides]
    rates = scheduled_steps(pair, schedulers, range(STEPS))
    states = [its.state_dict() for its in schedulers]
    for state in states:
        for key in ("_schedulers", "anneal_func", "_anneal_func_type", "_scale_fn_custom"):
            state.pop(key, None)
    assert_equal(*states)
    return rates


def scheduled_steps(pair: Pair, schedulers: list[Any], steps: range) -> list[list[Any]]:
    """Train both, each with its scheduler; return the learning rates of both."""
    rates: list[list[Any]] = [[], []]
    for number in steps:
        pair.set_gradients()
        for side, its, seen in zip(pair.sides, schedulers, rates, strict=True):
            side.optimizer.step()
            on_plateau = isinstance(its, lr_scheduler.ReduceLROnPlateau)
            its.step(LOSSES[number]) if on_plateau else its.step()
            seen.append(clone([group["lr"] for group in side.optimizer.param_groups]))
        pair.compare()
    return rates


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@names
def test_a_scheduler_gives_both_the_same_rates_and_bits(
    name: str, scheduler: str, tensor_lr: bool
) -> None:
    lr: Any = torch.tensor(0.01) if tensor_lr else 0.01
    pair = Pair(name, SMALL, lr=lr, foreach=False, **STATEFUL[name])
    filled = [side.optimizer.param_groups[0]["lr"] for side in pair.sides]
    with warnings.catch_warnings():
        # SequentialLR and ChainedScheduler step their parts before any optimizer has.
        warnings.simplefilter("ignore", UserWarning)
        ours, theirs = scheduled(pair, scheduler)
    assert_equal(ours, theirs)
    assert len({float(rates[0]) for rates in ours}) > 1
    if tensor_lr:  # a scheduler fills the tensor that the optimizer was given
        for side, lr in zip(pair.sides, filled, strict=True):
            assert side.optimizer.param_groups[0]["lr"] is lr


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("scheduler", ["CyclicLR", "OneCycleLR"])
@names
def test_a_scheduler_may_turn_momentum_on(name: str, scheduler: str, foreach: bool) -> None:
    pair = Pair(name, SMALL, foreach=foreach)
    ours, theirs = scheduled(pair, scheduler)
    assert_equal(ours, theirs)
    if name in {"SGD", "RMSprop"}:
        assert "momentum_buffer" in pair.ours.optimizer.state[pair.ours.params[0]]


@names
def test_a_scheduler_notices_the_order_of_steps_as_with_torch(name: str) -> None:
    given = []
    for side in Pair(name).sides:
        with all_warnings() as caught:
            scheduler = lr_scheduler.StepLR(side.optimizer, 1)
            scheduler.step()
            side.optimizer.step()
            scheduler.step()
        given.append([str(warning.message) for warning in caught])
    assert given[0] == given[1]
    assert len(given[0]) == 1
    for side in Pair(name).sides:
        with all_warnings() as caught:
            scheduler = lr_scheduler.StepLR(side.optimizer, 1)
            side.optimizer.step()
            scheduler.step()
        assert not caught


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@names
def test_a_run_with_a_scheduler_is_resumed_across_libraries(name: str, scheduler: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    schedulers = [SCHEDULERS[scheduler](side.optimizer) for side in pair.sides]
    scheduled_steps(pair, schedulers, range(4))
    saved = [
        clone([side.optimizer.state_dict(), its.state_dict()])
        for side, its in zip(pair.sides, schedulers, strict=True)
    ]
    resumed = []
    for side, (of_optimizer, of_scheduler) in zip(pair.sides, saved[::-1], strict=True):
        side.optimizer = pair.new(side)
        resumed.append(SCHEDULERS[scheduler](side.optimizer))
        resumed[-1].load_state_dict(of_scheduler)
        side.optimizer.load_state_dict(of_optimizer)
    assert_equal(*scheduled_steps(pair, resumed, range(4, STEPS)))


# Gradient scaling.


@pytest.mark.parametrize("unscaled_first", [False, True])
@ways
def test_a_scaled_run_gives_torchs_bits_and_scales(
    name: str, way: Options, unscaled_first: bool, device: torch.device
) -> None:
    pair = Pair(name, **STATEFUL[name], **way, device=device)
    scalers = [
        torch.amp.GradScaler(device.type, init_scale=1024.0, growth_interval=2) for _ in "ab"
    ]
    scales: list[list[float]] = [[], []]
    for number in range(7):
        pair.set_gradients()
        for side, scaler, seen in zip(pair.sides, scalers, scales, strict=True):
            scaler.scale(torch.ones((), device=device))  # as a loss, without which it never starts
            for param in side.params:
                if param.grad is not None:
                    param.grad *= scaler.get_scale()
            if number in {2, 3}:
                assert side.params[0].grad is not None
                side.params[0].grad[0] = float("inf")
            if unscaled_first:
                scaler.unscale_(side.optimizer)
                nn.utils.clip_grad_norm_(side.params, 1.0)
            scaler.step(side.optimizer)
            scaler.update()
            seen.append(scaler.get_scale())
        pair.compare()
    assert scales[0] == scales[1]
    assert min(scales[0]) < 1024.0 < max(scales[0])
    assert_equal(*(scaler.state_dict() for scaler in scalers))
    assert not hasattr(pair.ours.optimizer, "grad_scale")
    if name != "SGD":
        steps = pair.ours.optimizer.state[pair.ours.params[0]]["step"]
        assert steps.item() == 5


# Averaged weights.


def network() -> nn.Module:
    """Make a small network, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def inputs() -> Tensor:
    """Make inputs for it."""
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


AVERAGES: dict[str, Options] = {
    "equal": {},
    "swa": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
    "ema": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "ema, one by one": {"avg_fn": swa_utils.get_ema_avg_fn(0.9)},
}


@pytest.mark.parametrize("average", AVERAGES)
@names
def test_averaged_weights_are_the_same(name: str, average: str) -> None:
    averaged = []
    for library in (optimlab, torch.optim):
        model = network()
        optimizer = getattr(library, name)(model.parameters(), **STATEFUL[name])
        # The multi-tensor average is one of floating-point numbers, unlike some buffers.
        mean = swa_utils.AveragedModel(model, use_buffers=average != "swa", **AVERAGES[average])
        scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
        for _ in range(6):
            optimizer.zero_grad()
            model(inputs()).square().mean().backward()
            optimizer.step()
            scheduler.step()
            mean.update_parameters(model)
        swa_utils.update_bn([inputs()], mean)
        averaged.append(dict(mean.state_dict()))
    assert_equal(*averaged)
    assert averaged[0]["n_averaged"] == 6


# An optimizer for each parameter, stepped in the backward pass.


@ways
def test_optimizers_may_step_in_the_backward_pass(name: str, way: Options) -> None:
    finals = []
    for library in (optimlab, torch.optim):
        model = network()
        optimizers = {
            param: getattr(library, name)([param], **STATEFUL[name], **way)
            for param in model.parameters()
        }

        def hook(param: Tensor, optimizers: dict[Any, Any] = optimizers) -> None:
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in model.parameters():
            param.register_post_accumulate_grad_hook(hook)
        for _ in range(4):
            model(inputs()).square().mean().backward()
        assert all(param.grad is None for param in model.parameters())
        finals.append(
            [
                [param.detach(), *optimizers[param].state_dict()["state"].values()]
                for param in model.parameters()
            ]
        )
    assert_equal(*finals)


# Compilation.


@pytest.fixture
def dynamo() -> Iterator[Any]:
    """Start from, and leave, a compiler that remembers nothing."""
    dynamo = pytest.importorskip("torch._dynamo", reason="this torch has no compiler")
    if not getattr(dynamo, "is_dynamo_supported", lambda: True)():
        pytest.skip("torch's compiler does not run here")
    dynamo.reset()
    yield dynamo
    dynamo.reset()


def compiled(side: Side, graphs: list[int]) -> Callable[[], None]:
    """Compile an optimizer's step; note how many operations each graph has."""

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(sum(node.op.startswith("call") for node in module.graph.nodes))
        return module.forward

    step: Callable[[], None] = torch.compile(side.optimizer.step, backend=backend)
    return step


@pytest.mark.usefixtures("dynamo")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "way", [{"foreach": False}, {"foreach": True}], ids=["for-loop", "foreach"]
)
@names
def test_a_compiled_step_is_one_graph_and_gives_the_bits_of_torchs_compiled_step(
    name: str, way: Options
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    graphs: list[int] = []
    steps = {id(pair.ours): compiled(pair.ours, graphs), id(pair.theirs): compiled(pair.theirs, [])}
    counts = []
    for _ in range(5):
        pair.set_gradients()
        pair.both(lambda side: steps[id(side)]())
        counts.append(len(graphs))
    assert counts[0] == 1
    assert graphs[0] > len(pair.ours.params)  # the rule itself is in the graph
    assert counts[-1] == counts[-2], "compiled anew at every step"


@pytest.mark.usefixtures("dynamo")
@pytest.mark.filterwarnings("ignore")
@names
def test_a_scheduler_of_a_compiled_step_fills_its_tensor_and_compiles_nothing_anew(
    name: str,
) -> None:
    pair = Pair(name, SMALL[:2], foreach=False, lr=torch.tensor(0.01), **STATEFUL[name])
    graphs: list[int] = []
    steps = {id(pair.ours): compiled(pair.ours, graphs), id(pair.theirs): compiled(pair.theirs, [])}
    schedulers = [lr_scheduler.LinearLR(side.optimizer, total_iters=5) for side in pair.sides]
    counts = []
    for _ in range(5):
        pair.set_gradients()
        pair.both(lambda side: steps[id(side)]())
        for scheduler in schedulers:
            scheduler.step()
        counts.append(len(graphs))
    pair.compare()
    assert counts[-1] == counts[1], "compiled anew for another learning rate"


@pytest.mark.usefixtures("dynamo")
@pytest.mark.filterwarnings("ignore")
def test_a_step_compiled_to_machine_code_gives_the_bits_of_torchs() -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch's compiler needs a C++ compiler")
    pair = Pair("Adam", SMALL[:2], **STATEFUL["Adam"])
    steps = {id(side): torch.compile(side.optimizer.step) for side in pair.sides}
    for _ in range(2):
        pair.set_gradients()
        pair.both(lambda side: steps[id(side)]())


@pytest.mark.usefixtures("dynamo")
@pytest.mark.filterwarnings("ignore")
@names
def test_a_whole_training_step_may_be_compiled(name: str) -> None:
    finals = []
    for library in (optimlab, torch.optim):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = getattr(library, name)(model.parameters(), **STATEFUL[name])

        def train(model: nn.Module, batch: Tensor, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

        step = torch.compile(train, backend="eager")
        for _ in range(2):
            step(model, inputs())
        finals.append([optimizer.state_dict(), [param.detach() for param in model.parameters()]])
    assert_equal(*finals)


# Swapping parameters and state in, and distributed checkpoints.


@names
def test_parameters_and_state_may_be_swapped_in(name: str) -> None:
    swap_in: Any = getattr(torch.optim, "swap_in_optimizer_params_and_state", None)
    if swap_in is None:
        pytest.skip("this torch has no swap_in_optimizer_params_and_state")
    pair = Pair(name, **STATEFUL[name])
    pair.step(2)
    pair.set_gradients()
    untouched = clone(pair.ours.seen())
    swapped = []
    for side in pair.sides:
        params = {f"{i}": clone(param.detach()) for i, param in enumerate(side.params)}
        for mine, param in zip(params.values(), side.params, strict=True):
            mine.grad = param.grad
        state = clone(side.optimizer.state_dict())
        with swap_in(side.optimizer, params, state):
            side.optimizer.step()
        swapped.append([params, state])
    assert_equal(*swapped)
    assert_equal(pair.ours.seen(), untouched)
    pair.both(lambda side: side.optimizer.step())


@pytest.mark.filterwarnings("ignore")
@ways
def test_a_distributed_checkpoint_is_the_same_and_goes_both_ways(name: str, way: Options) -> None:
    checkpoint = pytest.importorskip(
        "torch.distributed.checkpoint.state_dict", reason="this torch is not distributed"
    )
    saved, finals = [], []
    for library in (optimlab, torch.optim):
        model = network()
        optimizer = getattr(library, name)(model.parameters(), **STATEFUL[name], **way)
        # Without state there is nothing to save: this takes a step of its own, with lr 0.
        saved.append([checkpoint.get_optimizer_state_dict(model, optimizer)])
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs()).square().mean().backward()
            optimizer.step()
        saved[-1].append(clone(checkpoint.get_optimizer_state_dict(model, optimizer)))
    assert_equal(*saved)
    for library, other in ((optimlab, saved[1]), (torch.optim, saved[0])):
        model = network()
        optimizer = getattr(library, name)(model.parameters(), **STATEFUL[name], **way)
        checkpoint.set_optimizer_state_dict(model, optimizer, other[1])
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs()).square().mean().backward()
            optimizer.step()
        finals.append([optimizer.state_dict(), [param.detach() for param in model.parameters()]])
    assert_equal(*finals)


# What is called.


def test_no_step_of_torchs_own_optimizers_is_called() -> None:
    functions = {"sgd", "adam", "adamw", "rmsprop"}
    names_used: set[str] = set()
    files = list(Path(optimlab.__path__[0]).rglob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names_used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names_used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                names_used.add(ast.unparse(node))
    own = {
        name.removeprefix("torch.optim.").partition(".")[0]
        for name in names_used
        if name.startswith("torch.optim.")
    }
    assert "Optimizer" in own  # such names are found at all
    assert not own & functions
    private = {name.rpartition(".")[2] for name in names_used}
    assert not {name for name in private if name.startswith(("_single_tensor_", "_multi_tensor_"))}
