"""What README.md shows at a prompt is what Python prints."""

import doctest
from pathlib import Path

import torch

import optimlab

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_prints_what_it_shows() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    text = "\n".join("" if line.startswith("```") else line for line in lines)
    namespace = {"torch": torch, "optim": optimlab, "optimlab": optimlab}
    examples = doctest.DocTestParser().get_doctest(text, namespace, "README.md", "README.md", 0)
    assert examples.examples
    runner = doctest.DocTestRunner()
    runner.run(examples)
    assert runner.failures == 0
