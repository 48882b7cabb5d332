"""The programs of "Why are my bits different?" show what the page says that they show."""

import multiprocessing
import os
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "docs" / "bits").glob("*.py"))
PAGE = (ROOT / "docs" / "bits" / "index.md").read_text(encoding="utf-8")
SHOWS = re.compile(r"# shows: (different|equal) bits")
NEEDS = re.compile(r"# needs: (\S+) instructions", re.MULTILINE)
CAPABILITIES = {"AVX2": {"AVX2", "AVX512"}}


def what_it_lacks(text: str) -> str:
    """Say which instructions a program needs that this process may not use."""
    needed = NEEDS.findall(text)
    here = torch.backends.cpu.get_cpu_capability()
    return ", ".join(each for each in needed if here not in CAPABILITIES[each])


def execute(script: str, folder: str) -> None:
    """Run a program as `python SCRIPT` does, in a folder, and write down what it prints."""
    os.chdir(folder)
    sys.argv = [script]
    warnings.simplefilter("error")
    with Path("printed").open("w", encoding="utf-8") as file, redirect_stdout(file):
        runpy.run_path(script, run_name="__main__")


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Return what starts processes that have imported already what an optimizer needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch._dynamo", "optimlab", "optimlab.lab.compare.bits"])
        yield context


def run(processes: Any, script: Path, folder: Path) -> list[str]:
    """Run a program in a process of its own, and return the lines that it printed."""
    process = processes.Process(target=execute, args=(str(script), str(folder)))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 0, f"{script.name} ended with {process.exitcode}"
    return (folder / "printed").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_program_on_the_page_shows_what_its_first_line_declares_and_could_show_the_other(
    processes: Any, script: Path, tmp_path: Path
) -> None:
    text = script.read_text(encoding="utf-8")
    declared = SHOWS.fullmatch(text.splitlines()[0])
    assert declared, "the first line has to say `# shows: different bits`, or equal"
    assert f"{{run}} docs/bits/{script.name}\n:code:" in PAGE
    assert re.search(r'"different.*" if .* else "equal|"equal.*" if .* else "different', text)
    if lacking := what_it_lacks(text):
        pytest.skip(f"needs a CPU with {lacking}, without which there is nothing to see")
    printed = run(processes, script, tmp_path)
    assert re.match(r"\w+", printed[-1]), printed
    assert printed[-1].partition(":")[0] == declared[1], printed


def test_every_program_on_the_page_is_there_and_every_leaf_of_the_path_leads_to_a_section() -> None:
    shown = re.findall(r"\{run\} docs/bits/(\S+)", PAGE)
    assert sorted(shown) == [script.name for script in SCRIPTS]
    sections = {slug(heading) for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    path = PAGE.partition("## The path")[2].partition("\n## ")[0]
    leaves = re.findall(r"\]\(#(\S+?)\)", path)
    assert leaves
    assert set(leaves) <= sections
    with_programs = {
        slug(section.splitlines()[0])
        for section in PAGE.split("\n## ")
        if "{run} docs/bits" in section
    }
    assert with_programs == set(leaves)


def slug(heading: str) -> str:
    """Return what a link to a heading ends in."""
    return re.sub(r"[^\w ]", "", heading.lower()).replace(" ", "-")
