"""Measuring what changes torch.optim's bits on a CPU, as the tables of ``docs/equivalence.md``.

Run it as a program; it prints the document::

    python -m optimlab.lab.explain.equivalence > docs/equivalence.md

Within one process each way to carry out a step is compared with the for-loop by
:func:`optimlab.explain`. What a process is started with (instruction set, threads, native kernel)
is compared by the parameters that such processes end with.
"""

from __future__ import annotations

import datetime
import io
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab import optimizers
from optimlab.lab.compare.bits import percent, tensor_distance
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.explain.explaining import explain
from optimlab.lab.explain.explanation import Explanation
from optimlab.lab.lockstep.clone import give_gradients
from optimlab.lab.lockstep.scenario import Scenario, TensorSpec
from optimlab.lab.parity.table import EXCLUSIONS
from optimlab.lab.record.registers import short
from optimlab.lab.report import table

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True},
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WAYS: Mapping[str, Mapping[str, Any]] = {
    "`foreach=True`": {"foreach": True},
    "`fused=True`": {"fused": True},
    "`differentiable=True`": {"differentiable": True},
    "a Tensor `lr`": {"lr": torch.tensor(0.01)},
}
STEPS = 10
# The first is large enough for two threads to share, and its halves are no whole vectors.
SIZES = ((40_001,), (33, 17), (7,))


@dataclass(frozen=True)
class Start:
    """What a process is started with.

    Attributes:
        title: in words.
        library: ``"torch.optim"`` or ``"optimlab"``.
        threads: how many threads torch uses.
        environment: variables.
        against: title of what is compared with; by default the first of :data:`STARTS`.
    """

    title: str
    library: str = "torch.optim"
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    against: str = "torch.optim, one thread"

    def parameters(self, steps: int = STEPS) -> dict[str, Tensor]:
        """Run all optimizers in a process that is started so, and return what they end with."""
        code = (
            f"import sys, torch; from {__spec__.name} import run;"
            f"torch.save(run({self.library!r}, {self.threads}, {steps}), sys.stdout.buffer)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **self.environment},
            capture_output=True,
            check=True,
        )
        loaded: dict[str, Tensor] = torch.load(io.BytesIO(ended.stdout), weights_only=True)
        return loaded


def _capability(name: str) -> Mapping[str, str]:
    return {"ATEN_CPU_CAPABILITY": name}


STARTS = (
    Start("torch.optim, one thread"),
    Start("`ATEN_CPU_CAPABILITY=avx512`", environment=_capability("avx512")),
    Start("`ATEN_CPU_CAPABILITY=avx2`", environment=_capability("avx2")),
    Start("`ATEN_CPU_CAPABILITY=default`", environment=_capability("default")),
    Start("two threads", threads=2),
    Start("optimlab", "optimlab"),
    Start("optimlab, two threads", "optimlab", 2, against="two threads"),
    Start("optimlab, `OPTIMLAB_NATIVE=0`", "optimlab", environment={"OPTIMLAB_NATIVE": "0"}),
    Start(
        "optimlab, `ATEN_CPU_CAPABILITY=default`",
        "optimlab",
        environment=_capability("default"),
        against="`ATEN_CPU_CAPABILITY=default`",
    ),
)


def document() -> Iterator[str]:
    """Measure everything and go through the document's parts."""
    yield INTRODUCTION.format(
        torch=torch.__version__,
        machine=_machine(),
        date=datetime.date.today().isoformat(),
        capability=torch.backends.cpu.get_cpu_capability(),
        steps=STEPS,
        options="; ".join(
            f"{name} {', '.join(f'`{key}={value}`' for key, value in options.items())}"
            for name, options in OPTIMIZERS.items()
        ),
        sizes=", ".join(" × ".join(map(str, size)) for size in SIZES),
    )
    torch.set_num_threads(1)
    yield _table(["optimizer", "instead of the for-loop", *map(short, DTYPES)], way_rows())
    for exclusion in EXCLUSIONS:
        if exclusion.applies:
            yield f"\n{exclusion}."
    yield STARTED_DIFFERENTLY
    yield _table(["started with", "compared with", "dtype", *OPTIMIZERS], start_rows())
    yield REST


def way_rows() -> Iterator[list[str]]:
    """Compare the ways to carry out a step with the for-loop, in one process."""
    for name, options in OPTIMIZERS.items():
        for way, change in WAYS.items():
            yield [name, way, *(way_cell(name, options, change, dtype) for dtype in DTYPES)]


def way_cell(
    name: str, options: Mapping[str, Any], change: Mapping[str, Any], dtype: torch.dtype
) -> str:
    """Compare one way with the for-loop: where they diverge, and why."""
    scenario = _scenario(dtype)
    loop = {"foreach": False, **options}
    changed = {**loop, **change}
    if {"fused", "differentiable"} & change.keys():
        del changed["foreach"]
    try:
        a, b = (_optimizer(torch.optim, name, each, scenario) for each in (loop, changed))
    except (TypeError, RuntimeError, ValueError):
        return "–"
    return cell(explain(a, b, steps=STEPS, gradients=lambda step: list(scenario.gradients(step))))


def cell(found: Explanation) -> str:
    """Put an explanation into a few words."""
    if found.equal or found.cause is None:
        return "same" if found.equal else f"step {found.step}: other bits"
    where = f"step {found.step}, `{found.tensors[0]}`"
    distance = found.distances.get(found.tensors[0])
    share = "" if distance is None else f", {percent(distance.share)}"
    kind = "cause not found" if found.cause.kind == "unknown" else found.cause.kind
    ending = " in the last elements" if found.cause.text.startswith("in the last elements") else ""
    return f"{where}: {kind}{ending}{share}"


def start_rows() -> Iterator[list[str]]:
    """Compare what differently started processes end with, dtypes that agree in one row."""
    ended = {start.title: start.parameters() for start in STARTS}
    for start in STARTS[1:]:
        base, other = ended[start.against], ended[start.title]
        rows: dict[tuple[str, ...], list[str]] = {}
        for dtype in map(short, DTYPES):
            keys = [f"{name} {dtype}" for name in OPTIMIZERS]
            rows.setdefault(tuple(_apart(base[k], other[k]) for k in keys), []).append(dtype)
        for cells, dtypes in rows.items():
            yield [start.title, start.against, ", ".join(dtypes), *cells]


def _apart(base: Tensor, other: Tensor) -> str:
    distance = tensor_distance(other, base)
    if not distance.differing:
        return "same"
    return f"{percent(distance.share)}, ≤ {float(distance.max_ulps or 0):.2g} ulp"


def run(library: str, threads: int, steps: int = STEPS) -> dict[str, Tensor]:
    """Step every optimizer of a library in every dtype; return the parameters, end to end."""
    torch.set_num_threads(threads)
    module: Any = optimizers if library == "optimlab" else torch.optim
    ended = {}
    for dtype in DTYPES:
        scenario = _scenario(dtype)
        for name, options in OPTIMIZERS.items():
            optimizer = _optimizer(module, name, {"foreach": False, **options}, scenario)
            params = parameters(optimizer)
            for step in range(1, steps + 1):
                give_gradients(params, list(scenario.gradients(step)))
                optimizer.step()
            ended[f"{name} {short(dtype)}"] = torch.cat([param.flatten() for param in params])
    return ended


def _scenario(dtype: torch.dtype) -> Scenario:
    return Scenario(tensors=tuple(TensorSpec(size, dtype) for size in SIZES))


def _optimizer(module: Any, name: str, options: Mapping[str, Any], scenario: Scenario) -> Optimizer:
    made: Optimizer = getattr(module, name)(scenario.start(), **options)
    return made


def _machine() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - no regular file
            models = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table(titles, rows, markdown=True, left=len(titles))


INTRODUCTION = """\
# What changes an optimizer's bits

A step is arithmetic that is rounded, and what rounds differently ends in other bits. Another
implementation may, another instruction set, another number of threads: these tables say which do,
for torch.optim's optimizers and, below, for optimlab's. They are measured, not derived:

    python -m optimlab.lab.explain.equivalence > docs/equivalence.md

prints this page for your machine. Measured here: torch {torch}, CPU capability {capability}, on
{machine}, {date}; {steps} steps with the same gradients, parameters of {sizes} elements.

## Within one process

Each implementation of a step, compared with `foreach=False` by `optimlab.explain`. A cell that is
not "same" says after which step bits differ, in which tensor first, what makes the difference as
far as experiments tell, and in which share of that tensor's elements. "–": torch refuses it.
`capturable=True` is for CUDA graphs, torch refuses it on CPU. What is the same here need not be so
with other hyperparameters, gradients or more steps. Hyperparameters: {options}.
"""
STARTED_DIFFERENTLY = """
## Between processes

What a process is started with, compared with torch's for-loop on one thread, or with what stands
beside it: the share of the parameters' elements that end with other bits, and the largest distance.
An instruction set changes torch's bits and optimlab's alike.
"""
REST = """
## Not measured

CUDA: no device was at hand. Other releases of torch: `python -m nox -s torch-matrix` compares
optimlab with the torch that is installed, and so tells whether the pair agrees, not whether two
releases do.

`optimlab explain torch.optim:Adam torch.optim:Adam --options-b fused=True` shows any of these cells
at length: both sequences of operations, the numbers and bits at the first element that differs, and
the experiment that names the cause."""

if __name__ == "__main__":
    for part in document():
        print(part, flush=True)
