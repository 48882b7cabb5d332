"""How much memory a step needs, at its peak, besides parameters, gradients and state.

On CPU the operating system is asked, so that everything counts: temporaries of torch, buffers of a
library, Python's objects. No sampling is involved: Linux keeps the high-water mark of a process's
resident memory (``VmHWM``) and sets it back on request (``/proc/self/clear_refs``). Two things make
the number that of the step. It is measured in a new process, whose allocator gives back whatever is
freed at once (glibc, for allocations of 64 KiB and more, when told so by the environment), so that
no temporary of an earlier step is still there to be used again. And a small optimizer of the same
kind steps first, so that code and threads are there and checks at first use are done.

On CUDA torch's allocator keeps the same two numbers, and they are asked from it.

``python -m optimlab.bench.memory`` reads a request from its standard input and prints the answer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from optimlab.bench.implementations import IMPLEMENTATIONS, Run, Values
from optimlab.bench.rules import RULES
from optimlab.bench.workloads import Workload

#: Python's objects for a tensor and its state take 2 to 3 KiB, counted as kept: on workloads
#: smaller than this one they would be most of what is found.
LEAST_ELEMENTS = 4_000_000

#: How glibc is told to give freed memory back.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_WARM_UP = Workload("Warm-up", ((300, 300),) * 3)
_STEPS = 3


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        workload: the shapes of the parameters.
        rule: key of ``RULES``.
        implementations: keys of ``IMPLEMENTATIONS``.
        threads: number of threads.
        device: ``"cpu"`` or ``"cuda"``.
    """

    workload: Workload
    rule: str
    implementations: Sequence[str]
    threads: int
    device: str


@dataclass(frozen=True)
class Extra:
    """Memory beyond parameters, gradients and state, in bytes.

    Attributes:
        kept: what is there between two steps.
        peak: what is there at the peak of a step, ``kept`` included.
    """

    kept: int
    peak: int


def available(device: str) -> str:
    """Return why memory cannot be measured here, if so."""
    if device == "cuda" or os.access(_CLEAR, os.W_OK):
        return ""
    return "peak memory is measured through Linux's /proc/self/clear_refs, which is not here"


def measure(request: Request) -> dict[str, Extra]:
    """Measure in a new process.

    Returns:
        What was found, by implementation.

    Raises:
        RuntimeError: if the process failed; the message holds what it wrote to standard error.
    """
    finished = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=json.dumps(asdict(request)),
        env={**os.environ, **GIVE_BACK},
        check=False,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise RuntimeError(f"could not measure the peak memory of a step:\n{finished.stderr}")
    found: dict[str, dict[str, int]] = json.loads(finished.stdout)
    return {name: Extra(**extra) for name, extra in found.items()}


def main() -> None:
    """Answer the request on standard input."""
    asked = json.load(sys.stdin)
    asked["workload"] = Workload(asked["workload"]["title"], _shapes(asked["workload"]["shapes"]))
    request = Request(**asked)
    torch.set_num_threads(request.threads)
    answer = {name: asdict(_measure_one(request, name)) for name in request.implementations}
    print(json.dumps(answer))


def _shapes(shapes: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(shape) for shape in shapes)


def _measure_one(request: Request, name: str) -> Extra:
    used, peak_of = (_used_cuda, _peak_cuda) if request.device == "cuda" else (_used, _peak)
    _stepped(request, name, _WARM_UP)
    before = used()
    run = _stepped(request, name, request.workload)
    kept = used() - before - _live_bytes(run, request.device)
    return Extra(kept, kept + peak_of(run.step))


def _stepped(request: Request, name: str, workload: Workload) -> Run:
    """Step until the state is there and whatever is done once has been done."""
    values = Values(workload, request.device)
    run = Run(IMPLEMENTATIONS[name], RULES[request.rule], values.start)
    run.take([gradient.clone() for gradient in values.gradients[0]])
    for _ in range(_STEPS):
        run.step()
    return run


def _live_bytes(run: Run, device: str) -> int:
    gradients = [param.grad for param in run.params if param.grad is not None]
    live = [*run.tensors().values(), *gradients]
    return sum(tensor.nbytes for tensor in live if tensor.device.type == device)


def _used() -> int:
    gc.collect()
    # What lies free at the end of the heap; every C library but glibc is left as it is.
    trim: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", int)
    trim(0)
    return _status("VmRSS")


def _peak(step: Callable[[], object]) -> int:
    before = _used()
    _CLEAR.write_text("5", encoding="ascii")
    step()
    return _status("VmHWM") - before


def _status(entry: str) -> int:
    found = re.search(rf"^{entry}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{_STATUS} has no entry {entry}")
    return 1024 * int(found[1])


def _used_cuda() -> int:
    gc.collect()
    return torch.cuda.memory_allocated()


def _peak_cuda(step: Callable[[], object]) -> int:
    before = _used_cuda()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
