"""Programs that made, or could make, the native kernel crash or calculate otherwise than torch.

Each runs in a process of its own, with optimlab and then with torch, and must end alike.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch

from optimlab.native import library
from optimlab.native.library import Kernel, UnusableError
from optimlab.native.self_check import capabilities

FOUND = capabilities()
needs_kernel = pytest.mark.skipif(FOUND.kernel is None, reason=FOUND.reason)
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")
ROOT = Path(__file__).parents[2]
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


def outputs(program: str, **environment: str) -> list[str]:
    """Run a program with either library, in one process, and return what they print."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HEAD + indent(program, "    ") + TAIL],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return ran.stdout.split("|")[1:]


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
    "a handler moves the second group's parameter": """
big, small = torch.zeros(3_000_000).requires_grad_(), torch.zeros(300_000).requires_grad_()
optimizer = library.SGD([{"params": [big]}, {"params": [small]}], lr=1.0)
big.grad, small.grad = torch.ones_like(big), torch.ones_like(small)
for _ in range(3):
    optimizer.step()
def handler(*_):
    small.data = small.data.clone()
signal.signal(signal.SIGALRM, handler)
for _ in range(5):
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    optimizer.step()
    small.data.share_memory_()
print(small[0].item(), big[0].item())
""",
    "a handler moves a parameter of another dtype": """
big = torch.zeros(3_000_000).requires_grad_()
small = torch.zeros(300_000, dtype=torch.float64).requires_grad_()
optimizer = library.Adam([big, small], lr=1.0)
big.grad, small.grad = torch.ones_like(big), torch.ones_like(small)
for _ in range(3):
    optimizer.step()
def handler(*_):
    small.data = small.data.clone()
signal.signal(signal.SIGALRM, handler)
for _ in range(5):
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    optimizer.step()
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
    "a thread with a small stack": """
def work():
    for name in ("SGD", "Adam"):
        params = [torch.ones(5000, dtype=dtype, requires_grad=True)
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
""",
    "workers with a small stack": """
torch.set_num_threads(2)
params = [torch.ones(200_000, dtype=dtype, requires_grad=True)
          for dtype in (torch.float32, torch.float64)]
optimizer = library.Adam(params, lr=0.1)
for step in range(5):
    for param in params:
        param.grad = torch.full_like(param, 0.3, requires_grad=False)
    optimizer.step()
print(params[0].sum().item(), params[1].sum().item())
""",
}


@needs_kernel
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_ends_as_with_torch(program: str) -> None:
    ours, theirs = outputs(program, OMP_STACKSIZE="16k")
    assert ours == theirs
    assert ours


class Doubled(torch.Tensor):
    """A tensor that adds twice."""

    def add_(self, other: Any, *, alpha: Any = 1) -> Any:
        return super().add_(other, alpha=2 * alpha)

    def mul_(self, other: Any) -> Any:
        return super().mul_(2 * other)


@needs_kernel
@pytest.mark.parametrize("of_state", [False, True], ids=["parameter", "state"])
def test_a_tensor_that_is_given_another_class_is_noticed(of_state: bool) -> None:
    import optimlab

    ends = []
    for package in (optimlab, torch.optim):
        param = torch.ones(5, requires_grad=True)
        optimizer: Any = package.SGD([param], lr=0.1, momentum=0.5)
        for step in range(9):
            if step == 5:
                changed = optimizer.state[param]["momentum_buffer"] if of_state else param
                changed.__class__ = Doubled
                del changed
            param.grad = torch.full((5,), 0.5)
            optimizer.step()
        ends.append([float(number) for number in param.detach()])
    assert ends[0] == ends[1]


def built(folder: Path, source: str, *flags: str) -> Path:
    """Compile a library."""
    path = folder / "library.so"
    (folder / "source.c").write_text(source, encoding="utf-8")
    command = ["gcc", "-shared", "-fPIC", *flags, str(folder / "source.c"), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


def cut_off(folder: Path) -> Path:
    assert FOUND.kernel is not None
    path = folder / "cut.so"
    whole = FOUND.kernel.path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def text(folder: Path) -> Path:
    path = folder / "text.so"
    path.write_text("no library", encoding="utf-8")
    return path


STUB = "int optimlab_version(void) {{ return {}; }}"
LIBRARIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "text": (text, "could not be loaded"),
    "cut off": (cut_off, "is cut off"),
    "missing": (lambda folder: folder / "missing.so", "could not be loaded"),
    "older": (lambda folder: built(folder, STUB.format(1)), "is of version 1"),
    "foreign": (lambda folder: built(folder, "int f(void) { return 1; }"), "is no library"),
    "incomplete": (lambda folder: built(folder, STUB.format(library.VERSION)), "is no library"),
}


@needs_kernel
@needs_compiler
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_none_of_ours_is_refused(name: str, tmp_path: Path) -> None:
    make, says = LIBRARIES[name]
    with pytest.raises(UnusableError, match=says):
        Kernel(make(tmp_path))


@needs_kernel
def test_a_library_that_is_refused_is_named_and_left_unused(tmp_path: Path) -> None:
    program = (
        "import optimlab, torch\n"
        "param = torch.ones(3, requires_grad=True)\n"
        "param.grad = torch.ones(3)\n"
        "for _ in range(3): optimlab.SGD([param], lr=0.5).step()\n"
        "print(param.tolist(), optimlab.info())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, library.VARIABLE: str(cut_off(tmp_path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "[-0.5, -0.5, -0.5]" in ran.stdout
    assert "is cut off" in ran.stdout
    assert "no native kernel" in ran.stdout


@needs_compiler
def test_a_library_that_changes_arithmetic_is_refused_and_arithmetic_restored(
    tmp_path: Path,
) -> None:
    path = built(tmp_path, STUB.format(library.VERSION), "-Ofast")
    tiny, one = float("4e-320"), float("1")
    with pytest.raises(UnusableError, match="changed how this process calculates"):
        Kernel(path)
    assert (tiny * one).hex() == tiny.hex()
    assert (torch.tensor([1e-40]) * 1).view(torch.int32).item() != 0


def test_a_capability_that_the_processor_lacks_leaves_the_kernel_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if FOUND.kernel is None:
        pytest.skip(FOUND.reason)
    from optimlab.native import self_check

    monkeypatch.setattr(Kernel, "processor", lambda self: 0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(UnusableError, match="AVX512, which this processor lacks"):
        self_check._loaded()


FLAGS = {
    "fast mathematics": {"CFLAGS": "-Ofast -mrecip -fsingle-precision-constant"},
    "unsafe mathematics, and everything of this processor": {
        "CFLAGS": "-ffast-math -march=native -ffp-contract=fast"
    },
    "no optimization": {"CFLAGS": "-O0"},
    "clang": {"CC": "clang", "LDSHARED": "clang -shared"},
}
CHECKED = """
import sys
from pathlib import Path
from optimlab.native.library import Kernel
from optimlab.native.self_check import check
found = check(Kernel(Path(sys.argv[1])))
assert not found.reason, found.reason
assert len(found.joins) == 2
"""


@needs_kernel
@pytest.mark.parametrize("name", FLAGS)
def test_a_compiler_and_its_flags_do_not_change_the_bits(name: str, tmp_path: Path) -> None:
    compiler = FLAGS[name].get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    if FOUND.reason:
        pytest.skip(FOUND.reason)
    build = [sys.executable, "setup.py", "-q", "build_ext"]
    build += ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path / "objects")]
    environment = {**os.environ, **FLAGS[name]}
    subprocess.run(build, cwd=ROOT, env=environment, check=True, capture_output=True)
    (made,) = tmp_path.glob("optimlab/native/_kernel*")
    subprocess.run([sys.executable, "-c", CHECKED, str(made)], check=True, timeout=300)


def test_extra_precision_is_refused_by_the_compiler() -> None:
    if shutil.which("gcc") is None or os.uname().machine != "x86_64":
        pytest.skip("needs gcc and its flags for x86-64")
    source = str(ROOT / "optimlab/native/kernel/interpreter.c")
    command = ["gcc", "-fsyntax-only", "-mfpmath=387", source]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "extra precision" in refused.stderr
