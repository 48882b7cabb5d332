"""Which tensors the kernel serves: all others take the plain path, to the same bits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor
from twins import RULES, Twins, both_end_alike, names


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


def gaps_in_shared_memory() -> list[Tensor]:
    base = torch.linspace(-1, 2, 40)
    return [base[0:16:2], base[0:8]]


def not_aligned() -> list[Tensor]:
    memory = bytearray(range(1, 42))
    return [torch.frombuffer(memory, dtype=torch.float32, count=9, offset=1)]


@names
@pytest.mark.parametrize(
    ("make", "grad"),
    [
        (gaps_in_shared_memory, torch.cos),
        (not_aligned, torch.cos),
        (lambda: [torch.linspace(0, 1, 20)[::2], torch.linspace(1, 2, 10)], lambda p: p.detach()),
        (lambda: [torch.linspace(0, 1, 9)], lambda p: torch._efficientzerotensor(p.shape)),
    ],
    ids=["gaps in shared memory", "not aligned", "a gradient in a parameter", "nowhere"],
)
def test_odd_memory_ends_as_with_torch(name: str, make: Any, grad: Any) -> None:
    def program(library: Any) -> list[Tensor]:
        params = make()
        optimizer = getattr(library, name)(params, **RULES[name])
        for step in range(5):
            for param, other in zip(params, reversed(params), strict=True):
                param.grad = grad(other) if step != 1 else torch.ones_like(param)
            optimizer.step()
        return list(params)

    both_end_alike(program)


def test_a_parameter_in_front_that_raises_leaves_those_behind_alone() -> None:
    def program(library: Any) -> list[Tensor]:
        params = [torch.ones(1).expand(6), torch.linspace(0, 1, 6)]
        for param in params:
            param.grad = torch.ones(6)
        with pytest.raises(RuntimeError):
            library.SGD(params, lr=0.1).step()
        return params[1:]

    both_end_alike(program)
