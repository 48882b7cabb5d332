"""Which library is loaded: one of this package's, whole, that leaves arithmetic alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from twins import FOUND, needs_kernel, printed

from optimlab.native import library
from optimlab.native.library import Kernel, UnusableError

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")
ROOT = Path(__file__).parents[2]


def built(folder: Path, source: str, *flags: str) -> Path:
    """Compile a library."""
    path = folder / "library.so"
    (folder / "source.c").write_text(source, encoding="utf-8")
    command = ["gcc", "-shared", "-fPIC", *flags, str(folder / "source.c"), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


def cut_off(folder: Path) -> Path:
    assert FOUND.kernel is not None
    path = folder / "cut.so"
    whole = FOUND.kernel.path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def text(folder: Path) -> Path:
    path = folder / "text.so"
    path.write_text("no library", encoding="utf-8")
    return path


STUB = "int optimlab_version(void) {{ return {}; }}"
LIBRARIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "text": (text, "could not be loaded"),
    "cut off": (cut_off, "is cut off"),
    "missing": (lambda folder: folder / "missing.so", "could not be loaded"),
    "older": (lambda folder: built(folder, STUB.format(1)), "is of version 1"),
    "foreign": (lambda folder: built(folder, "int f(void) { return 1; }"), "is no library"),
    "incomplete": (lambda folder: built(folder, STUB.format(library.VERSION)), "is no library"),
}


@needs_kernel
@needs_compiler
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_none_of_ours_is_refused(name: str, tmp_path: Path) -> None:
    make, says = LIBRARIES[name]
    with pytest.raises(UnusableError, match=says):
        Kernel(make(tmp_path))


REFUSED = """
import optimlab, torch
param = torch.ones(3, requires_grad=True)
param.grad = torch.ones(3)
for _ in range(3): optimlab.SGD([param], lr=0.5).step()
print(param.tolist(), optimlab.info())
"""


@needs_kernel
def test_a_library_that_is_refused_is_named_and_left_unused(tmp_path: Path) -> None:
    text = printed(REFUSED, OPTIMLAB_NATIVE=str(cut_off(tmp_path)))
    for part in ("[-0.5, -0.5, -0.5]", "is cut off", "no native kernel"):
        assert part in text


@needs_compiler
def test_a_library_that_changes_arithmetic_is_refused_and_arithmetic_restored(
    tmp_path: Path,
) -> None:
    path = built(tmp_path, STUB.format(library.VERSION), "-Ofast")
    tiny, one = float("4e-320"), float("1")
    with pytest.raises(UnusableError, match="changed how this process calculates"):
        Kernel(path)
    assert (tiny * one).hex() == tiny.hex()
    assert (torch.tensor([1e-40]) * 1).view(torch.int32).item() != 0


FLAGS = {
    "fast mathematics": {"CFLAGS": "-Ofast -mrecip -fsingle-precision-constant"},
    "unsafe mathematics, and everything of this processor": {
        "CFLAGS": "-ffast-math -march=native -ffp-contract=fast"
    },
    "no optimization": {"CFLAGS": "-O0"},
    "clang": {"CC": "clang", "LDSHARED": "clang -shared"},
}
CHECKED = """
import sys
from pathlib import Path
from optimlab.native.library import Kernel
from optimlab.native.self_check import check
found = check(Kernel(Path(sys.argv[1])))
assert not found.reason, found.reason
assert len(found.superinstructions) == 2
"""


@needs_kernel
@pytest.mark.parametrize("name", FLAGS)
def test_a_compiler_and_its_flags_do_not_change_the_bits(name: str, tmp_path: Path) -> None:
    compiler = FLAGS[name].get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    if FOUND.reason:
        pytest.skip(FOUND.reason)
    build = [sys.executable, "setup.py", "-q", "build_ext"]
    build += ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path / "objects")]
    environment = {**os.environ, **FLAGS[name]}
    subprocess.run(build, cwd=ROOT, env=environment, check=True, capture_output=True)
    (made,) = tmp_path.glob("optimlab/native/_kernel*")
    printed(CHECKED, str(made))


def test_extra_precision_is_refused_by_the_compiler() -> None:
    if shutil.which("gcc") is None or os.uname().machine != "x86_64":
        pytest.skip("needs gcc and its flags for x86-64")
    source = str(ROOT / "optimlab/native/kernel/interpreter.c")
    command = ["gcc", "-fsyntax-only", "-mfpmath=387", source]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "extra precision" in refused.stderr
