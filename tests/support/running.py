"""The examples as a user runs them: through `main`, or as programs of their own.

A test file that imports this is skipped where a package is missing that all examples use.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from optimlab.demo.training import reproducible

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def need(*packages: str) -> None:
    """Skip, with a reason, where a package is missing."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


need("sklearn", "matplotlib", "rich")


@contextmanager
def stepping() -> Iterator[list[str]]:
    """Note the package of every optimizer that makes a step, of a wrapped one the inner one's."""
    libraries: list[str] = []

    def note(optimizer: Optimizer, *_: object) -> None:
        if not hasattr(optimizer, "optim"):
            libraries.append(type(optimizer).__module__.partition(".")[0])

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield libraries
    finally:
        hook.remove()


@dataclass(frozen=True)
class Finished:
    """A run of an example.

    Attributes:
        result: what its `run` returned.
        printed: what it printed.
        folder: where it wrote its files.
        libraries: the packages of all optimizers that made a step.
    """

    result: Any
    printed: str
    folder: Path
    libraries: set[str]

    @property
    def lines(self) -> list[str]:
        """What it printed, line by line."""
        return self.printed.splitlines()


def finish(name: str, folder: Path, *options: str) -> Finished:
    """Run an example through `main`."""
    example = importlib.import_module(name)
    results, run = [], example.run

    def watched(parsed: object) -> Any:
        results.append(run(parsed))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(example, "run", watched)
        with stepping() as libraries, reproducible(), torch.random.fork_rng():
            assert example.main([*options, "--out", str(folder)]) == 0
    return Finished(results[0], printed.getvalue(), folder, set(libraries))


@contextmanager
def misused() -> Iterator[StringIO]:
    """Expect an exit with status 2, and give what was complained."""
    with redirect_stderr(StringIO()) as complaint, pytest.raises(SystemExit) as ending:
        yield complaint
    assert ending.value.code == 2


def start(
    *arguments: str, folder: Path, paths: tuple[Path, ...] = (), patience: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with optimlab from this checkout."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patience,
    )
