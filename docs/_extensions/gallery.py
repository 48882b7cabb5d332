"""Prepares the programs of ``examples/`` for sphinx-gallery, which executes them.

The gallery wants a title on top of every program, and runs it inside its own process. Ours begin
with a sentence, start processes of their own and end with an exit status. So the build works on
copies, which have a title, and in place of the last lines one that runs the program as a reader
would. What a program draws it saves to a file, for which the gallery looks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx_gallery.scrapers import figure_rst

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "examples"
COPIES: Final = ROOT / "docs" / "gallery_source"

TITLES: Final = {
    "optimizer_tour": "A tour of an optimizer",
    "line_fit": "Fit a line",
    "autograd_tour": "From gradients to a step",
    "lenet": "A step by hand, next to SGD's",
    "two_layer_network": "Two layers by hand",
    "sine_ladder": "Six ways to fit a sine",
    "image_classifier": "Classify images",
    "layer_wise_rates": "Layer-wise learning rates",
    "sgd_against_adam": "SGD against Adam",
    "microscope": "A step under the microscope",
    "prove_your_optimizer": "Prove your optimizer",
    "checkpoint_doctor": "The checkpoint doctor",
    "resume": "Killed, resumed, the same bits",
    "huggingface_trainer": "Under Hugging Face's Trainer",
    "accelerate_loop": "Under accelerate",
    "lightning_trainer": "Under Lightning's Trainer",
    "distributed": "Two processes",
}
"""The programs, in the order of the gallery; the other files there are parts of these."""

HEADER: Final = """\
Gallery
=======

Whole programs, executed while this site was built: what stands below each is what it printed and
drew. With ``--optim torch`` each runs on ``torch.optim``, and ends in the same bits: the line
before its last is the beginning of a SHA-256 of everything it ends with.

"""

LAST_LINES: Final = """\
if __name__ == "__main__":
    sys.exit(main())
"""
RUN: Final = """\
# %%
# Run it
# ------
# In a clone, ``python examples/{name}.py`` prints:

# sphinx_gallery_start_ignore
from gallery import execute

# sphinx_gallery_end_ignore
execute("{name}.py")
"""


def prepare(copies: Path = COPIES) -> None:
    """Copy the programs, each with its title.

    Raises:
        ValueError: if there is a program without a title, or a title without a program.
    """
    programs = {
        path.stem
        for path in SOURCE.glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    if programs != set(TITLES):
        raise ValueError(f"no title or no program: {sorted(programs ^ set(TITLES))}")
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(parents=True)
    (copies / "GALLERY_HEADER.rst").write_text(HEADER, encoding="utf-8")
    for name, title in TITLES.items():
        text = (SOURCE / f"{name}.py").read_text(encoding="utf-8")
        copy = adapted(text, title, name)
        if ".png" not in text:
            draw_sentence(text, copies / f"{name}.png")
            copy += f"\n# sphinx_gallery_thumbnail_path = '{COPIES.name}/{name}.png'\n"
        (copies / f"{name}.py").write_text(copy, encoding="utf-8")


def adapted(text: str, title: str, name: str) -> str:
    """Return a program with a title on top, and a line at the end that runs it.

    Raises:
        ValueError: if it does not begin with a docstring and end with its call.
    """
    if not text.startswith('"""') or not text.endswith(LAST_LINES):
        raise ValueError(f"{name}.py begins or ends in another way than programs here do")
    _, docstring, program = text.split('"""', 2)
    line = "=" * len(title)
    head = f'"""{title}\n{line}\n\n{as_restructured_text(docstring)}"""'
    return head + program.removesuffix(LAST_LINES) + RUN.format(name=name)


def as_restructured_text(docstring: str) -> str:
    """Mark up a docstring that was written to be read as it is: its code, and its commands."""
    marked = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", docstring)
    return re.sub(r"\n\n(?=    \S)", "\n\n::\n\n", marked)


def draw_sentence(text: str, path: Path) -> None:
    """Draw the first sentence of a program, for the overview, where it has no figure to show."""
    sentence = text.removeprefix('"""').partition(".")[0].replace("\n", " ")
    figure = Figure(figsize=(4, 2.8), facecolor="#f3f5f8")
    figure.text(0.07, 0.9, textwrap.fill(f"{sentence}.", 26), va="top", size=19, color="#24435c")
    figure.savefig(path)


def environment() -> dict[str, str]:
    """Return what a program is run with whose output a page shows."""
    return {**os.environ, "COLUMNS": "90", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}


def execute(program: str) -> None:
    """Run a program as a reader would, and print what it printed.

    Raises:
        CalledProcessError: if it fails.
    """
    done = subprocess.run(
        [sys.executable, str(SOURCE / program)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout.rstrip())


def order(name: str) -> int:
    """Return the place of a program in the gallery."""
    return list(TITLES).index(Path(name).stem)


def scrape(_block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Show the figures that a program has saved since the last look."""
    shown = []
    for path in sorted(Path("optimlab-examples").rglob("*.png")):
        saved = path.stat().st_mtime_ns
        if _SEEN.get(path.resolve()) != saved:
            _SEEN[path.resolve()] = saved
            place = next(block_vars["image_path_iterator"])
            shutil.copy(path, place)
            shown.append(place)
    return str(figure_rst(shown, gallery_conf["src_dir"]))


_SEEN: dict[Path, int] = {}


def _prepare(_app: Sphinx, config: Config) -> None:
    prepare()
    if not config.run_programs:
        config.sphinx_gallery_conf["plot_gallery"] = False


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy the programs before the gallery looks for them."""
    app.connect("config-inited", _prepare, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
