"""Finds what other projects document, and says which names need no page to lead to.

The projects' lists of names are fetched at build. One that cannot be had leaves its names without a
link, which is no error of these pages: it is fetched here, completely, before intersphinx asks.
"""

from __future__ import annotations

import http.client
import urllib.request
from pathlib import Path
from typing import Final

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config

FIRST_LINE: Final = b"# Sphinx inventory version 2\n"


def fetch(address: str) -> bytes | None:
    """Return a project's list of names, or nothing where there is none to be had."""
    try:
        with urllib.request.urlopen(f"{address}/objects.inv", timeout=5) as answer:
            names: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        print(f"no links to {address}: {error}")
        return None
    if not names.startswith(FIRST_LINE):  # the page of a network that asks for a password
        print(f"no links to {address}: its objects.inv is no list of names")
        return None
    return names


def _fetch_all(app: Sphinx, config: Config) -> None:
    if not config.link_to_references:
        return
    folder = Path(app.doctreedir) / "references"
    folder.mkdir(parents=True, exist_ok=True)
    for name, address in config.references.items():
        names = fetch(address)
        if names is not None:
            path = folder / f"{name}.inv"
            path.write_bytes(names)
            config.intersphinx_mapping[name] = (address, str(path))


def _is_annotation(_app: Sphinx, _domain: object, node: addnodes.pending_xref) -> bool | None:
    """Let annotations name type variables, private types and others that no page documents.

    Nobody wrote such a name to be linked; that it exists, the type checker says. A name that an
    author marked up has an attribute of its own, and what raises an error is named in a docstring.
    """
    marked_up = "refwarn" in node or node["reftype"] == "exc"
    return (node["refdomain"] == "py" and not marked_up) or None


def setup(app: Sphinx) -> dict[str, bool]:
    """Fetch the lists before intersphinx, whose priority is 800, looks for them."""
    app.add_config_value("references", {}, "env", types=[dict])
    app.add_config_value("link_to_references", True, "env", types=[bool])
    app.connect("config-inited", _fetch_all, priority=700)
    app.connect("warn-missing-reference", _is_annotation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
