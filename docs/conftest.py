"""Runs the code of the documentation's pages, whose output must be what stands there."""

import doctest
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser


def _enter(namespace: dict[str, Any]) -> None:
    """Give a page the namespace of a prompt, and the model that a line of it may speak of."""
    namespace["__name__"] = "__main__"
    namespace["model"] = torch.nn.Linear(2, 1)


@pytest.fixture(scope="module", autouse=True)
def _in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let pages write their files where they leave no trace."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("page"))
    yield
    os.chdir(before)


# Python files here are programs that pages run and show, or belong to the build of the site; only
# the tests among them are collected.
collect_ignore = [
    path.name
    for path in Path(__file__).parent.iterdir()
    if path.suffix == ".py" or path.name in {"_build", "_extensions", "gallery", "gallery_source"}
]
collect_ignore_glob = ["bits/*.py", "viewer/*.py", "optimizers/*.py", "*/lion.py", "*/prove.py"]

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)],
    patterns=["*.md"],
    # What errors are raised has a test of its own; the other shows how to call what is not there.
    excludes=["errors.md", "external-optimizers.md"],
    setup=_enter,
    fixtures=["_in_a_temporary_folder"],
).pytest()
