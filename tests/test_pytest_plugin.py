"""The pytest plugin: what its fixture asserts, and that it costs nothing where it is not used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TESTS = """
import sys
import optimlab, pytest, torch

SMALL = {"quick": True, "dtypes": ["float32"], "implementations": ["for-loop"]}

def test_equal(optimizer_parity):
    assert optimizer_parity(optimlab.SGD, torch.optim.SGD, **SMALL).equal

def test_different(optimizer_parity):
    optimizer_parity(torch.optim.Adam, torch.optim.AdamW, options={"weight_decay": 0.1}, **SMALL)

def test_nothing(optimizer_parity):
    optimizer_parity(torch.optim.Muon, torch.optim.Muon, quick=True)
"""

UNUSED = """
import sys

def test_without_it():
    assert "pytest_optimlab" in sys.modules
    assert not {"torch", "optimlab", "numpy"} & set(sys.modules)
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in another process, with the plugin as an installed optimlab brings it."""
    shutil.copy(ROOT / "optimlab" / "pytest_plugin" / "__init__.py", folder / "pytest_optimlab.py")
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT))),
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    plugins = ("-p", "pytest_optimlab", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins, *options]
    return subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )


def test_the_fixture_passes_what_is_equal_and_fails_the_rest_with_the_report(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS, encoding="utf-8")
    finished = run_pytest(tmp_path, "-rA")
    assert finished.returncode == 1
    results = re.findall(r"^(PASSED|FAILED) test_mine\.py::(\w+)", finished.stdout, re.MULTILINE)
    assert dict(map(reversed, results)) == {
        "test_equal": "PASSED",
        "test_different": "FAILED",
        "test_nothing": "FAILED",
    }
    assert "torch.optim.Adam beside torch.optim.AdamW, bit by bit" in finished.stdout
    assert "NothingCompared: there is no configuration" in finished.stdout
    assert "pytest_optimlab.py:" not in finished.stdout  # the report, not a traceback through it


def test_loading_the_plugin_imports_neither_torch_nor_optimlab(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(UNUSED, encoding="utf-8")
    finished = run_pytest(tmp_path)
    assert finished.returncode == 0, finished.stdout


def test_the_fixture_explains_itself(tmp_path: Path) -> None:
    finished = run_pytest(tmp_path, "--fixtures")
    assert "optimizer_parity" in finished.stdout
    assert "Compare an optimizer with another, bit for bit" in finished.stdout


def test_an_installed_optimlab_brings_the_plugin() -> None:
    if not list(entry_points(group="console_scripts", name="optimlab")):
        pytest.skip("optimlab is not installed here")
    (found,) = entry_points(group="pytest11", name="pytest_optimlab")
    assert found.value == "pytest_optimlab"
    assert find_spec(found.value) is not None
