"""Training on two processes, under DDP, FSDP2 and ZeRO: the bits of torch.optim.

All checks run in two processes that `torchrun` starts once; here their results are read. This
process is the one that loads what two have saved, and the other way round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from beside import NAMES, assert_equal
from chosen import Choice

pytest.importorskip("torch._C._distributed_c10d", reason="this torch is not distributed")
pytest.importorskip("sklearn", reason="the example's digits come with scikit-learn")
pytest.importorskip("matplotlib", reason="all examples can draw")
pytest.importorskip("rich", reason="all examples can show their progress")

import distributed as example
from engines.training import PROCESSES, alone
from engines.worker import CHECKS, HALF, LIBRARIES, PATIENCE, result_of

ROOT = Path(__file__).parent.parent
TOGETHER = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))


@dataclass(frozen=True)
class Finished:
    """What two processes have left in a directory, and what they said."""

    directory: Path
    said: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Save as one process, then let two carry out every check."""
    directory = tmp_path_factory.mktemp("two-processes")
    save_alone(directory)
    return Finished(directory, run_together(directory))


def save_alone(directory: Path) -> None:
    """Train in one process and save."""
    for library in LIBRARIES:
        for name in NAMES:
            run = alone(Choice(library, name)).train(range(HALF))
            example.save(run.model, run.optimizer, directory / f"one-{name}-{library}")
            torch.save(run.reached(), directory / f"one-{name}-{library}.pt")


def run_together(directory: Path) -> str:
    """Carry out the checks in two processes; return what they printed."""
    paths = [ROOT / "tests", ROOT / "examples", ROOT]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    command = [sys.executable, "-m", *TOGETHER, "-m", "engines.worker", str(directory)]
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=PATIENCE + 20)
        except subprocess.TimeoutExpired:
            process.terminate()  # which torchrun passes on; the workers give up by themselves
            said, _ = process.communicate(timeout=20)
    return said


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_get_the_same_bits(check: str, finished: Finished) -> None:
    for rank in range(PROCESSES):
        file = result_of(finished.directory, check, rank)
        if not file.exists():
            pytest.fail(f"process {rank} did not get there:\n{finished.said[-4000:]}")
        found = json.loads(file.read_text(encoding="utf-8"))
        assert found["differences"] == []
        assert found["elements"] > 50


@pytest.mark.parametrize("name", NAMES)
def test_one_process_loads_what_two_have_saved(name: str, finished: Finished) -> None:
    reached = []
    for library, source in (LIBRARIES, LIBRARIES[::-1]):
        run = alone(Choice(library, name), seed=1)
        example.load(
            run.model, run.optimizer, finished.directory / f"two-{name}-{source}", alone=True
        )
        kept = torch.load(finished.directory / f"two-{name}-{source}.pt")
        assert_equal(run.reached(), kept)
        reached.append(run.train(range(HALF)).seen())
    assert_equal(*reached)


def test_the_example_starts_two_processes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def note(command: list[str], **_: Any) -> Any:
        started.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", note)
    assert example.main(["--steps", "5"]) == 3
    assert started == [[sys.executable, "-m", *TOGETHER, example.__file__, "--steps", "5"]]
