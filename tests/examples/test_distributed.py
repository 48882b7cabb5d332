"""Training on two processes, under DDP, FSDP2 and ZeRO: the bits of torch.optim.

All checks run in two processes that `torchrun` starts once; here their results are read. This
process is the one that loads what two have saved, and the other way round.
"""

from __future__ import annotations

import json
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
from running import EXAMPLES, ROOT, misused, start

pytest.importorskip("torch._C._distributed_c10d", reason="this torch is not distributed")

import distributed as example
from engines.training import PROCESSES, alone
from engines.worker import CHECKS, HALF, LIBRARIES, PATIENCE, result_of

TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))


@dataclass(frozen=True)
class Finished:
    """What two processes have left in a directory, what they said, and how they ended."""

    directory: Path
    said: str
    returncode: int


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Train and save as one process, then let two execute every check."""
    directory = tmp_path_factory.mktemp("two-processes")
    for library in LIBRARIES:
        for name in NAMES:
            run = alone(Choice(library, name)).train(range(HALF))
            example.save(run.model, run.optimizer, directory / f"one-{name}-{library}")
            torch.save(run.reached(), directory / f"one-{name}-{library}.pt")
    worker = (*TOGETHER, "-m", "engines.worker", str(directory))
    paths = (ROOT / "tests" / "support", EXAMPLES)
    ended = start(*worker, folder=directory, paths=paths, patience=PATIENCE + 20)
    return Finished(directory, ended.stdout + ended.stderr, ended.returncode)


def test_both_processes_end_without_an_error(finished: Finished) -> None:
    assert finished.returncode == 0, finished.said[-4000:]


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_get_the_same_bits(check: str, finished: Finished) -> None:
    for rank in range(PROCESSES):
        file = result_of(finished.directory, check, rank)
        if not file.exists():
            pytest.fail(f"process {rank} did not get there:\n{finished.said[-4000:]}")
        found = json.loads(file.read_text(encoding="utf-8"))
        assert found["differences"] == []
        assert found["elements"] > 50
        assert found["libraries"] == ["optimlab", "torch"]


@pytest.mark.parametrize("name", NAMES)
def test_one_process_loads_what_two_have_saved(name: str, finished: Finished) -> None:
    reached = []
    for library, source in (LIBRARIES, LIBRARIES[::-1]):
        run = alone(Choice(library, name), seed=1)
        saved = finished.directory / f"two-{name}-{source}"
        example.load(run.model, run.optimizer, saved, alone=True)
        assert_equal(run.reached(), torch.load(f"{saved}.pt"))
        reached.append(run.train(range(HALF)).seen())
    assert_equal(*reached)


def test_the_example_starts_two_processes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def note(command: list[str], **_: Any) -> Any:
        started.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", note)
    assert example.main(["--steps", "5"]) == 3
    assert started == [[sys.executable, *TOGETHER, example.__file__, "--steps", "5"]]


def test_the_example_ends_well_as_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert example.main(["--steps", "3", "--out", str(tmp_path)]) == 0
    *_, fingerprint, last = capfd.readouterr().out.splitlines()
    assert fingerprint.startswith("SHA-256 of the result: ")
    assert last.startswith("Shown: copies stay equal")


@pytest.mark.parametrize("devices", [0, 1])
def test_fewer_gpus_than_processes_are_refused(
    devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with misused() as complaint:
        example.main(["--device", "cuda"])
    expected = ("there is no CUDA device here", "takes a GPU for each process")[devices]
    assert expected in complaint.getvalue()
