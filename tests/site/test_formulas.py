"""The mathematics that pages and docstrings print is executed, and must be the optimizers'."""

import ast
import functools
import itertools
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import executed
import numpy as np
import pytest
import torch
from executed import (
    ACCURACY,
    START,
    STEPS,
    SUBJECTS,
    Executed,
    Execution,
    Formula,
    Run,
    Setting,
    Subject,
    WrongFormulaError,
    execute,
    formulas,
)
from listing import as_numpy
from mathematics import NotationError, read

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "optimizers/sgd": "SGD",
    "optimizers/adam": "Adam",
    "optimizers/adamw": "AdamW",
    "optimizers/rmsprop": "RMSprop",
    "own": "Lion",
    "inside": "Adam",
}
RULES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "bench/lion": "the benchmark's Lion",
}


@dataclass(frozen=True)
class Text:
    name: str
    subject: Subject
    source: str
    markdown: bool

    def execute(self) -> Executed:
        self.check_names(self.source)
        return execute(self.source, self.subject, markdown=self.markdown)

    def formulas(self, source: str | None = None) -> list[Formula]:
        return list(formulas(source or self.source, self.markdown))

    @staticmethod
    def check_names(source: str) -> None:
        """Check that arguments are called in mathematics what they are called in code."""
        for name, formula in re.findall(r"^ {4}(\w+): [^:]*?:math:`(.*?)`", source, re.MULTILINE):
            equations, _ = read(formula)
            for equation in equations:
                expected = {"beta1", "beta2"} if name == "betas" else {name}
                if {variable.name for variable in equation.variables} != expected:
                    raise WrongFormulaError(f"{name} is not what {formula} says")


@functools.cache
def texts() -> dict[str, Text]:
    pages = (
        Text(f"{name}.md", SUBJECTS[subject], page.read_text(encoding="utf-8"), markdown=True)
        for name, subject in PAGES.items()
        for page in [ROOT / "docs" / f"{name}.md"]
    )
    found = (*pages, *itertools.chain.from_iterable(map(docstrings, RULES)))
    return {text.name: text for text in found if any(formulas(text.source, text.markdown))}


def docstrings(module: str) -> Iterator[Text]:
    tree = ast.parse((ROOT / "optimlab" / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            name = getattr(node, "name", "")
            subject = SUBJECTS[name if name == "AdamW" else RULES[module]]
            yield Text(f"{module}.py {name}".strip(), subject, ast.get_docstring(node) or "", False)


def test_every_formula_of_a_docstring_is_found() -> None:
    for module in RULES:
        for text in docstrings(module):
            written = len(re.findall(r"\.\. math::|:math:", text.source))
            assert written == len(list(formulas(text.source, markdown=False))), text.name


@pytest.mark.parametrize("name", texts())
def test_every_printed_equation_is_the_optimizers(name: str) -> None:
    text = texts()[name]
    assert text.execute().equations >= 1


WHOLE = [name for name, text in texts().items() if "% with every option" in text.source]


def test_every_optimizer_has_its_whole_formula_on_its_page_and_in_its_docstring() -> None:
    of_pages = {f"{page}.md" for page in PAGES if page != "inside"}
    of_classes = {"sgd.py SGD", "adam.py Adam", "adamw.py AdamW", "rmsprop.py RMSprop"}
    of_classes |= {"bench/lion.py Lion"}
    assert of_pages | of_classes == set(WHOLE)


ELSEWHERE = sorted(
    path.relative_to(ROOT / "docs").as_posix()
    for path in (ROOT / "docs").rglob("*.md")
    if not {"_build", "gallery", "gallery_source"} & set(path.parts)
    and path.relative_to(ROOT / "docs").with_suffix("").as_posix() not in PAGES
)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_nothing_is_claimed_in_mathematics_where_it_is_not_executed(page: str) -> None:
    source = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for formula in formulas(source, markdown=True):
        equations, expressions = read(formula.text)
        assert not [*equations, *expressions], f"line {formula.line}: {formula.text}"


def test_no_other_module_prints_mathematics() -> None:
    printing = {
        path.relative_to(ROOT / "optimlab").as_posix()
        for path in (ROOT / "optimlab").rglob("*.py")
        if "math:" in path.read_text(encoding="utf-8")
    }
    assert printing <= {f"{module}.py" for module in RULES}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_formula_is_executed_with_every_option(name: str) -> None:
    text = texts()[name]
    computed = text.execute().computed
    for options in text.subject.every_option():
        run = f"{text.subject.name}({', '.join(f'{k}={v}' for k, v in options.items())})"
        expected = {"theta", *text.subject.state_letters(options)}
        assert expected <= computed.get(run, set()), f"{name}: {run}"


FRAMEWORKS = runpy.run_path(str(ROOT / "docs" / "optimizers" / "frameworks.py"))


@pytest.mark.parametrize("rates", ["CONSTANT", "FALLING"])
@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", {"momentum": 0.9, "centered": True}),
        ("adam", {"amsgrad": True, "weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1}),
    ],
)
def test_frameworks_are_measured_against_what_the_optimizer_does(
    page: str, options: dict[str, Any], rates: str
) -> None:
    theta = torch.tensor(FRAMEWORKS["START"], requires_grad=True)
    optimizer = SUBJECTS[PAGES[f"optimizers/{page}"]].make(
        [theta], **{**FRAMEWORKS["PLAIN"][page], **options}
    )
    path = FRAMEWORKS["formula_path"](page, options, FRAMEWORKS[rates])
    for lr, expected in zip(FRAMEWORKS[rates], path[1:], strict=True):
        optimizer.param_groups[0]["lr"] = lr
        theta.grad = torch.from_numpy(FRAMEWORKS["gradient"](theta.detach().numpy()))
        optimizer.step()
        np.testing.assert_allclose(theta.detach().numpy(), expected, rtol=1e-11, atol=1e-11)


CHANGES = (
    (r"\+", "-"),
    (r"(?<![\^{(\s=])\s-|(?<=[\w})]) -", " +"),
    (r"_\{t-1\}", "_t"),
    (r"_t\b", "_{t-1}"),
    (r"\\beta_1", r"\\beta_2"),
    (r"\\beta_2", r"\\beta_1"),
    (r"\\gamma", r"\\mu"),
    (r"\\mu", r"\\gamma"),
    (r"\\lambda", r"\\gamma"),
    (r"\\alpha", r"\\gamma"),
    (r"\\epsilon", r"\\gamma"),
    (r"\\sqrt", r""),
    (r"\^2", "^3"),
    (r"\b1\b", "2"),
    (r"\b0\b", "1"),
    (r"\\pm", ""),
    (r"\\max", r"\\min"),
    (r"\\hat m", "m"),
    (r"\\hat v", "v"),
    (r"(?<![\\\w])(?:[gbmvu]|\\theta)(?=_t &?(?:=|\\leftarrow))", r"\\phi"),
)


def changed(formula: Formula) -> Iterator[str]:
    """Yield the formula with one thing in it changed."""
    if not read(formula.text)[0]:
        return
    for pattern, replacement in CHANGES:
        for match in re.finditer(pattern, formula.text):
            if "%" in formula.text[: match.start()].rpartition("\n")[2]:
                continue  # a comment is no formula
            if "\\lim" in formula.text and replacement.startswith("_"):
                continue  # one step makes no difference to a limit
            yield (
                formula.text[: match.start()]
                + match.expand(replacement)
                + formula.text[match.end() :]
            )


def unnoticed(text: Text) -> Iterator[str]:
    """Yield the changes with which all formulas of a text still hold."""
    before = Execution(text.subject)  # of what stands before the change, once for all of them
    for place, formula in enumerate(text.formulas()):
        for new in changed(formula):
            end = formula.start + len(formula.text)
            source = text.source[: formula.start] + new + text.source[end:]
            execution = before.copy()
            try:
                text.check_names(source)
                for later in text.formulas(source)[place:]:
                    execution.take(later)
                execution.end()
            except (WrongFormulaError, NotationError):
                continue
            yield f"line {formula.line}: {new}"
        before.take(formula)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorten the runs, of which a thousand are made."""
    monkeypatch.setattr(executed, "STEPS", 50)
    executed._course.cache_clear()
    yield
    executed._course.cache_clear()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", texts())
def test_a_change_in_any_printed_formula_is_noticed(name: str) -> None:
    found = list(unnoticed(texts()[name]))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [page for page in PAGES if page.startswith("optimizers/")])
def test_the_listing_in_numpy_ends_where_the_optimizer_does(name: str) -> None:
    text = texts()[f"{name}.md"]
    whole = next(f for f in formulas(text.source, markdown=True) if "% with every option" in f.text)
    listing = as_numpy(read(whole.text)[0])
    letters = re.findall(r"^    (\w+)\[t\]", listing, re.MULTILINE)
    for options in text.subject.every_option():
        run = Run(text.subject, Setting(options))
        kept = {letter: np.zeros((STEPS + 1, START.size)) for letter in letters}
        kept["theta"][0] = START
        exec(listing, {**run.namespace(), **run.group, **kept, "steps": STEPS})
        last = run.sequences["theta"][STEPS]
        assert np.abs(kept["theta"][STEPS] - last).max() <= ACCURACY * np.abs(last).max(), options
