r"""Directives that show what was really printed, recorded and computed while the site was built.

``{run} PATH [OPTIONS]``
    runs a Python program of the repository, or with ``-m`` a module, and shows what it printed.
``{rule} sgd.py SGD.update``
    a function of optimlab as it stands in the source, without its docstring.
``{recorded} Adam(lr=0.1)``
    the recorded program of an optimizer.
``{three-steps} Adam(lr=0.1)``
    three steps on two weights, operation by operation, in numbers.
``{numpy}``
    the page's formula as NumPy, as the tests execute it.
``{speed}``
    how many times as fast as torch a step is, from the benchmark's record.

Comments in formulas, which say in which run a formula is proven, are taken out of the pages.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from docutils import nodes
from docutils.parsers.rst import directives
from executed import formulas
from gallery import environment
from listing import as_numpy
from mathematics import read
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

import optimlab
from optimlab.lab.trace.worked import TracedStep

ROOT = Path(__file__).resolve().parents[2]


class Run(SphinxDirective):
    """Run a program, and show its standard output."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {
        "code": directives.flag,
        "status": directives.nonnegative_int,
        "tail": directives.positive_int,
        "quiet": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        words = shlex.split(self.arguments[0])
        blocks: list[nodes.Node] = []
        if words[0] != "-m":
            path = ROOT / words[0]
            self.env.note_dependency(str(path))
            if "code" in self.options:
                blocks.append(literal(path.read_text(encoding="utf-8"), "python", words[0]))
        if not self.config.run_programs:
            return blocks
        output = printed(words, self.options.get("status", 0))
        if "tail" in self.options:
            output = "\n".join(output.splitlines()[-self.options["tail"] :])
        if "code" in self.options or "quiet" in self.options:
            return [*blocks, literal(output, "text")]
        return [*blocks, literal(f"$ {as_typed(words)}\n{output}", "console")]


def as_typed(words: Sequence[str]) -> str:
    """Return what a reader types to run the same."""
    if list(words[:2]) == ["-m", "optimlab"]:
        return shlex.join(["optimlab", *words[2:]])
    return shlex.join(["python", *words])


def printed(words: Sequence[str], status: int = 0) -> str:
    """Run a program in an empty folder and return its standard output.

    Raises:
        ExtensionError: if it exits otherwise than it should.
    """
    command = [sys.executable, *words]
    if words[0] != "-m":
        command[1] = str(ROOT / words[0])
    env = environment()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=900
        )
    if done.returncode != status:
        raise ExtensionError(f"{shlex.join(words)} exits with {done.returncode}:\n{done.stderr}")
    return done.stdout.rstrip()


class Rule(SphinxDirective):
    """Show functions of one of optimlab's files, without their docstrings."""

    required_arguments = 2
    optional_arguments = 5

    def run(self) -> list[nodes.Node]:
        path = ROOT / "optimlab" / self.arguments[0]
        self.env.note_dependency(str(path))
        source = path.read_text(encoding="utf-8")
        functions = [without_docstring(source, name) for name in self.arguments[1:]]
        return [literal("\n\n\n".join(functions), "python", f"optimlab/{path.name}")]


def without_docstring(source: str, name: str) -> str:
    """Return the source of a function or ``Class.method``.

    Raises:
        ExtensionError: if there is none of that name.
    """
    node: ast.AST | None = ast.parse(source)
    for part in name.split("."):
        inside = getattr(node, "body", [])
        node = next((child for child in inside if getattr(child, "name", "") == part), None)
    if not isinstance(node, ast.FunctionDef):
        raise ExtensionError(f"no function is called {name}")
    lines = source.splitlines()
    first = node.body[0]
    docstring = (
        range(first.lineno - 1, first.end_lineno or 0) if ast.get_docstring(node) else range(0)
    )
    kept = [
        lines[number]
        for number in range(node.lineno - 1, node.end_lineno or 0)
        if number not in docstring
    ]
    return textwrap.dedent("\n".join(kept))


class Program(SphinxDirective):
    """Record a step of an optimizer as a program."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"step": directives.positive_int}

    def run(self) -> list[nodes.Node]:
        optimizer = built(self.arguments[0], [torch.zeros(2)])
        program = optimizer.program(step=self.options.get("step", 2))
        return [literal(str(program), "text")]


class Steps(SphinxDirective):
    """Take three steps on two weights, and show every operation with its numbers."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        # f(x, y) = x**2 / 2 + 5 * y**2: a bowl ten times as steep in y as in x.
        weight = torch.tensor([1.0, 1.0], requires_grad=True)
        optimizer = built(self.arguments[0], [weight])
        with optimlab.trace(optimizer, {0: [0, 1]}) as trace:
            for _ in range(3):
                optimizer.zero_grad()
                (weight[0] ** 2 / 2 + 5 * weight[1] ** 2).backward()
                optimizer.step()
        return [table(list(rows(trace.steps)))]


def rows(steps: Sequence[TracedStep]) -> Iterator[tuple[str, list[str]]]:
    """Yield each operation of the steps, and the two numbers it gives in each of them."""
    yield "", [f"step {step.step}" for step in steps]
    yield "grad", [_pair(_operand(step, "grad")) for step in steps]
    given = [_given(step) for step in steps]
    for code in dict.fromkeys([*_only_at_first(given), *given[-1]]):
        yield code, [_pair(values[code]) if code in values else "–" for values in given]


def _given(step: TracedStep) -> dict[str, Any]:
    """Return what every operation gives, by its code with hyperparameters for their numbers."""
    found = {}
    for operation in step.operations:
        if operation.name == "zeros_like" or operation.results[0].name == "step":
            continue  # state that is made, and counted: the page says so
        origins = {
            number: origin
            for number in operation.scalars.values()
            if (origin := step.provenance.of(operation.name, number))
        }
        found[operation.spelt(origins)] = operation.results[0].kept
    return found


def _only_at_first(given: Sequence[dict[str, Any]]) -> list[str]:
    return [code for code in given[0] if code not in given[-1]]


def _operand(step: TracedStep, name: str) -> Any:
    for operation in step.operations:
        for value in operation.operands:
            if value.name == name:
                return value.kept
    raise ExtensionError(f"no operation of the step reads {name}")


def _pair(numbers: Any) -> str:
    return "\n".join(f"{number:.6g}" for number in numbers)


def code(text: str) -> nodes.literal:
    """Return words of code."""
    return nodes.literal("", text)


def table(
    lines: Sequence[tuple[str, Sequence[str]]], label: Callable[[str], nodes.Node] = code
) -> nodes.table:
    """Lay lines of text out as a table, of which the first is the head, each behind its label."""
    body = nodes.tgroup(cols=1 + len(lines[0][1]))
    for _ in range(1 + len(lines[0][1])):
        body += nodes.colspec(colwidth=1)
    head, rest = nodes.thead(), nodes.tbody()
    for place, (name, cells) in enumerate(lines):
        row = nodes.row()
        row += nodes.entry("", nodes.paragraph("", "", label(name) if name else nodes.Text("")))
        for cell in cells:
            lines_of_cell = [nodes.line("", text) for text in cell.split("\n")]
            row += nodes.entry("", nodes.line_block("", *lines_of_cell))
        (rest if place else head).append(row)
    body += [head, rest]
    return nodes.table("", body, classes=["steps"])


class Numpy(SphinxDirective):
    """Show the first formula of the page that covers every option as NumPy."""

    def run(self) -> list[nodes.Node]:
        source = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        for formula in formulas(source, markdown=True):
            if "% with every option" in formula.text:
                equations, _ = read(formula.text)
                return [literal(as_numpy(equations), "python")]
        raise ExtensionError(f"{self.env.docname} has no formula for every option")


class Speed(SphinxDirective):
    """Show the record of the benchmark in short."""

    RECORD: ClassVar = ROOT / "docs" / "bench" / "bench.json"
    RULES: ClassVar = {"sgd": "SGD", "momentum": "momentum", "adam": "Adam", "rmsprop": "RMSprop"}

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.RECORD))
        record = json.loads(self.RECORD.read_text(encoding="utf-8"))
        times: dict[str, dict[str, str]] = {}
        for outcome in record["outcomes"]:
            times.setdefault(outcome["workload"], {})[outcome["rule"]] = ratio(outcome)
        head = ("", list(self.RULES.values()))
        body = [(name, [found[rule] for rule in self.RULES]) for name, found in times.items()]
        made = record["environment"]
        elements = record["bits"]["optimlab"]
        note = (
            f"Recorded on {made['date'][:10]}: {made['cpu']}, {made['threads']} threads, "
            f"torch {made['torch']}, float32, medians of one interleaved run, in which "
            f"{elements['differing']:,} of {elements['elements']:,} compared elements differed."
        )
        return [table([head, *body], nodes.Text), nodes.paragraph("", note)]


def ratio(outcome: dict[str, Any]) -> str:
    """Return how many times as long torch's default takes, and torch's fused kernel."""
    medians = {name: seconds["median"] for name, seconds in outcome["seconds"].items()}
    shown = {"default": medians.get("for-loop"), "fused": medians.get("fused")}
    return "\n".join(
        f"{name} {m / medians['optimlab']:.2f}" for name, m in shown.items() if m is not None
    )


class StripComments(SphinxTransform):
    """Take the comments out of formulas, and see that the tests find every formula."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        page = Path(self.document["source"])
        is_tested = page.suffix == ".md" and page.parent.name != "reference"
        found = (
            {_squeezed(f.text) for f in formulas(page.read_text(encoding="utf-8"), markdown=True)}
            if is_tested
            else set()
        )
        for kind in (nodes.math_block, nodes.math):
            for node in list(self.document.findall(kind)):
                if is_tested and _squeezed(node.astext()) not in found:
                    raise ExtensionError(f"{page}: no test reads the formula {node.astext()}")
                text = re.sub(r"(?<!\\)%.*\n?", "", node.astext()).strip("\n")
                node.clear()
                node.append(nodes.Text(text))


def _squeezed(formula: str) -> str:
    return re.sub(r"(?<!\\)%.*|\s", "", formula)


def built(text: str, params: list[torch.Tensor]) -> optimlab.Rule:
    """Build the optimizer that ``Adam(lr=0.1)`` describes."""
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.strip())
    if match is None:
        raise ExtensionError(f"{text!r} describes no optimizer")
    options = eval(f"dict({match[2] or ''})", {"__builtins__": {}, "dict": dict})
    optimizer: optimlab.Rule = getattr(optimlab, match[1])(params, **options)
    return optimizer


def literal(text: str, language: str, caption: str = "") -> nodes.Node:
    """Return a block of code or output, with its name above it."""
    block = nodes.literal_block(text, text, language=language)
    if not caption:
        return block
    container = nodes.container("", literal_block=True, classes=["literal-block-wrapper"])
    container += [nodes.caption("", "", nodes.literal("", caption)), block]
    return container


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives with Sphinx."""
    app.add_config_value("run_programs", True, "env", types=[bool])
    app.add_directive("run", Run)
    app.add_directive("rule", Rule)
    app.add_directive("recorded", Program)
    app.add_directive("three-steps", Steps)
    app.add_directive("numpy", Numpy)
    app.add_directive("speed", Speed)
    app.add_transform(StripComments)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
