"""The microscope and the watch: what they show, and that they change nothing."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from beside import (
    LIBRARIES,
    STATEFUL,
    WAYS,
    Options,
    Pair,
    assert_equal,
    names,
    one_thread,
    ways,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from wrong_optimizers import PlainAdam, PlainSGD

import optimlab
from optimlab.lab.compare.integers import hexadecimal
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.lockstep.clone import clone, give_gradients
from optimlab.lab.parity import Scenario, TensorSpec
from optimlab.lab.record.recording import Recording
from optimlab.lab.record.writing import Operation
from optimlab.lab.trace.trace import Trace

__all__ = ["one_thread"]

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=["optimlab", "torch"])


def weights(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def step(optimizer: Optimizer, *gradients: list[float]) -> None:
    for param, gradient in zip(parameters(optimizer), gradients, strict=True):
        param.grad = torch.tensor(gradient, dtype=param.dtype)
    optimizer.step()


def traced_step(optimizer: Optimizer, *gradients: list[float]) -> Trace:
    with optimlab.trace(optimizer) as traced:
        step(optimizer, *gradients)
    return traced


def traced_adam(library: Any = optimlab, steps: int = 3, **options: Any) -> Trace:
    optimizer = library.Adam([weights(1, 2)], lr=0.25, **options)
    with optimlab.trace(optimizer) as traced:
        for number in range(steps):
            step(optimizer, [0.5 / (number + 1), 1.0])
    return traced


# What it shows.

WORKED = """\
Adam, step 2, parameter 0 [2], element [0]
  step = add(step, 1) = 1 + 1 = 2
  exp_avg = lerp(exp_avg, grad, 0.1) = 0.05 + 0.1 * (0.25 - 0.05) = 0.07  # 1 - beta1
  exp_avg_sq = mul(exp_avg_sq, 0.999) = 0.00025 * 0.999 = 0.00024975  # beta2
  exp_avg_sq = addcmul(exp_avg_sq, grad, grad, value=0.001)
      = 0.00024975 + 0.001 * 0.25 * 0.25 = 0.00031225  # 1 - beta2
  denom = sqrt(exp_avg_sq) = sqrt(0.00031225) = 0.0176706
  denom = div(denom, 0.0447102) = 0.0176706 / 0.0447102 = 0.395225  # (1 - beta2**step)**0.5
  denom = add(denom, 1e-08) = 0.395225 + 1e-08 = 0.395225  # eps
  param = addcdiv(param, exp_avg, denom, value=-1.31579)
      = 0.75 + -1.31579 * 0.07 / 0.395225 = 0.516955  # -(lr / (1 - beta1**step))"""


def test_three_steps_of_adam_read_as_a_worked_example() -> None:
    blocks = str(traced_adam()).split("\n\n")
    assert len(blocks) == 3
    assert blocks[1] == WORKED


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True}])
@libraries
def test_a_worked_example_fits_100_columns_and_ends_in_the_parameter(
    library: Any, options: Options
) -> None:
    traced = traced_adam(library, **options)
    lines = str(traced).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("param" in line and "0.516955" in line for line in [*lines, "".join(lines)])


def values_of(traced: Trace) -> list[list[tuple[str, Any]]]:
    """Return the names of the optimizer's tensors and the numbers that are written to them."""
    return [
        [
            (value.label, value.kept)
            for operation in each.operations
            for value in operation.results
            if value.label and operation.name not in ("zeros", "zeros_like")
        ]
        for each in traced.steps
    ]


def test_lists_of_tensors_are_shown_as_single_tensors_are() -> None:
    single, listed = (traced_adam(torch.optim, foreach=foreach) for foreach in (False, True))
    assert values_of(single) == values_of(listed)
    assert values_of(single)[0][-1] == ("param", [0.75])


def test_any_optimizer_is_shown_with_its_own_names() -> None:
    printed = str(traced_step(PlainAdam([weights(1, 2)], lr=0.25), [0.5, 1.0]))
    assert "root = div(sqrt, 0.0316228)" in printed
    assert "# 1 - beta1" in printed  # a number that equals it
    assert printed.endswith("= 0.75")


def test_elements_are_chosen_by_parameter_or_number() -> None:
    first, second = weights(1, 2), nn.Parameter(torch.ones(2, 3))
    optimizer = optimlab.SGD([first, second], lr=0.5)
    first.grad, second.grad = torch.ones(2), torch.arange(6.0).reshape(2, 3)
    with optimlab.trace(optimizer, {second: [(1, 2), (0, 1)], 0: [1]}) as traced:
        optimizer.step()
    by_parameter = {each.parameter: each for each in traced.steps}
    assert by_parameter[1].operations[-1].results[0].kept == [1 - 0.5 * 5, 1 - 0.5 * 1]
    assert by_parameter[0].operations[-1].results[0].kept == [1.5]


def test_the_first_element_of_the_first_three_parameters_is_shown_by_default() -> None:
    params = [weights(1), weights(), nn.Parameter(torch.tensor(2.0)), weights(3), weights(4)]
    traced = traced_step(optimlab.SGD(params, lr=0.5), [1], [], 1, [1], [1])  # type: ignore[arg-type]
    shown = [(each.parameter, each.elements) for each in traced.steps]
    assert shown == [(0, ((0,),)), (2, ((),)), (3, ((0,),))]


@pytest.mark.parametrize(
    ("elements", "error", "words"),
    [
        ({2: [0]}, IndexError, "has 1 parameters"),
        ({0: [2]}, IndexError, "out of bounds"),
        ({0: [(0, 0)]}, IndexError, "too many indices"),
        ({0: [()]}, IndexError, "is no element of"),
        ([0], TypeError, "by parameter, and not a list"),
        ({0: 3}, TypeError, "list such as"),
    ],
)
def test_elements_that_are_not_there_or_no_elements_are_refused(
    elements: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        optimlab.trace(optimlab.SGD([weights(1, 2)]), elements)


def test_no_step_is_told_so() -> None:
    with optimlab.trace(optimlab.SGD([weights(1)])) as traced:
        pass
    assert str(traced) == "no step was traced"


def test_a_closure_and_the_model_are_not_part_of_the_step() -> None:
    weight = weights(1, 2)
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (weight * weight).sum()
        loss.backward()
        return float(loss.detach())

    with optimlab.trace(optimizer) as traced:
        assert optimizer.step(closure) == 5.0
        (weight * 3).sum().backward()
    (only,) = traced.steps
    assert [str(operation) for operation in only.operations] == ["param.add_(grad, alpha=-0.5)"]
    assert only.operations[0].operands[1].kept == [2.0]


class Decayed(torch.optim.SGD):
    """Goes on after its parent's step, which torch wraps in hooks as it wraps this one."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for param in parameters(self):
            param.mul_(0.5)
        return loss


def fail() -> float:
    raise ArithmeticError


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_step_that_calls_its_parents_step_is_one_step(fails_first: bool) -> None:
    torch.optim.SGD([weights(1)])  # torch wraps the parent's step from here on
    optimizer = Decayed([weights(1, 2)], lr=0.5)
    with optimlab.watch(optimizer, every=1) as watched, optimlab.trace(optimizer) as traced:
        if fails_first:
            with pytest.raises(ArithmeticError):
                optimizer.step(fail)
        step(optimizer, [0.5, 0.0])
        step(optimizer, [0.5, 0.0])
    assert [[each.name for each in seen.operations] for seen in traced.steps] == [
        ["add_", "mul_"],
        ["add_", "mul_"],
    ]
    assert list(watched.history) == [1, 2]
    assert watched.history[1]["param 0"].update_max == 1.0  # 2 to 1, and 1 to 0.375


def test_what_hooks_compute_after_a_step_is_no_part_of_it() -> None:
    weight = weights(1, 2)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    norms: list[Tensor] = []
    optimizer.register_step_post_hook(lambda *_: norms.append(weight.detach().norm()))
    traced = traced_step(optimizer, [1.0, 1.0])
    assert [each.name for each in traced.steps[0].operations] == ["add_"]
    assert len(norms) == len(optimizer._optimizer_step_post_hooks) == 1


def test_a_watch_drops_its_copies_when_a_closure_raises() -> None:
    optimizer = torch.optim.SGD([weights(1, 2)])
    watched = optimlab.watch(optimizer, every=1)
    with pytest.raises(ArithmeticError):
        optimizer.step(fail)
    assert not watched._before
    step(optimizer, [1.0, 1.0])
    assert list(watched.history) == [1]


def test_complex_parameters_are_shown_as_pairs() -> None:
    weight = nn.Parameter(torch.tensor([1 + 2j]))
    weight.grad = torch.tensor([3 - 4j])
    optimizer = optimlab.Adam([weight], lr=0.5)
    with optimlab.trace(optimizer) as traced:
        optimizer.step()
    assert traced.steps[0].operations[-1].results[0].kept == [(0.5, 2.5)]


# The document for viewers.


def test_the_document_holds_exact_numbers() -> None:
    traced = traced_adam(steps=2)
    read = json.loads(traced.to_json())
    assert (read["schema"], read["optimizer"]) == ("optimlab.trace/1", "Adam")
    last = read["steps"][1]["operations"][-1]
    assert last["operation"] == "addcdiv_"
    assert last["scalars"][0]["origin"] == "-(lr / (1 - beta1**step))"
    (value,) = last["results"][0]["values"]
    exact = traced.steps[1].operations[-1].results[0].kept[0]
    assert float.fromhex(value["hex"]) == float(value["decimal"]) == exact
    assert value["bits"] == hexadecimal(exact, torch.float32)


def test_every_operand_of_the_document_was_written_before_or_is_the_optimizers() -> None:
    read = traced_adam(steps=1).as_json()
    known = {"param", "grad", "step"}  # the step count is made before the first operation
    for operation in read["steps"][0]["operations"]:
        assert {operand["name"] for operand in operation["operands"]} <= known
        known |= {result["name"] for result in operation["results"]}
    assert known == {"param", "grad", "step", "exp_avg", "exp_avg_sq", "denom"}


def test_numbers_that_json_has_not_are_strings() -> None:
    traced = traced_step(optimlab.SGD([weights(math.inf, 0)], lr=0.5), [math.nan, 0])
    content = traced.to_json()
    assert "NaN" not in content
    assert '"nan"' in content


# Nothing is changed.


@ways
def test_a_traced_and_watched_run_ends_in_the_same_bits(name: str, way: Options) -> None:
    for options in ({}, STATEFUL[name]):
        looked_at, alone = Pair(name, **way, **options), Pair(name, **way, **options)
        watches = [optimlab.watch(side.optimizer, every=2) for side in looked_at.sides]
        alone.step(4)
        for number in range(4):
            looked_at.set_gradients()
            for side in looked_at.sides:
                if number == 1:
                    side.optimizer.step()
                    continue
                with optimlab.trace(side.optimizer) as seen:
                    side.optimizer.step()
                assert seen.steps
        for side, other, watch in zip(looked_at.sides, alone.sides, watches, strict=True):
            assert list(watch.history) == [2, 4]
            watch.remove()
            assert not side.optimizer._optimizer_step_pre_hooks
            assert_equal(side.seen(), other.seen())


def test_hooks_are_gone_after_a_trace_and_after_an_error() -> None:
    optimizer = optimlab.SGD([weights(1)])
    with pytest.raises(ArithmeticError), optimlab.trace(optimizer):
        optimizer.step(fail)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not torch._C._len_torch_dispatch_stack()


@names
def test_differentiable_steps_keep_their_derivatives(name: str) -> None:
    def derivative(traced: bool) -> Tensor:
        start = torch.ones(3, requires_grad=True)
        param = start.clone()
        param.retain_grad()
        param.grad = torch.tensor([1.0, 2.0, 3.0])
        optimizer = getattr(optimlab, name)([param], lr=0.5, differentiable=True)
        with optimlab.trace(optimizer) if traced else nullcontext():
            optimizer.step()
        (found,) = torch.autograd.grad(param.square().sum(), start)
        return found

    assert_equal(derivative(traced=True), derivative(traced=False))


# The recording.


def recorded(optimizer: Optimizer, gradients: list[Tensor | None]) -> list[Operation]:
    operations: list[Operation] = []
    give_gradients(parameters(optimizer), gradients)
    with Recording(optimizer, lambda tensor, _: tensor.detach().clone(), operations.extend):
        optimizer.step()
    return operations


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_each_recorded_operation_can_be_repeated_to_the_same_bits(name: str, way: Options) -> None:
    scenario = Scenario(tensors=(TensorSpec((5, 3)), TensorSpec((7,)), TensorSpec(())))
    for library in LIBRARIES:
        optimizer = getattr(library, name)(scenario.start(), **way, **STATEFUL[name])
        steps = [recorded(optimizer, list(scenario.gradients(number))) for number in (1, 2)]
        computing = [o for step in steps for o in step if o.computes and o.operands]
        repeated = [each for each in computing if "empty" not in each.name]
        for operation in repeated:
            assert_equal(operation.repeat(), clone(operation.results[0].kept))
        assert len(repeated) >= 6


def test_names_of_parameters_in_one_buffer_are_told_apart() -> None:
    buffer = torch.zeros(6)
    params = [nn.Parameter(buffer[:2]), nn.Parameter(buffer[2:])]
    optimizer = torch.optim.SGD(params, lr=0.5)
    operations = recorded(optimizer, [torch.ones(2), torch.ones(4)])
    computing = [operation for operation in operations if operation.computes]
    assert [operation.parameter for operation in computing] == [0, 1]
    assert [operation.operands[0].source for operation in computing] == [None, None]
    assert [str(operation) for operation in computing] == ["param.add_(grad, alpha=-0.5)"] * 2


def test_an_operation_on_a_view_writes_to_what_is_viewed() -> None:
    class ByRow(PlainSGD):
        def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
            for row, slope in zip(param, grad, strict=True):
                row.sub_(slope, alpha=group["lr"])

    weight = nn.Parameter(torch.zeros(2, 2))
    operations = recorded(ByRow([weight], lr=0.5), [torch.ones(2, 2)])
    written = [operation for operation in operations if operation.in_place]
    assert [str(operation) for operation in written] == ["param.sub_(grad, alpha=0.5)"] * 2
    assert written[0].operands[0].source is None
    assert written[1].operands[0].source == written[0].number


# The watch.


def test_the_watch_measures_what_it_says() -> None:
    weight = weights(3.0, 4.0, -1.0, -8.0)
    optimizer = torch.optim.SGD([("weight", weight)], lr=0.5)
    with optimlab.watch(optimizer, every=1) as watched:
        step(optimizer, [6.0, -8.0, 0.0, 1e-9])
    norm = math.sqrt(3**2 + 4**2 + 1 + 64)
    assert asdict(watched.readings["weight"]) == pytest.approx(
        {
            "norm": norm,
            "max": 8.0,
            "grad_norm": 10.0,
            "grad_max": 8.0,
            "update_norm": 5.0,
            "update_max": 4.0,
            "update_to_weight": 5 / norm,
            "zero": 0.5,
            "lost": 0.25,
            "decay_norm": 0.0,
            "decay_lost": 0.0,
        }
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_every_dtype_is_measured(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = optimlab.SGD([weight], lr=2**-12)
    with optimlab.watch(optimizer, every=1) as watched:
        give_gradients([weight], [torch.ones(4, dtype=dtype)])
        optimizer.step()
    reading = watched.readings["param 0"]
    moved = 0 if dtype is torch.bfloat16 else 1
    assert reading.lost == 1 - moved
    assert reading.update_norm == pytest.approx(moved * 2**-11)


def test_a_writer_is_given_each_number_of_every_nth_step() -> None:
    layer, scalars = nn.Linear(3, 2), {}

    def add_scalar(tag: str, scalar_value: float, global_step: int) -> None:
        scalars[tag, global_step] = scalar_value

    optimizer, named = optimlab.Adam(layer.parameters()), layer.named_parameters()
    writer = SimpleNamespace(add_scalar=add_scalar)
    watched = optimlab.watch(optimizer, 3, names=named, writer=writer, tag="o")
    for _ in range(7):
        give_gradients(list(layer.parameters()), [torch.ones(2, 3), torch.ones(2)])
        optimizer.step()
    assert {number for _, number in scalars} == {3, 6}
    assert len(scalars) == 2 * 2 * 11
    assert scalars["o/update_norm/bias", 6] == watched.history[6]["bias"].update_norm


def test_tensorboard_takes_the_numbers(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    optimizer = torch.optim.SGD([weights(1.0)], lr=0.5)
    writer = tensorboard.SummaryWriter(str(tmp_path))
    with writer, optimlab.watch(optimizer, every=1, writer=writer):
        step(optimizer, [1.0])
    log = reader.EventAccumulator(str(tmp_path))
    log.Reload()
    (event,) = log.Scalars("optimizer/update_norm/param 0")
    assert (event.step, event.value) == (1, 0.5)


def test_parameters_without_gradient_or_element_are_left_out() -> None:
    optimizer = torch.optim.SGD([weights(1.0), weights(2.0), weights()], lr=0.5)
    with optimlab.watch(optimizer, every=1) as watched:
        give_gradients(parameters(optimizer), [torch.ones(1), None, torch.ones(0)])
        optimizer.step()
    assert list(watched.readings) == ["param 0"]


@pytest.mark.parametrize(
    ("kind", "dtype", "lost"),
    [
        (torch.optim.AdamW, torch.bfloat16, 1.0),
        (optimlab.AdamW, torch.bfloat16, 1.0),
        (torch.optim.SGD, torch.bfloat16, 1.0),
        (torch.optim.SGD, torch.float16, 1.0),
        (torch.optim.AdamW, torch.float32, 0.0),
        (torch.optim.Adam, torch.bfloat16, 0.0),  # an L2 term, which its root scales
        (torch.optim.RMSprop, torch.bfloat16, 0.0),
    ],
)
def test_the_watch_says_what_weight_decay_loses(kind: Any, dtype: torch.dtype, lost: float) -> None:
    weight = nn.Parameter(torch.full((100,), 1.5, dtype=dtype))
    optimizer = kind([weight], lr=1e-3, weight_decay=0.1)
    with optimlab.watch(optimizer, every=1) as watched:
        step(optimizer, [0.0] * 100)
    reading = watched.readings["param 0"]
    assert reading.decay_lost == lost
    separate = kind not in (torch.optim.Adam, torch.optim.RMSprop)
    assert reading.decay_norm == pytest.approx(1e-4 * 15 if separate else 0)
    assert ("lost to rounding in 100 %" in str(watched)) is bool(lost)


def test_the_watch_reads_float16_without_overflow_and_says_when_nothing_had_a_gradient() -> None:
    weight = nn.Parameter(torch.full((100,), 1e4, dtype=torch.float16))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with optimlab.watch(optimizer, every=1) as watched:
        step(optimizer, [1e3] * 100)
        reading = watched.readings["param 0"]
        assert (reading.norm, reading.update_to_weight) == pytest.approx((1e5, 0.1))
        weight.grad = None
        optimizer.step()
    assert str(watched) == "step 2: no parameter had a gradient"


def test_a_watch_prints_its_last_readings() -> None:
    optimizer = torch.optim.SGD([weights(1.0)], lr=0.5)
    watched = optimlab.watch(optimizer, every=2)
    step(optimizer, [1.0])
    assert str(watched) == "no step was watched in 1 steps"
    step(optimizer, [1.0])
    lines = str(watched).splitlines()
    assert lines[0] == "step 2"
    assert lines[2].split() == ["param", "0", "0.5", "1", "0.5", "0.5", "1", "0", "%", "0", "%"]
    assert max(map(len, lines)) <= 100
    with pytest.raises(ValueError, match="at least 1"):
        optimlab.watch(optimizer, every=0)


def test_sparse_gradients_are_watched_and_traced() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.5)
    table(torch.tensor([1, 1])).sum().backward()
    watched = optimlab.watch(optimizer, every=1)
    with optimlab.trace(optimizer, {0: [(1, 0)]}) as traced:
        optimizer.step()
    assert watched.readings["param 0"].zero == 0.8
    assert watched.readings["param 0"].grad_max == 2.0
    assert "param" in str(traced)


@pytest.mark.parametrize("lay", ["data", "set_"])
def test_a_step_that_lays_the_parameter_elsewhere_is_traced(lay: str) -> None:
    class Elsewhere(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            (weight,) = self.param_groups[0]["params"]
            moved = weight - 0.5 * weight.grad
            if lay == "data":
                weight.data = moved
            else:
                weight.set_(moved)

    weight = torch.nn.Parameter(torch.tensor([2.0, 4.0]))
    weight.grad = torch.tensor([1.0, -1.0])
    optimizer = Elsewhere([weight])
    with optimlab.trace(optimizer) as traced:
        optimizer.step()
    assert weight.tolist() == [1.5, 4.5]
    assert "sub(param, mul) = 2 - 0.5 = 1.5" in str(traced)
