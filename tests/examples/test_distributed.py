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

ROOT = Path(__file__).parents[2]
TOGETHER = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))


@dataclass(frozen=True)
class Finished:
    """What two processes have left in a directory, what they said, and how they ended."""

    directory: Path
    said: str
    returncode: int


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Save as one process, then let two carry out every check."""
    directory = tmp_path_factory.mktemp("two-processes")
    save_alone(directory)
    return Finished(directory, *run_together(directory))


def save_alone(directory: Path) -> None:
    """Train in one process and save."""
    for library in LIBRARIES:
        for name in NAMES:
            run = alone(Choice(library, name)).train(range(HALF))
            example.save(run.model, run.optimizer, directory / f"one-{name}-{library}")
            torch.save(run.reached(), directory / f"one-{name}-{library}.pt")


def run_together(directory: Path) -> tuple[str, int]:
    """Carry out the checks in two processes; return what they printed and the exit status."""
    paths = [ROOT / "tests" / "support", ROOT / "examples", ROOT]
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
    return said, process.returncode


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


def test_the_example_ends_well_as_a_program(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, example.__file__, "--steps", "3", "--out", str(tmp_path)]
    ended = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr
    *_, fingerprint, last = ended.stdout.splitlines()
    assert fingerprint.startswith("SHA-256 of the result: ")
    assert last.startswith("Shown: copies stay equal")


@pytest.mark.parametrize("devices", [0, 1])
def test_fewer_gpus_than_processes_are_refused(
    devices: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit) as ending:
        example.main(["--device", "cuda"])
    assert ending.value.code == 2
    expected = ("there is no CUDA device here", "takes a GPU for each process")[devices]
    assert expected in capsys.readouterr().err
