"""What the optimizers' pages say in tables and words: letters, state and its size, defaults."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from executed import SUBJECTS
from mathematics import HYPERPARAMETERS, read

import optimlab

PAGES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "optimizers"

# How a step is executed, and not what it computes.
FLAGS = {"params", "foreach", "maximize", "capturable", "differentiable", "fused"}


def section(page: str, title: str) -> str:
    text = (DIRECTORY / f"{page}.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {title}")[2].partition("\n## ")[0]


def letter_of(latex: str) -> str:
    """Read a single name by the reader of formulas, as one side of an equation."""
    ((equation,), _) = read(f"{latex} = 0")
    assert equation.left is not None
    return equation.left.name


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_state_is_what_the_optimizer_keeps(page: str) -> None:
    subject = SUBJECTS[PAGES[page]]
    param = torch.zeros(3, requires_grad=True)
    kept = []
    for options in subject.every_option():
        optimizer = subject.make([param], **options)
        param.grad = torch.ones(3)
        optimizer.step()
        sizes = {entry: value.numel() for entry, value in optimizer.state[param].items()}
        kept.append((options, sizes))
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", section(page, "State"), re.MULTILINE)
    assert {entry for entry, _, _ in rows} == {entry for _, sizes in kept for entry in sizes}
    for entry, what, size in rows:
        if entry in subject.letters:
            assert letter_of(what.split("$")[1]) == subject.letters[entry]
        condition = re.search(r"only with `?(\w+)`?", what)
        for options, sizes in kept:
            is_expected = bool(options[condition[1]]) if condition else True
            assert (entry in sizes) == is_expected, (entry, options)
            assert sizes.get(entry, 0) in (0, 3 if size == "as the parameter" else 1)


@pytest.mark.parametrize("page", PAGES)
def test_the_defaults_are_those_of_the_signature(page: str) -> None:
    first_sentence = section(page, "Defaults").split("`. ")[0] + "`"
    said = dict(item.split("=", 1) for item in re.findall(r"`(\w+=[^`]+)`", first_sentence))
    parameters = inspect.signature(getattr(optimlab, PAGES[page])).parameters
    assert set(said) == set(parameters) - FLAGS - {"decoupled_weight_decay"}
    for name, value in said.items():
        assert value.replace(" ", "") == str(parameters[name].default).replace(" ", "") or float(
            value
        ) == float(parameters[name].default)


def test_the_table_of_letters_is_what_the_reader_of_formulas_takes_them_for() -> None:
    text = (DIRECTORY / "index.md").read_text(encoding="utf-8").partition("## How to read")[2]
    said: dict[str, str] = {}
    for letters, code in re.findall(r"^\| (\$.*?) \| (.*?) \|", text, re.MULTILINE):
        found, names = re.findall(r"\$(.*?)\$", letters), re.findall(r"`(\w+)`", code)
        if names == ["betas", "alpha"]:
            names = ["betas", "betas", "alpha"]
        said.update(zip(found, names, strict=False))
    for letter, name in HYPERPARAMETERS.items():
        assert said[f"\\{letter}"] == re.sub(r"(beta)\d", r"\1s", name)
    adam = {f"{letter}_t": entry for entry, letter in SUBJECTS["Adam"].letters.items()}
    assert said[r"\theta_t"] == "param"
    assert said["g_t"] == "grad"
    assert {letter: said[letter] for letter in ("m_t", "v_t")} == {
        letter: adam[letter] for letter in ("m_t", "v_t")
    }
