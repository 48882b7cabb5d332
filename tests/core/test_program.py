"""A rule recorded as a program: it prints as the rule, and runs to the bits of the step."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import optimlab
from optimlab import Program
from optimlab.core import devices
from optimlab.core.state import Count, Like, StateSpec
from optimlab.core.tensor_list import TensorList
from optimlab.core.values import T, is_many, maximum_
from optimlab.lab.parity import compare_tensors

OPTIONS: Mapping[type[optimlab.Rule], tuple[dict[str, Any], ...]] = {
    optimlab.SGD: (
        {},
        {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "nesterov": True, "lr": torch.tensor(0.01)},
    ),
    optimlab.Adam: (
        {},
        {"weight_decay": 0.1, "amsgrad": True, "maximize": True, "betas": (0.4, 0.9)},
    ),
    optimlab.AdamW: ({}, {"amsgrad": True, "maximize": True}),
    optimlab.RMSprop: (
        {},
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1, "maximize": True, "alpha": 0.4},
    ),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
SIZES = ((), (7,), (33,), (4, 5))


class Lion(optimlab.Rule):
    """A rule of a user's own (Chen et al., 2023, algorithm 2), in ten lines."""

    state_spec = StateSpec(Like("exp_avg"))

    def __init__(self, params: Any, lr: float = 1e-2, foreach: bool | None = None) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "foreach": foreach})

    def update(
        self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        exp_avg = state["exp_avg"]
        direction = exp_avg.mul(beta1).add_(grad, alpha=1 - beta1).sign_()
        param.add_(direction, alpha=-group["lr"])
        exp_avg.lerp_(grad, 1 - beta2)


class EveryOperation(optimlab.Rule):
    """A rule without meaning that uses each operation that values have."""

    state_spec = StateSpec(Count(), Like("memory"))

    def __init__(self, params: Any, foreach: bool | None = None) -> None:
        super().__init__(params, {"lr": 0.5, "foreach": foreach})

    def update(
        self, param: T, grad: T, state: dict[str, T], step: float | T, group: dict[str, Any]
    ) -> None:
        memory = state["memory"]
        size = grad.abs().add_(grad.square()).sqrt()
        direction = (-grad).neg_().mul(size).div(size.clone().add_(1.0)).mul_(grad.sign())
        maximum_(memory, direction.detach().sub_(0.25).sqrt_().reciprocal_())
        memory.addcmul_(direction, grad).div_(3.0)
        param.addcdiv_(memory.addcmul(grad, size, value=2.0), size, value=-group["lr"])


def parameters(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, generator=generator).to(dtype).requires_grad_() for size in SIZES]


def give_gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        gradient = torch.randn(param.shape, generator=generator) * 10.0 ** (step - 2)
        param.grad = gradient.to(param.dtype)


def inputs_of(optimizer: optimlab.Rule, param: Tensor, program: Program) -> dict[str, Tensor]:
    """Copy what a program reads; state that does not exist yet starts as the optimizer says."""
    group, spec = optimizer.param_groups[0], optimizer.state_spec
    zeros = dict.fromkeys(spec.names(group), torch.zeros_like(param.detach()))
    state = optimizer.state.get(param) or {**zeros, **dict(spec.start(param, group))}
    assert param.grad is not None
    available = {"param": param.detach(), "grad": param.grad, **state}
    values = {name: available[name].clone() for name in program.inputs}
    if "step" in values and not group.get("fused"):
        values["step"] += 1  # a step count given as a tensor is that of the step to be made
    return values


def run_beside(optimizer: optimlab.Rule, program: Program) -> list[dict[str, Any]]:
    """Run a program on copies of every parameter, as single tensors or as one list."""
    inputs = [inputs_of(optimizer, p, program) for p in optimizer.param_groups[0]["params"]]
    if not program.listed:
        return [program.run(values) for values in inputs]
    lists = {name: TensorList([values[name] for values in inputs]) for name in program.inputs}
    results: dict[str, Any] = program.run(lists)
    return [{name: results[name].tensors[i] for name in results} for i in range(len(inputs))]


def assert_same_as_step(optimizer: optimlab.Rule, outputs: list[dict[str, Any]]) -> None:
    for param, output in zip(optimizer.param_groups[0]["params"], outputs, strict=True):
        held = {"param": param.detach(), **optimizer.state.get(param, {})}
        assert sum(value.numel() for value in output.values())
        for name, value in output.items():
            assert compare_tensors(value, held[name].detach()) is None, name


def configurations() -> Iterator[Any]:
    for optimizer, settings in OPTIONS.items():
        ways: list[dict[str, Any]] = [{"foreach": False}, {"foreach": True}]
        ways += [{"differentiable": True}]
        ways += [{"fused": True}] if "fused" in optimizer.state_dict_defaults else []
        for (number, options), way in itertools.product(enumerate(settings), ways):
            name = f"{optimizer.__name__}-{way}-{number}"
            yield pytest.param(optimizer, {**options, **way}, DTYPES, id=name)
    for way, rule in itertools.product(ways[:2], (Lion, EveryOperation)):
        yield pytest.param(rule, way, DTYPES[:4], id=f"{rule.__name__}-{way}")  # numbers have signs
    for way, rule in itertools.product(ways[:2], (optimlab.Adam, optimlab.RMSprop)):
        name = f"{rule.__name__}-{way}-step counts on the device"
        yield pytest.param(rule, {"capturable": True, **way}, DTYPES[:1], id=name)


@pytest.mark.parametrize(("optimizer_class", "options", "dtypes"), list(configurations()))
def test_a_program_run_on_tensors_gives_the_bits_of_the_step(
    optimizer_class: Any,
    options: dict[str, Any],
    dtypes: tuple[torch.dtype, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "check_capturable", lambda *_, **__: None)
    for dtype in dtypes:
        if options.get("fused") and (dtype.is_complex or not dtype.itemsize > 2):
            continue  # torch's fused kernels refuse complex numbers, and SGD's are wrong in half
        params = parameters(dtype)
        if options.get("differentiable"):
            params = [param.clone() for param in params]
        optimizer = optimizer_class(params, **options)
        for step in (1, 2, 3):
            with torch.no_grad():
                give_gradients(params, step)
                program = optimizer.program()
                outputs = run_beside(optimizer, program)
            optimizer.step()
            for param in params:
                param.detach_()
            assert_same_as_step(optimizer, outputs)
            assert "step" in program.inputs or not options.get("capturable")


def test_a_program_prints_as_the_rule_with_the_numbers_of_its_step() -> None:
    optimizer = optimlab.Adam([torch.zeros(2)], lr=0.25, betas=(0.5, 0.75), eps=0.125)
    note = "# -(lr / (1 - beta1**step))"
    assert str(optimizer.program(step=2)).split("\n") == [
        "Adam, step 2, for-loop: param, grad, exp_avg, exp_avg_sq",
        "    exp_avg.lerp_(grad, 0.5)                                   # 1 - beta1",
        "    exp_avg_sq.mul_(0.75)                                      # beta2",
        "    exp_avg_sq.addcmul_(grad, grad, value=0.25)                # 1 - beta2",
        "    denom = exp_avg_sq.sqrt()",
        "    divide_(denom, 0.6614378277661477)                         # (1 - beta2**step)**0.5",
        "    denom.add_(0.125)                                          # eps",
        "    param.addcdiv_(exp_avg, denom, value=-0.3333333333333333)  " + note,
    ]


def test_a_program_names_values_as_the_rule_does() -> None:
    results = [step.result for step in Lion([torch.zeros(2)]).program().instructions]
    assert results == ["direction", "direction", "direction", "param", "exp_avg"]


def test_the_first_step_of_momentum_has_no_buffer_to_read() -> None:
    optimizer = optimlab.SGD([torch.zeros(2)], momentum=0.9)
    first, later = optimizer.program(), optimizer.program(step=2)
    assert first.inputs == ("param", "grad")
    assert first.outputs["momentum_buffer"] == "momentum_buffer"
    assert later.inputs == ("param", "grad", "momentum_buffer")


def test_the_next_step_is_recorded_by_default() -> None:
    param = torch.zeros(2, requires_grad=True)
    for optimizer in (optimlab.SGD([param], momentum=0.9), optimlab.Adam([param])):
        assert "step 1" in optimizer.program().title
        param.grad = torch.ones(2)
        optimizer.step()
        assert "step 2" in optimizer.program().title


def test_recording_leaves_the_optimizer_as_it_was() -> None:
    param = torch.ones(2, requires_grad=True)
    optimizer = optimlab.Adam([param])
    before = repr(optimizer.state_dict())
    optimizer.program(step=5)
    optimizer.program(optimizer.param_groups[0])
    assert repr(optimizer.state_dict()) == before


def test_a_missing_input_is_named() -> None:
    program = optimlab.Adam([torch.zeros(2)]).program()
    with pytest.raises(KeyError, match="exp_avg"):
        program.run({"param": torch.zeros(2), "grad": torch.zeros(2)})


def test_the_program_of_a_fused_group_is_the_kernel() -> None:
    program = optimlab.AdamW([torch.zeros(2)], fused=True).program()
    assert [i.operation for i in program.instructions] == ["add_", "_fused_adamw_"]


def test_integers_that_no_float_holds_are_shown_as_they_are() -> None:
    for lr, shown in ((2**53 + 1, "-9007199254740993"), (10**400, f"-{10**400}"), (3, "-3.0")):
        program = optimlab.SGD([torch.zeros(2)], lr=lr).program()
        assert str(program).endswith(f"param.add_(grad, alpha={shown})  # -lr")


def test_a_list_is_told_from_a_tensor_in_all_readings() -> None:
    assert is_many(TensorList([]))
    assert not is_many(torch.zeros(1))
