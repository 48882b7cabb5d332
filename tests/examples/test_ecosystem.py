"""What is built around optimizers, driving optimlab's and torch's side by side.

Nothing here is part of optimlab: schedulers, gradient scaling, averaging, compilation, hooks on
gradients and distributed checkpoints. They know torch's optimizers, and are to see no difference.
"""

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from beside import (
    LIBRARIES,
    SMALL,
    STATEFUL,
    Options,
    Pair,
    all_warnings,
    assert_equal,
    beside_torch,
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


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
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
    "SWALR, linear": lambda o: swa_utils.SWALR(o, 0.05, 4, anneal_strategy="linear"),
}
LOSSES = (3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0, 1.0)


def test_every_scheduler_of_torch_is_in_these_tests() -> None:
    tested = {name.partition(",")[0] for name in SCHEDULERS}
    assert tested - {"SWALR"} == set(lr_scheduler.__all__) - {"LRScheduler"}


def schedulers_of(pair: Pair, scheduler: str) -> list[Any]:
    return [SCHEDULERS[scheduler](side.optimizer) for side in pair.sides]


def scheduled_steps(pair: Pair, schedulers: list[Any], steps: range = range(STEPS)) -> list[Any]:
    """Train both, each with its scheduler; return the learning rates, which are the same."""
    rates: list[list[Any]] = [[], []]
    for number in steps:
        pair.set_gradients()
        for side, its, seen in zip(pair.sides, schedulers, rates, strict=True):
            side.optimizer.step()
            on_plateau = isinstance(its, lr_scheduler.ReduceLROnPlateau)
            its.step(LOSSES[number]) if on_plateau else its.step()
            seen.append(clone([group["lr"] for group in side.optimizer.param_groups]))
        pair.compare()
    assert_equal(*rates)
    states = [its.state_dict() for its in schedulers]
    for state in states:
        for key in ("_schedulers", "anneal_func", "_anneal_func_type", "_scale_fn_custom"):
            state.pop(key, None)
    assert_equal(*states)
    return rates[0]


# SequentialLR and ChainedScheduler step their parts before any optimizer has.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@names
def test_a_scheduler_gives_both_the_same_rates_and_bits(
    name: str, scheduler: str, tensor_lr: bool
) -> None:
    lr: Any = torch.tensor(0.01) if tensor_lr else 0.01
    pair = Pair(name, SMALL, lr=lr, foreach=False, **STATEFUL[name])
    filled = [side.optimizer.param_groups[0]["lr"] for side in pair.sides]
    rates = scheduled_steps(pair, schedulers_of(pair, scheduler))
    assert len({float(of_groups[0]) for of_groups in rates}) > 1
    if tensor_lr:  # a scheduler fills the tensor that the optimizer was given
        for side, lr in zip(pair.sides, filled, strict=True):
            assert side.optimizer.param_groups[0]["lr"] is lr


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("scheduler", ["CyclicLR", "OneCycleLR"])
@names
def test_a_scheduler_may_turn_momentum_on(name: str, scheduler: str, foreach: bool) -> None:
    pair = Pair(name, SMALL, foreach=foreach)
    scheduled_steps(pair, schedulers_of(pair, scheduler))
    if name in {"SGD", "RMSprop"}:
        assert "momentum_buffer" in pair.ours.optimizer.state[pair.ours.params[0]]


@pytest.mark.parametrize("too_early", [True, False])
@names
def test_a_scheduler_notices_the_order_of_steps_as_with_torch(name: str, too_early: bool) -> None:
    def warned(library: Any) -> list[str]:
        param = torch.ones(2, requires_grad=True)
        param.grad = torch.ones(2)
        optimizer = getattr(library, name)([param])
        with all_warnings() as caught:
            scheduler = lr_scheduler.StepLR(optimizer, 1)
            if too_early:
                scheduler.step()
            optimizer.step()
            scheduler.step()
        return [str(warning.message) for warning in caught]

    assert len(beside_torch(warned)) == too_early


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@names
def test_a_run_with_a_scheduler_is_resumed_across_libraries(name: str, scheduler: str) -> None:
    pair = Pair(name, **STATEFUL[name])
    schedulers = schedulers_of(pair, scheduler)
    scheduled_steps(pair, schedulers, range(4))
    saved = [
        clone([side.optimizer.state_dict(), its.state_dict()])
        for side, its in zip(pair.sides, schedulers, strict=True)
    ]
    for side in pair.sides:
        side.optimizer = pair.new(side)
    resumed = schedulers_of(pair, scheduler)
    for side, its, (of_optimizer, of_scheduler) in zip(
        pair.sides, resumed, saved[::-1], strict=True
    ):
        its.load_state_dict(of_scheduler)
        side.optimizer.load_state_dict(of_optimizer)
    scheduled_steps(pair, resumed, range(4, STEPS))


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


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[Any]:
    """Train it, and return what it has become, with the optimizer's state."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs()).square().mean().backward()
        optimizer.step()
    return [optimizer.state_dict(), [param.detach() for param in model.parameters()]]


AVERAGES: dict[str, Options] = {
    "equal": {},
    "swa": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
    "ema": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "ema, one by one": {"avg_fn": swa_utils.get_ema_avg_fn(0.9)},
}


@pytest.mark.parametrize("average", AVERAGES)
@names
def test_averaged_weights_are_the_same(name: str, average: str) -> None:
    def averaged(library: Any) -> dict[str, Any]:
        model = network()
        optimizer = getattr(library, name)(model.parameters(), **STATEFUL[name])
        # The multi-tensor average is one of floating-point numbers, unlike some buffers.
        mean = swa_utils.AveragedModel(model, use_buffers=average != "swa", **AVERAGES[average])
        scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
        for _ in range(6):
            train(model, optimizer, 1)
            scheduler.step()
            mean.update_parameters(model)
        swa_utils.update_bn([inputs()], mean)
        return dict(mean.state_dict())

    assert beside_torch(averaged)["n_averaged"] == 6


# An optimizer for each parameter, stepped in the backward pass.


@ways
def test_optimizers_may_step_in_the_backward_pass(name: str, way: Options) -> None:
    def stepped_backward(library: Any) -> list[Any]:
        model = network()
        optimizers = {
            param: getattr(library, name)([param], **STATEFUL[name], **way)
            for param in model.parameters()
        }

        def hook(param: Any) -> None:
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in optimizers:
            param.register_post_accumulate_grad_hook(hook)
        for _ in range(4):
            model(inputs()).square().mean().backward()
        assert all(param.grad is None for param in optimizers)
        return [
            [param.detach(), *its.state_dict()["state"].values()]
            for param, its in optimizers.items()
        ]

    assert len(beside_torch(stepped_backward)) == 6


# Compilation.

Test: TypeAlias = Callable[..., None]


@pytest.fixture
def dynamo() -> Iterator[Any]:
    """Start from, and leave, a compiler that remembers nothing."""
    dynamo = pytest.importorskip("torch._dynamo", reason="this torch has no compiler")
    if not getattr(dynamo, "is_dynamo_supported", lambda: True)():
        pytest.skip("torch's compiler does not run here")
    dynamo.reset()
    yield dynamo
    dynamo.reset()


def compiles(test: Test) -> Test:
    """Let a test use the compiler, which warns of itself."""
    return pytest.mark.usefixtures("dynamo")(pytest.mark.filterwarnings("ignore")(test))


def compiled_steps(pair: Pair, count: int, **options: Any) -> Iterator[list[int]]:
    """Step both by steps that are compiled; give the sizes of the graphs of ours so far."""
    graphs: list[int] = []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(sum(node.op.startswith("call") for node in module.graph.nodes))
        return module.forward

    ours = torch.compile(pair.ours.optimizer.step, **{"backend": backend, **options})
    theirs = torch.compile(pair.theirs.optimizer.step, **{"backend": "eager", **options})
    for _ in range(count):
        pair.set_gradients()
        pair.both(lambda side: (ours if side is pair.ours else theirs)())
        yield graphs


@compiles
@pytest.mark.parametrize(
    "way", [{"foreach": False}, {"foreach": True}], ids=["for-loop", "foreach"]
)
@names
def test_a_compiled_step_is_one_graph_and_gives_the_bits_of_torchs_compiled_step(
    name: str, way: Options
) -> None:
    pair = Pair(name, SMALL, **STATEFUL[name], **way)
    counts = []
    for graphs in compiled_steps(pair, 5):
        counts.append(len(graphs))
        assert graphs[0] > len(pair.ours.params)  # the rule itself is in the graph
    assert counts[0] == 1
    assert counts[-1] == counts[-2], "compiled anew at every step"


@compiles
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_scheduler_of_a_compiled_step_fills_its_tensor_and_compiles_nothing_anew(
    name: str,
) -> None:
    pair = Pair(name, SMALL[:2], foreach=False, lr=torch.tensor(0.01), **STATEFUL[name])
    schedulers = schedulers_of(pair, "LinearLR")
    counts = []
    for graphs in compiled_steps(pair, 5):
        counts.append(len(graphs))
        for scheduler in schedulers:
            scheduler.step()
    pair.compare()
    assert counts[-1] == counts[1], "compiled anew for another learning rate"


@compiles
def test_a_step_compiled_to_machine_code_gives_the_bits_of_torchs() -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch's compiler needs a C++ compiler")
    pair = Pair("Adam", SMALL[:2], **STATEFUL["Adam"])
    assert list(compiled_steps(pair, 2, backend="inductor")) == [[], []]


@compiles
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_whole_training_step_may_be_compiled(name: str) -> None:
    def trained(library: Any) -> list[Any]:
        model = nn.Linear(4, 1)
        optimizer = getattr(library, name)(model.parameters(), **STATEFUL[name])

        def step(model: nn.Module, batch: Tensor) -> None:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

        compiled = torch.compile(step, backend="eager")
        for _ in range(2):
            compiled(model, inputs())
        return train(model, optimizer, 0)

    assert len(beside_torch(trained)[0]["state"]) == 2


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

    def begun(library: Any) -> tuple[nn.Module, Optimizer]:
        model = network()
        return model, getattr(library, name)(model.parameters(), **STATEFUL[name], **way)

    saved, finals = [], []
    for library in LIBRARIES:
        model, optimizer = begun(library)
        # Without state there is nothing to save: this takes a step of its own, with lr 0.
        saved.append([checkpoint.get_optimizer_state_dict(model, optimizer)])
        train(model, optimizer, 3)
        saved[-1].append(clone(checkpoint.get_optimizer_state_dict(model, optimizer)))
    assert_equal(*saved)
    for library, (_, of_other) in zip(LIBRARIES, saved[::-1], strict=True):
        model, optimizer = begun(library)
        checkpoint.set_optimizer_state_dict(model, optimizer, of_other)
        finals.append(train(model, optimizer, 3))
    assert_equal(*finals)


# What is called.


def names_used(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module imports, and those with a dot that it uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def test_no_step_of_torchs_own_optimizers_is_called() -> None:
    files = Path(optimlab.__path__[0]).rglob("*.py")
    used = {each for file in files for each in names_used(ast.parse(file.read_text("utf-8")))}
    own = {name.split(".")[2] for name in used if name.startswith("torch.optim.")}
    assert "Optimizer" in own  # such names are found at all
    assert not own & {"sgd", "adam", "adamw", "rmsprop"}
    private = {name.rpartition(".")[2] for name in used}
    assert not {name for name in private if name.startswith(("_single_tensor_", "_multi_tensor_"))}
