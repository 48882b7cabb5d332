"""What ``import optimlab`` gives: all names when they are asked for, old ones with a warning."""

from __future__ import annotations

import ast
import subprocess
import sys
from inspect import isfunction
from operator import attrgetter
from pathlib import Path

import pytest

import optimlab
from optimlab.renamed import HIDDEN, RENAMED, resolve

ROOT = Path(__file__).parents[1]

OLD_NAMES = """
import sys, warnings

def imported(statement):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = {}
        exec(compile(statement, "user.py", "exec"), found)
    assert all((each.category, each.filename) == (DeprecationWarning, "user.py") for each in caught)
    return found, [str(each.message).partition(" now;")[0] for each in caught]

import optimlab
before = {name: getattr(optimlab, name) for name in ("doctor", "explain", "info", "shadow")}

found, warned = imported("from optimlab.program import Program")
assert found["Program"] is optimlab.Program
assert warned == ["optimlab.program is optimlab.core.program"], warned

found, warned = imported("import optimlab.doctor.findings")
assert sys.modules["optimlab.doctor.findings"].Report is optimlab.lab.doctor.Report
assert warned == ["optimlab.doctor.findings is optimlab.lab.doctor.report"], warned

found, warned = imported("from optimlab.doctor import Report")
assert found["Report"] is optimlab.lab.doctor.Report
assert warned == ["optimlab.doctor is optimlab.lab.doctor"], warned

found, warned = imported("import optimlab; optimlab.digest.digest")
assert warned == [f"optimlab.digest is {optimlab.renamed.RENAMED['optimlab.digest']}"], warned

for name in sorted(optimlab.renamed.RENAMED):
    if isinstance(optimlab.renamed.resolve(optimlab.renamed.RENAMED[name]), type(sys)):
        imported(f"import {name}")
assert {name: getattr(optimlab, name) for name in before} == before
assert {type(each).__name__ for each in before.values()} == {"function"}
assert type(optimlab.parity.check).__name__ == "function"
for statement in ("from optimlab.program import Nothing", "import optimlab.program.nothing",
                  "from optimlab.parity import Nothing", "import optimlab.nothing"):
    try:
        imported(statement)
    except ImportError:
        continue
    raise AssertionError(statement)
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_old_names_work_with_a_warning_that_names_the_new_and_hide_no_function() -> None:
    finished = run_python("-c", OLD_NAMES)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("old", RENAMED)
def test_a_new_name_exists_and_the_old_one_does_not(old: str) -> None:
    assert resolve(RENAMED[old]) is not None
    module = ROOT.joinpath(*old.split("."))
    assert not module.with_suffix(".py").exists()
    assert not (module / "__init__.py").exists()


def test_modules_that_bear_the_name_of_a_function_are_old_ones() -> None:
    assert {*HIDDEN} <= {*RENAMED}
    for name in HIDDEN:
        module, _, function = name.rpartition(".")
        assert isfunction(getattr(resolve(module), function)), name


def test_import_optimlab_loads_no_tool() -> None:
    finished = run_python("-X", "importtime", "-c", "import optimlab")
    loaded = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert "optimlab" in loaded
    assert not {each for each in loaded if each.startswith(("optimlab.lab", "optimlab.cli"))}
    assert not {"torch", "click", "rich"} & loaded


def test_editors_and_type_checkers_are_told_where_each_name_comes_from() -> None:
    tree = ast.parse((ROOT / "optimlab" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        name.asname: f"{node.module}.{name.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    homes = {name: f"optimlab.{home}.{name}" for name, home in optimlab._HOMES.items()}
    assert told == homes | {name: f"optimlab.{name}" for name in ("parity", "values")}


@pytest.mark.parametrize("name", optimlab.__all__)
def test_every_public_name_is_found_and_listed(name: str) -> None:
    assert name in dir(optimlab)
    assert getattr(optimlab, name).__name__.rpartition(".")[2] == name


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'optimlab' has no attribute 'adagrads'"):
        attrgetter("adagrads")(optimlab)
