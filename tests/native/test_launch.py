"""Which tensors the kernel serves: all others take the plain path, to the same bits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor
from twins import RULES, Run, Twins, both_end_alike, names

import optimlab


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
    def program(library: Any) -> list[Tensor]:
        params = [make(torch.linspace(-1, 1, 40)), torch.linspace(0, 1, 40)]
        optimizer = getattr(library, name)(params, **RULES[name])
        for step in range(3):
            for param in params:
                param.grad = torch.full_like(param, 0.5 - step)
            optimizer.step()
        assert "_cached_step" not in vars(optimizer)
        return params

    both_end_alike(program)


@names
def test_memory_that_two_parameters_share_takes_the_plain_path(name: str) -> None:
    def program(library: Any) -> list[Tensor]:
        memory = torch.linspace(-1, 1, 12)
        params = [memory[:8], memory[4:]]
        optimizer = getattr(library, name)(params, **RULES[name])
        for step in range(4):
            for place, param in enumerate(params):
                param.grad = torch.full((8,), 0.5 * step - place)
            optimizer.step()
        assert "_cached_step" not in vars(optimizer)
        return [memory]

    both_end_alike(program)


def test_flushing_denormals_takes_the_plain_path() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        twins = Twins("Adam")
        twins.step(3)
        assert not twins.ours.is_cached
    finally:
        torch.set_flush_denormal(False)


def stepped(
    library: Any,
    params: list[Tensor],
    times: int,
    between: Callable[[Any, int], object],
    **options: Any,
) -> list[Tensor]:
    """Step with random gradients and return parameters and state; do something before each step."""
    name = options.pop("name", "SGD")
    optimizer = getattr(library, name)(params, **{"lr": 0.1, **options})
    for step in range(times):
        for param in params:
            param.grad = torch.randn_like(param, requires_grad=False)
        between(optimizer, step)
        optimizer.step()
    values = (value for param in params for value in optimizer.state[param].values())
    return [*(p.resolve_neg() for p in params), *(v.float() for v in values if v.dim())]


def parameters(*sizes: int) -> list[Tensor]:
    return [torch.randn(size).requires_grad_() for size in sizes]


def negate(optimizer: Any, step: int, name: str = "") -> None:
    """Turn a parameter, or state of it, into a lazy negation of what it was."""
    if step == 2:
        (param, *_) = optimizer.param_groups[0]["params"]
        changed = optimizer.state[param][name] if name else param
        changed.data = torch._neg_view(changed.data)


def nowhere(optimizer: Any, step: int) -> None:
    if step in (0, 2):
        optimizer.param_groups[0]["params"][0].grad = torch._efficientzerotensor((9,))


def nothing(optimizer: Any, step: int) -> None:
    """Let the step be."""


def gaps_in_shared_memory() -> list[Tensor]:
    base = torch.randn(40)
    return [base[0:20:2].requires_grad_(), base[0:8].detach().requires_grad_()]


def not_aligned() -> list[Tensor]:
    memory = bytearray(range(1, 42))
    return [torch.frombuffer(memory, dtype=torch.float32, count=9, offset=1).requires_grad_()]


def a_gradient_in_a_parameter(optimizer: Any, step: int) -> None:
    first, second = optimizer.param_groups[0]["params"]
    first.grad, second.grad = second.detach(), torch.ones(10)


ODD: dict[str, tuple[Callable[[], list[Tensor]], Callable[[Any, int], object], dict[str, Any]]] = {
    "gradients that are nowhere": (lambda: parameters(9, 5), nowhere, {"name": "Adam"}),
    "a negated parameter": (lambda: parameters(9, 5), negate, {"momentum": 0.9}),
    "negated state": (
        lambda: parameters(9, 5), lambda o, step: negate(o, step, "exp_avg"), {"name": "Adam"},
    ),
    "gaps in shared memory": (gaps_in_shared_memory, nothing, {"weight_decay": 0.3}),
    "a gradient in a parameter with gaps": (
        lambda: [torch.randn(20)[::2].requires_grad_(), *parameters(10)],
        a_gradient_in_a_parameter,
        {},
    ),
    "memory that is not aligned": (not_aligned, nothing, {}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "between", "options"), ODD.values(), ids=ODD)
def test_odd_memory_ends_as_with_torch(make: Any, between: Any, options: Any) -> None:
    both_end_alike(lambda library: stepped(library, make(), 4, between, **options))


def expand_the_count(optimizer: Any, step: int) -> None:
    if step == 2:
        (param,) = optimizer.param_groups[0]["params"]
        count = optimizer.state[param]["step"]
        count.data = count.data.expand(3)


REFUSED: dict[str, tuple[Any, type[Exception], dict[str, Any]]] = {
    "step counts of several elements": (expand_the_count, RuntimeError, {"name": "Adam"}),
    "a rate that float32 cannot hold": (
        lambda o, step: o.param_groups[0].update(lr=1e39 if step == 2 else 0.1), RuntimeError, {},
    ),
    "a flag that is gone": (
        lambda o, step: step == 2 and o.param_groups[0].pop("foreach"), KeyError, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("between", "error", "options"), REFUSED.values(), ids=REFUSED)
def test_what_torch_refuses_is_refused(between: Any, error: Any, options: Any) -> None:
    for library in (optimlab, torch.optim):
        with pytest.raises(error):
            stepped(library, parameters(7), 4, between, **options)


def test_a_parameter_in_front_that_raises_leaves_those_behind_alone() -> None:
    def program(library: Any) -> list[Tensor]:
        params = [torch.ones(1).expand(6).requires_grad_(), *parameters(6)]
        with pytest.raises(RuntimeError):
            stepped(library, params, 1, nothing)
        return params[1:]

    both_end_alike(program)


@pytest.mark.parametrize("lr", [1, True, 1e39, float("inf"), float("nan")])
def test_a_rate_of_another_kind_ends_as_with_torch(lr: Any) -> None:
    twins = Twins("SGD", [torch.ones(3)], nesterov=False)
    errors: list[list[str]] = []
    for run in (twins.ours, twins.theirs):
        errors.append([])
        for step in range(6):
            run.group["lr"] = lr if step == 3 else 0.1
            try:
                Run.step(run)
            except (RuntimeError, TypeError) as error:
                errors[-1].append(type(error).__name__)
    assert errors[0] == errors[1]
    twins.compare()
