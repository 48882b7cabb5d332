"""The pages build without a warning, and a name on them that leads nowhere is one.

What pages run and print has tests of its own; here nothing is run, and nothing is fetched.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NEEDED = (
    *("sphinx", "myst_parser", "pydata_sphinx_theme", "sphinx_design", "sphinx_gallery"),
    *("sphinx-mathjax-offline", "matplotlib"),
)
if missing := [name for name in NEEDED if find_spec(name) is None]:
    pytest.skip(f"the pages are built with {', '.join(missing)}", allow_module_level=True)

PAGE = """\
# Names

{py:func}`optimlab.rule.pure`, which is there; {py:class}`optimlab.Nothing`,
{py:class}`optimlab.core.values.Nothing` and {py:func}`planted._nothing`, which are not.

```{eval-rst}
.. autofunction:: optimlab.rule.pure

.. autofunction:: planted.declare

.. autoclass:: planted.Kept
```
"""
MODULE = '''\
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
Public = TypeVar("Public")


class _Private: ...


class Undocumented: ...


def declare(update: Callable[_P, Public], private: _Private) -> Undocumented:
    """Return what :class:`Absent` is not.

    Raises:
        AbsentError: never.
    """
    return Undocumented()


@dataclass
class Kept(Generic[_P, Public]):
    """What is kept.

    Attributes:
        update: whose types have no page.
        private: whose type has none, either.
    """

    update: Callable[_P, Public]
    private: _Private
'''


def build(source: Path, out: Path, **settings: str | int) -> tuple[int, str]:
    """Build pages as the site's configuration says; return the status and what was said."""
    chosen = {"run_programs": 0, "link_to_references": 0, **settings}
    options = [part for name, value in chosen.items() for part in ("-D", f"{name}={value}")]
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, "-b", "html", "-c", str(DOCS), *options, str(source), str(out)],
        cwd=DOCS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(DOCS.parent)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    status, said = build(DOCS, tmp_path)
    assert status == 0, said
    assert (tmp_path / "reference" / "optimizers.html").is_file()


def test_a_name_that_leads_nowhere_fails_and_an_annotation_need_not_lead(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text(PAGE, encoding="utf-8")
    (tmp_path / "planted.py").write_text(MODULE, encoding="utf-8")
    extensions = "myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon,directives,references"
    status, said = build(tmp_path, tmp_path / "out", extensions=extensions, html_theme="basic")
    lost = re.findall(r"WARNING: (py:\w+) reference target not found: (\S+)", said)
    assert status == 1, said
    assert sorted(lost) == [
        ("py:class", "Absent"),
        ("py:class", "optimlab.Nothing"),
        ("py:class", "optimlab.core.values.Nothing"),
        ("py:exc", "AbsentError"),
        ("py:func", "planted._nothing"),
    ]


def test_what_is_no_list_of_names_is_not_handed_on(tmp_path: Path) -> None:
    from references import FIRST_LINE, fetch

    names = tmp_path / "objects.inv"
    assert fetch(tmp_path.as_uri()) is None  # nothing there
    names.write_bytes(b"<html>Log in to this network</html>")
    assert fetch(tmp_path.as_uri()) is None
    names.write_bytes(FIRST_LINE + b"# Project: Python\n")
    assert fetch(tmp_path.as_uri()) == names.read_bytes()
