"""Writes the step viewer, with the traces that it shows, into the site."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sphinx.application import Sphinx


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html" and app.config.run_programs:
        path = Path(app.srcdir) / "viewer" / "export.py"
        spec = importlib.util.spec_from_file_location("export", path)
        assert spec is not None
        assert spec.loader is not None
        export = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(export)
        export.write(Path(app.outdir) / "viewer" / "app")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write it when the pages are done."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
