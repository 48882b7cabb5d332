"""Threads and a signal handler may act on optimizers, and what goes wrong there is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="this system interrupts no program at given times"
)

CRASHES = """
import ctypes
from torch.optim import *
class SGD(SGD):
    def step(self):
        ctypes.string_at(0)
Adam = AdamW = RMSprop = SGD
"""
OTHER_BITS = """
from torch.optim import *
class SGD(SGD):
    def __init__(self, params, lr, **options):
        super().__init__(params, lr=lr * 1.0001)
Adam = AdamW = RMSprop = SGD
"""


def stress(library: str, seconds: float, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "tests" / "programs" / "stress.py"), "--library", library]
    return subprocess.run(
        [*program, "--seconds", str(seconds), "--seed", "7"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_threads_and_a_signal_handler_may_act_on_optimizers_that_step() -> None:
    done = stress("optimlab", 10)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step, while others act" in done.stdout


@pytest.mark.parametrize(
    ("module", "said"), [(CRASHES, "Segmentation fault"), (OTHER_BITS, "AssertionError: 7, thread")]
)
def test_a_crash_or_another_bit_fails_and_names_the_seed(
    module: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "planted.py").write_text(module, encoding="utf-8")
    done = stress("planted", 1, tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "in seed 7, own" in done.stderr
