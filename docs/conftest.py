"""Runs the code of the documentation's pages, whose output must be what stands there."""

import doctest
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser


def _enter(namespace: dict[str, Any]) -> None:
    """Give a page the namespace of a prompt."""
    namespace["__name__"] = "__main__"


@pytest.fixture(scope="module", autouse=True)
def _in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let pages write their files where they leave no trace."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("page"))
    yield
    os.chdir(before)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)],
    patterns=["*.md"],
    excludes=["_build/**", "gallery/**", "gallery_source/**", "errors.md"],
    setup=_enter,
    fixtures=["_in_a_temporary_folder"],
).pytest()
