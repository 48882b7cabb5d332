"""Programs that made, or could make, the kernel crash or calculate otherwise than torch.

Each runs in a process of its own.
"""

import os
from textwrap import indent

import pytest
from twins import needs_kernel, printed

HEAD = """
import ctypes, gc, multiprocessing, signal, sys, threading, time, torch, optimlab
def run(library):
    torch.set_num_threads(1)
"""
TAIL = """
for library in (optimlab, torch.optim):
    print("|")
    run(library)
"""
PROGRAMS = {
    "two threads step one optimizer at once": """
size = 2_000_000
param = torch.zeros(size).requires_grad_()
optimizer = library.SGD([param], lr=1.0)
for _ in range(2):
    param.grad = torch.zeros(size)
    optimizer.step()
def other():
    time.sleep(0.001)
    param.grad = ready.pop()
    optimizer.step()
for _ in range(6):
    param.grad, ready = torch.ones(size), [torch.ones(size)]
    thread = threading.Thread(target=other)
    thread.start()
    optimizer.step()
    thread.join()
print(param[0].item(), param[-1].item())
""",
    "a handler moves a parameter of another group, and one of another dtype": """
for name, dtype in (("SGD", torch.float32), ("Adam", torch.float64)):
    big = torch.zeros(3_000_000).requires_grad_()
    small = torch.zeros(300_000, dtype=dtype).requires_grad_()
    groups = [{"params": [big]}, {"params": [small]}]
    optimizer = getattr(library, name)(groups if name == "SGD" else [big, small], lr=1.0)
    big.grad, small.grad = torch.ones_like(big), torch.ones_like(small)
    for _ in range(3):
        optimizer.step()
    def handler(*_):
        small.data = small.data.clone()
    signal.signal(signal.SIGALRM, handler)
    for _ in range(5):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        optimizer.step()
        if name == "SGD":
            small.data.share_memory_()
    print(small[0].item(), big[0].item())
""",
    "a thread moves state that it held, and lets go of it": """
generator = torch.Generator().manual_seed(1)
big = torch.randn(3_000_000, generator=generator).requires_grad_()
small = torch.randn(1000, generator=generator).requires_grad_()
optimizer = library.SGD([small, big], lr=0.1, momentum=0.9)
g, h = torch.ones_like(big), torch.randn(1000, generator=generator)
def step():
    big.grad, small.grad = g, h
    optimizer.step()
for _ in range(4):
    step()
    step()
    box = [optimizer.state[small]["momentum_buffer"]]
    step()
    def move():
        time.sleep(0.001)
        tensor = box.pop()
        tensor.share_memory_()
    thread = threading.Thread(target=move)
    thread.start()
    step()
    thread.join()
    buffer = vars(optimizer)["state"][small]["momentum_buffer"]
    want = buffer * 0.9 + h
    del buffer
    step()
    print(torch.equal(vars(optimizer)["state"][small]["momentum_buffer"], want))
print(small.sum().item(), big.sum().item())
""",
    "state goes to another process through a queue": """
def receive(queue, back):
    for _ in range(6):
        queue.get()
        back.put(1)
context = multiprocessing.get_context("fork")
queue, back = torch.multiprocessing.get_context("fork").Queue(), context.Queue()
process = context.Process(target=receive, args=(queue, back))
process.start()
params = [torch.ones(5000, requires_grad=True) for _ in range(20)]
optimizer = library.Adam(params, lr=0.1)
for step in range(48):
    for param in params:
        param.grad = torch.full((5000,), 0.1 * step)
    optimizer.step()
    if step % 8 == 7:
        queue.put({k: dict(v) for k, v in optimizer.state_dict()["state"].items()})
        back.get()  # its own feeder has sent it by now: torch itself crashes where it has not
process.join()
print(sum(param.double().sum().item() for param in params))
""",
    "workers were born while denormals were flushed": """
torch.set_num_threads(2)
torch.set_flush_denormal(True)
torch.ones(1_000_000).add_(1)
torch.set_flush_denormal(False)
params = [torch.full((400,), 1e-39).requires_grad_() for _ in range(200)]
params.append(torch.full((100_000,), 1e-39).requires_grad_())
optimizer = library.SGD(params, lr=0.5)
for _ in range(4):
    for param in params:
        param.grad = torch.full_like(param, 1e-40, requires_grad=False)
    optimizer.step()
print(sum(int((param == 0).sum()) for param in params), params[0][0].item())
""",
    "the processor rounds upwards": """
mathematics = ctypes.CDLL(None)
generator = torch.Generator().manual_seed(1)
for name in ("SGD", "Adam", "AdamW", "RMSprop"):
    for around in (True, False):
        params = [torch.randn(1001, generator=generator).requires_grad_() for _ in range(3)]
        optimizer = getattr(library, name)(params, weight_decay=0.1)
        for step in range(9):
            for param in params:
                param.grad = torch.randn(1001, generator=generator)
            if step > 3 and (around or step > 6):
                mathematics.fesetround(0x800)
            optimizer.step()
            if around:
                mathematics.fesetround(0)
        mathematics.fesetround(0)
        print(name, [hash(tuple(param.tolist())) for param in params])
""",
    "threads and workers with small stacks": """
def work(size=5000):
    for name in ("SGD", "Adam"):
        params = [torch.ones(size, dtype=dtype, requires_grad=True)
                  for dtype in (torch.float32, torch.float64)]
        optimizer = getattr(library, name)(params, lr=0.1)
        for step in range(5):
            for param in params:
                param.grad = torch.full_like(param, 0.3, requires_grad=False)
            optimizer.step()
        print(name, params[0].sum().item(), params[1].sum().item())
work()
threading.stack_size(65536)
thread = threading.Thread(target=work)
thread.start()
thread.join()
torch.set_num_threads(2)
work(200_000)
""",
}


@needs_kernel
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_ends_as_with_torch(program: str) -> None:
    """With optimlab, and then with torch, in one process."""
    ends = printed(HEAD + indent(program, "    ") + TAIL, OMP_STACKSIZE="16k")
    _, ours, theirs = ends.split("|")
    assert ours == theirs
    assert ours.strip()


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
FORKED = """
import os, signal, torch, optimlab
torch.set_num_threads(2)
params = [torch.ones(2000, requires_grad=True) for _ in range(100)]
optimizer = optimlab.SGD(params, lr=0.1)
def step():
    for param in params:
        param.grad = torch.ones(2000)
    optimizer.step()
step(); step()
child = os.fork()
if not child:
    signal.alarm(60); step(); os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(FIRST_STEPS, id="threads make their first steps together"),
        pytest.param(FAKE_FIRST, id="the first step is one on fake tensors"),
        pytest.param(
            FORKED,
            id="a forked process goes on stepping",
            marks=[needs_kernel, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")],
        ),
    ],
)
def test_a_program_ends_well(program: str) -> None:
    printed(program)
