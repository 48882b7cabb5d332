"""How much memory a step needs, at its peak, besides parameters, gradients and state.

On CPU the operating system is asked, so that everything counts: temporaries of torch, buffers of a
library, Python's objects. No sampling is involved: Linux keeps the high-water mark of a process's
resident memory (``VmHWM``) and sets it back on request (``/proc/self/clear_refs``). Two things make
the number that of the step. It is measured in a new process, whose allocator gives back whatever is
freed at once (glibc, for allocations of 64 KiB and more, when told so by the environment), so that
no temporary of an earlier step is still there to be used again. And a small optimizer of the same
kind steps first, so that code and threads are there and checks at first use are done.

On CUDA torch's allocator keeps the same two numbers, and they are asked from it.

``python -m optimlab.bench.memory`` reads a pickled request from its standard input and writes the
answer.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
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
class Extra:
    """Bytes beyond parameters, gradients and state, between two steps, and at the peak of one."""

    kept: int
    peak: int


@dataclass(frozen=True)
class Request:
    """What to measure: a rule on a workload, by several implementations."""

    workload: Workload
    rule: str
    implementations: Sequence[str]
    threads: int
    device: str

    def answer(self) -> dict[str, Extra]:
        """Measure here."""
        torch.set_num_threads(self.threads)
        return {name: self._extra(name) for name in self.implementations}

    def _extra(self, name: str) -> Extra:
        used, peak_of = (_used_cuda, _peak_cuda) if self.device == "cuda" else (_used, _peak)
        self._stepped(name, _WARM_UP)
        before = used()
        run = self._stepped(name, self.workload)
        gradients = [param.grad for param in run.params if param.grad is not None]
        live = [*run.tensors().values(), *gradients]
        live_bytes = sum(tensor.nbytes for tensor in live if tensor.device.type == self.device)
        kept = used() - before - live_bytes
        return Extra(kept, kept + peak_of(run.step))

    def _stepped(self, name: str, workload: Workload) -> Run:
        """Step until the state is there and whatever is done once has been done."""
        values = Values(workload, self.device)
        run = Run(IMPLEMENTATIONS[name], RULES[self.rule], values.start)
        run.take([gradient.clone() for gradient in values.gradients[0]])
        for _ in range(_STEPS):
            run.step()
        return run


def available(device: str) -> str:
    """Return why memory cannot be measured here, if so."""
    if device == "cuda" or os.access(_CLEAR, os.W_OK):
        return ""
    return "peak memory is measured through Linux's /proc/self/clear_refs, which is not here"


def measure(request: Request) -> dict[str, Extra]:
    """Measure in a new process, by implementation.

    Raises:
        RuntimeError: if the process failed; the message holds what it wrote to standard error.
    """
    finished = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=pickle.dumps(request),
        env={**os.environ, **GIVE_BACK},
        check=False,
        capture_output=True,
    )
    if finished.returncode:
        said = finished.stderr.decode(errors="replace")
        raise RuntimeError(f"could not measure the peak memory of a step:\n{said}")
    found: dict[str, Extra] = pickle.loads(finished.stdout)
    return found


def _used() -> int:
    gc.collect()
    # What lies free at the end of the heap; every C library but glibc is left as it is.
    trim: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", int)
    trim(0)
    used: int = psutil.Process().memory_info().rss
    return used


def _peak(step: Callable[[], object]) -> int:
    before = _used()
    _CLEAR.write_text("5", encoding="ascii")
    step()
    mark = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert mark is not None, "where there is clear_refs, there is the mark"
    return 1024 * int(mark[1]) - before


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
    # A request is read as one of the module by its own name, which is imported for it.
    request = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(request.answer()))
