"""A replayed step: few calls, torch's bits, and nothing that it leaves behind."""

import copy
import gc
import sys
import weakref
from sys import getrefcount
from typing import Any

import pytest
import torch
from beside import one_thread  # noqa: F401 - applies to every test here
from torch.utils._python_dispatch import TorchDispatchMode
from twins import Run, Twins, names, needs_kernel, starts

import optimlab
from optimlab.lab.parity import compare_tensors
from optimlab.native.launch import DTYPES, SINGLE_THREAD_LIMIT

pytestmark = needs_kernel


@names
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_rule_is_served_to_the_bits_of_torch(
    name: str, dtype: torch.dtype, threads: int
) -> None:
    torch.set_num_threads(threads)
    twins = Twins(name, starts(dtype))
    for _ in range(3):
        twins.step(2)
        assert twins.ours.is_cached


@names
def test_large_tensors_are_gone_through_by_several_threads(name: str) -> None:
    torch.set_num_threads(2)
    twins = Twins(name)
    generator = torch.Generator().manual_seed(3)
    large = [
        torch.randn(size, generator=generator) for size in (525_288, SINGLE_THREAD_LIMIT + 5, 3)
    ]

    def add(run: Run) -> None:
        added = [value.clone().requires_grad_() for value in large]
        run.params += added
        run.optimizer.add_param_group({"params": added, "lr": 0.5})

    twins.both(add)
    twins.step(3)
    assert twins.ours.is_cached


@names
def test_a_repeated_step_is_few_calls_of_python(name: str) -> None:
    run = Twins(name, [torch.ones(4)] * 3).ours
    run.step(6)
    run.take_gradients()
    calls: list[str] = []
    deepest, depth = 0, 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal depth, deepest
        if event == "call":
            calls.append(frame.f_code.co_name)
            depth += 1
            if calls[-1] == "_run":  # which makes the one call into C
                deepest = depth
        elif event == "return":
            depth -= 1

    sys.setprofile(count)
    run.optimizer.step()
    sys.setprofile(None)
    assert deepest == 4
    assert 8 < len(calls) <= 17, calls


@names
def test_autograd_notices_that_what_it_saved_is_gone(name: str) -> None:
    run = Twins(name).ours
    run.step(2)
    before = [value._version for value in run.state(2).values()]
    loss = (run.params[2] * run.params[2]).sum()
    run.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    after = [value._version for value in run.state(2).values()]
    assert all(new > old for new, old in zip(after, before, strict=True))


@names
def test_a_step_that_is_refused_leaves_the_version_counters(name: str) -> None:
    """Also those of the other group."""
    run = Twins(name).ours
    run.params.append(torch.ones(3, requires_grad=True))
    run.optimizer.add_param_group({"params": run.params[-1]})
    run.step(3)
    tensors = [*run.params, *run.state(2).values()]
    before = [tensor._version for tensor in tensors]
    for place in (0, 1):
        group = run.optimizer.param_groups[place]
        lr, group["lr"] = group["lr"], None
        with pytest.raises(TypeError):
            run.optimizer.step()
        assert [tensor._version for tensor in tensors[:-2]] == before[:-2] or place
        group["lr"] = lr


@names
def test_gradients_are_not_kept_alive(name: str) -> None:
    run = Twins(name).ours
    run.step(3)
    held: list[Any] = [param.grad for param in run.params]
    before = [getrefcount(grad) for grad in held]
    run.optimizer.step()
    assert [getrefcount(grad) for grad in held] == before
    references = [weakref.ref(grad) for grad in held]
    del held
    run.optimizer.zero_grad()
    assert [reference() for reference in references] == [None] * len(references)


def test_steps_leave_nothing_for_the_garbage_collector() -> None:
    run = Twins("Adam").ours
    run.step(3)
    gc.collect()
    gc.disable()
    try:
        run.step(20)
        assert gc.collect() == 0
    finally:
        gc.enable()


@names
def test_what_intercepts_operations_sees_them(name: str) -> None:
    class Counting(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.operations += 1
            return func(*args, **(kwargs or {}))

    run = Twins(name).ours
    run.step(2)
    with Counting() as counting:  # type: ignore[no-untyped-call]
        run.optimizer.step()
    assert counting.operations > len(run.params)


def test_an_optimizer_that_is_pickled_with_all_its_attributes_goes_on_stepping() -> None:
    class Whole(optimlab.Adam):
        """An optimizer whose copies take everything along."""

        def __getstate__(self) -> dict[str, Any]:
            return self.__dict__

    param = torch.linspace(-1, 1, 6).requires_grad_()
    optimizer = Whole([param])
    for _ in range(3):
        param.grad = torch.ones(6)
        optimizer.step()
    twin = copy.deepcopy(optimizer)
    (other,) = twin.param_groups[0]["params"]
    for one in (optimizer, twin):
        one.param_groups[0]["params"][0].grad = torch.ones(6)
        one.step()
    assert compare_tensors(param.detach(), other.detach()) is None


def test_what_is_the_users_own_is_asked_at_every_step() -> None:
    class Careful(optimlab.Adam):
        asked = 0

        def check(self, batch: Any) -> None:
            self.asked += 1
            super().check(batch)

    param = torch.ones(4, requires_grad=True)
    optimizer = Careful([param])
    for _ in range(3):
        param.grad = torch.ones(4)
        optimizer.step()
    assert optimizer.asked == 3


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


def test_a_step_count_shared_by_two_groups_counts_for_both() -> None:
    def program(run: Run) -> None:
        run.state(1)["step"] = run.state(0)["step"]

    twins = Twins("Adam", [torch.ones(7)])
    twins.both(lambda run: run.params.append(torch.ones(8, requires_grad=True)))
    twins.both(lambda run: run.optimizer.add_param_group({"params": run.params[1], "lr": 0.5}))
    twins.step(2)
    twins.both(program)
    twins.step(4)
