"""Programs that try to make the native kernel differ from torch, crash, or hold on to memory."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch import Tensor

import optimlab
from optimlab.lab.parity import compare_tensors
from optimlab.native.self_check import capabilities

LIBRARIES = (optimlab, torch.optim)


def both(program: Callable[[Any], list[Tensor]], refused: type[Exception] | None) -> None:
    """Run a program with each library and compare what it returns, or that both refuse it."""
    ends: list[list[Tensor]] = []
    for library in LIBRARIES:
        torch.manual_seed(5)
        if refused is not None:
            with pytest.raises(refused):
                program(library)
        else:
            ends.append(program(library))
    for mine, other in zip(*ends, strict=True):
        assert compare_tensors(mine.detach(), other.detach()) is None
    assert refused or ends[0]


def parameters(*sizes: int) -> list[Tensor]:
    return [torch.randn(size).requires_grad_() for size in sizes]


def with_gradients(params: list[Tensor]) -> None:
    for param in params:
        param.grad = torch.randn_like(param, requires_grad=False)


def held(optimizer: Any, params: list[Tensor]) -> list[Tensor]:
    values = (value for param in params for value in optimizer.state[param].values())
    return [*params, *(value.float() for value in values if isinstance(value, Tensor))]


def gradients_that_are_nowhere(library: Any) -> list[Tensor]:
    params = parameters(9, 5)
    optimizer = library.Adam(params)
    for step in range(4):
        with_gradients(params)
        if step in (0, 2):
            params[0].grad = torch._efficientzerotensor((9,))
        optimizer.step()
    return held(optimizer, params)


def parameters_negated_in_place(library: Any) -> list[Tensor]:
    params = parameters(9, 5)
    optimizer = library.SGD(params, lr=0.1, momentum=0.9)
    for step in range(4):
        with_gradients(params)
        if step == 2:
            params[0].data = torch._neg_view(params[0].data)
        optimizer.step()
    return [param.resolve_neg() for param in params]


def state_negated_in_place(library: Any) -> list[Tensor]:
    params = parameters(9, 5)
    optimizer = library.Adam(params)
    for step in range(4):
        with_gradients(params)
        if step == 2:
            exp_avg = optimizer.state[params[0]]["exp_avg"]
            exp_avg.data = torch._neg_view(exp_avg.data)
        optimizer.step()
    return params


def parameters_with_gaps_in_shared_memory(library: Any) -> list[Tensor]:
    base = torch.randn(40)
    params = [base[0:20:2].requires_grad_(), base[0:8].detach().requires_grad_()]
    optimizer = library.SGD(params, lr=0.1, weight_decay=0.3)
    for _ in range(3):
        with_gradients(params)
        optimizer.step()
    return params


def a_gradient_in_a_parameter_with_gaps(library: Any) -> list[Tensor]:
    params = [torch.randn(20)[::2].requires_grad_(), *parameters(10)]
    optimizer = library.SGD(params, lr=0.1)
    for _ in range(3):
        params[0].grad, params[1].grad = params[1].detach(), torch.ones(10)
        optimizer.step()
    return params


def a_parameter_in_front_that_raises(library: Any) -> list[Tensor]:
    params = [torch.ones(1).expand(6).requires_grad_(), *parameters(6)]
    optimizer = library.SGD(params, lr=0.1)
    with_gradients(params)
    with pytest.raises(RuntimeError):
        optimizer.step()
    return params[1:]


def a_step_count_shared_by_two_groups(library: Any) -> list[Tensor]:
    params = parameters(7, 8)
    optimizer = library.Adam([{"params": params[0]}, {"params": params[1], "lr": 0.5}])
    for step in range(6):
        with_gradients(params)
        optimizer.step()
        if step == 1:
            optimizer.state[params[1]]["step"] = optimizer.state[params[0]]["step"]
    return held(optimizer, params)


def whole_step_counts(library: Any) -> list[Tensor]:
    params = parameters(7)
    optimizer = library.Adam(params)
    for step in range(4):
        with_gradients(params)
        optimizer.step()
        if step == 1:
            optimizer.state[params[0]]["step"] = torch.tensor(2)
    return held(optimizer, params)


def fractions_of_steps(library: Any) -> list[Tensor]:
    params = parameters(7)
    optimizer = library.Adam(params)
    for step in range(5):
        with_gradients(params)
        optimizer.step()
        if step == 1:
            optimizer.state[params[0]]["step"].fill_(0.1)
    return held(optimizer, params)


def step_counts_of_several_elements(library: Any) -> list[Tensor]:
    params = parameters(7)
    optimizer = library.Adam(params)
    for step in range(4):
        with_gradients(params)
        optimizer.step()
        if step == 1:
            count = optimizer.state[params[0]]["step"]
            count.data = count.data.expand(3)
    return params


def rates_that_float32_cannot_hold(library: Any) -> list[Tensor]:
    params = parameters(7)
    optimizer = library.SGD(params, lr=0.1)
    for step in range(4):
        with_gradients(params)
        optimizer.param_groups[0]["lr"] = 1e39 if step == 2 else 0.1
        optimizer.step()
    return params


def a_flag_that_is_gone(library: Any) -> list[Tensor]:
    params = parameters(7)
    optimizer = library.SGD(params, lr=0.1)
    for step in range(4):
        with_gradients(params)
        if step == 2:
            del optimizer.param_groups[0]["foreach"]
        optimizer.step()
    return params


def memory_that_is_not_aligned(library: Any) -> list[Tensor]:
    memory = bytearray(range(1, 42))
    param = torch.frombuffer(memory, dtype=torch.float32, count=9, offset=1).requires_grad_()
    optimizer = library.SGD([param], lr=0.1)
    for _ in range(3):
        with_gradients([param])
        optimizer.step()
    return [param]


PROGRAMS = [
    gradients_that_are_nowhere,
    parameters_negated_in_place,
    state_negated_in_place,
    parameters_with_gaps_in_shared_memory,
    a_gradient_in_a_parameter_with_gaps,
    a_parameter_in_front_that_raises,
    a_step_count_shared_by_two_groups,
    whole_step_counts,
    fractions_of_steps,
    step_counts_of_several_elements,
    rates_that_float32_cannot_hold,
    a_flag_that_is_gone,
    memory_that_is_not_aligned,
]


REFUSED: dict[Callable[[Any], list[Tensor]], type[Exception]] = {
    step_counts_of_several_elements: RuntimeError,
    rates_that_float32_cannot_hold: RuntimeError,
    a_flag_that_is_gone: KeyError,
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_an_odd_program_ends_as_with_torch(program: Callable[[Any], list[Tensor]]) -> None:
    both(program, REFUSED.get(program))


def test_a_hook_that_a_closure_registers_is_called() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optimlab.SGD([param], lr=0.1)
    called = []

    def closure() -> float:
        param.grad = torch.ones(3)
        optimizer.register_step_post_hook(lambda *_: called.append(True))
        return 0.0

    optimizer.step(closure)
    assert called == [True]


def test_a_refused_step_moves_no_version_counter_of_another_group() -> None:
    params = parameters(3, 4)
    groups = [{"params": param, "betas": (0.9, 0.99)} for param in params]
    optimizer = optimlab.Adam(groups)
    for _ in range(2):
        with_gradients(params)
        optimizer.step()
    before = [param._version for param in params]
    optimizer.param_groups[0]["betas"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    assert [param._version for param in params] == before


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_gradients_die_with_zero_grad(name: str) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = getattr(optimlab, name)([param], lr=0.1)
    for _ in range(3):
        param.grad = torch.ones(3)
        optimizer.step()
    assert param.grad is not None
    gradient = weakref.ref(param.grad)
    optimizer.zero_grad()
    assert gradient() is None


def test_steps_leave_nothing_for_the_garbage_collector() -> None:
    params = parameters(3, 4)
    optimizer = optimlab.Adam(params)
    for _ in range(3):
        with_gradients(params)
        optimizer.step()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            with_gradients(params)
            optimizer.step()
        assert gc.collect() == 0
    finally:
        gc.enable()


FIRST_STEPS = """
import threading, torch, optimlab
torch.set_num_threads(1)
together, ends = threading.Barrier(4), [None] * 4
starts = [torch.rand(5000) for _ in range(4)]
def train(package, place):
    param = starts[place].clone().requires_grad_()
    optimizer = package.Adam([param])
    if package is optimlab:
        together.wait()
    for step in range(6):
        param.grad = starts[place] - 0.1 * step
        optimizer.step()
    return param.detach()
def work(place):
    ends[place] = train(optimlab, place)
threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
assert all(torch.equal(ends[place], train(torch.optim, place)) for place in range(4))
from optimlab.native.self_check import capabilities
assert "not ATen's bits" not in capabilities().reason, capabilities().reason
"""


def test_threads_may_make_their_first_steps_together() -> None:
    subprocess.run([sys.executable, "-c", FIRST_STEPS], check=True, timeout=120)


FAKE_FIRST = """
import torch, optimlab
import torch._subclasses
with torch._subclasses.FakeTensorMode():
    param = torch.ones(3, requires_grad=True)
    optimizer = optimlab.Adam([param])
    for _ in range(2):
        param.grad = torch.ones(3)
        optimizer.step()
"""


def test_the_first_step_of_a_process_may_be_one_on_fake_tensors() -> None:
    subprocess.run([sys.executable, "-c", FAKE_FIRST], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.skipif(capabilities().kernel is None, reason="there is no native kernel here")
def test_a_forked_process_goes_on_stepping() -> None:
    program = (
        "import os, signal, torch, optimlab\n"
        "torch.set_num_threads(2)\n"
        "params = [torch.ones(2000, requires_grad=True) for _ in range(100)]\n"
        "optimizer = optimlab.SGD(params, lr=0.1)\n"
        "def step():\n"
        "    for param in params: param.grad = torch.ones(2000)\n"
        "    optimizer.step()\n"
        "step(); step()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(60); step(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)
