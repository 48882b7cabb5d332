"""The error index tells the truth, and leaves out nothing that optimlab raises."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import optimlab
import optimlab.__main__ as command_line

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
STOCK, OURS = "import torch.optim as optim", "import optimlab as optim"
CORE = [
    *("sgd", "adam", "adamw", "rmsprop", "rule", "optimizer", "execution"),
    *(
        f"core/{name}"
        for name in ("groups", "checkpoint", "checks", "devices", "program", "state", "values")
    ),
]
EXEMPT = {
    "AttributeError: X object has no attribute 'state'": "what Python says of any object whose "
    "`__init__` has not run yet",
    "ValueError: Tensor X must be 1-element": "of lr it stands there; betas of several elements "
    "are refused before, where they are compared with 0 and 1, in torch as well",
}
"""What core files raise without an entry of its own, with the reason."""


@dataclass(frozen=True)
class Entry:
    """A message of the page, and the program that raises it."""

    heading: str
    language: str
    program: str
    section: str
    only_ours: bool


def entries() -> Iterator[Entry]:
    for section in PAGE.split("\n## ")[1:]:
        title, *parts = section.split("\n### ")
        for part in parts:
            heading, _, body = part.partition("\n")
            spelt = re.fullmatch(r"(`+) ?(.*?) ?\1", heading.strip())
            program = re.search(r"^```(\w+)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
            assert spelt, f"no message in code: {heading}"
            assert program, f"no program: {heading}"
            only_ours = "*optimlab only.*" in body
            yield Entry(spelt[2], program[1], program[2], title.splitlines()[0], only_ours)


def first_lines(section: str) -> str:
    """Return the program with which every program of a section starts."""
    head = PAGE.partition(section)[2].partition("\n### ")[0]
    found = re.search(r"^```python\n(.*?)^```$", head, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


PRELUDE = first_lines("# Error index")
FINDINGS = "Findings of the doctor and of lint"
ENTRIES = list(entries())
RAISED = [each for each in ENTRIES if each.language == "python" and each.section != FINDINGS]
COMMANDS = [each for each in ENTRIES if each.language == "console"]
FOUND = [each for each in ENTRIES if each.section == FINDINGS]


def short(entry: Entry) -> str:
    return re.sub(r"\W+", "-", entry.heading)[:60].strip("-")


def is_meant(heading: str, said: str) -> bool:
    """Tell whether a message is the heading's, in which `...` stands for what varies."""
    pattern = ".*".join(re.escape(part) for part in heading.split("..."))
    return re.fullmatch(pattern, said, re.DOTALL) is not None


def last_line(kind: type[BaseException] | type[Warning], message: object) -> str:
    """Return the end of a traceback, as Python prints it."""
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}: {message}".removesuffix(": ")


def said_by(program: str) -> list[str]:
    """Run a program, and return its warnings and its error as they are printed."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(compile(program, "errors.md", "exec"), namespace)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            said.append(last_line(type(error), error))
    return [last_line(each.category, each.message) for each in caught] + said


@pytest.mark.parametrize("entry", RAISED, ids=short)
def test_a_program_of_the_index_says_exactly_what_its_heading_says(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = PRELUDE + entry.program
    assert program.count(STOCK) == 1
    ours = said_by(program.replace(STOCK, OURS))
    # Nothing else is said, neither before nor after.
    assert [is_meant(entry.heading, each) for each in ours] == [True], ours
    if entry.only_ours:
        assert "optimlab" in entry.program + entry.heading
    else:
        assert said_by(program) == ours


@pytest.mark.parametrize("entry", COMMANDS, ids=short)
def test_a_command_of_the_index_says_exactly_what_its_heading_says(
    entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *arguments = shlex.split(entry.program.removeprefix("$ "))
    assert name == "optimlab"
    assert command_line.main(arguments) == 2
    assert is_meant(entry.heading, capsys.readouterr().err.strip())


@pytest.mark.parametrize("entry", FOUND, ids=short)
def test_a_finding_of_the_index_is_found_by_its_program(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where programs write their files
    namespace: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(PRELUDE + first_lines(FINDINGS) + entry.program, namespace)
    lines = [str(finding).splitlines()[0] for finding in namespace["found"].findings]
    assert any(is_meant(entry.heading, line) for line in lines), lines


# Nothing is left out.


def test_every_message_that_the_core_raises_stands_in_the_index() -> None:
    headings = [entry.heading for entry in RAISED]
    messages = {said for name in CORE for said in Source(name).raised()}
    assert len(messages) >= 30
    missing = {said for said in messages if not any(is_meant(h, said) for h in headings)}
    assert missing == set(EXEMPT)


def test_no_heading_is_so_open_that_it_would_cover_anything() -> None:
    for entry in RAISED:
        literal = entry.heading.replace("...", "").partition(": ")[2]
        assert len(literal) >= 4 * entry.heading.count("..."), entry.heading


def test_every_kind_of_finding_stands_in_the_index() -> None:
    files = (ROOT / "optimlab" / "lab" / "doctor").glob("*.py")
    kinds = {kind for path in files for kind in Source(f"lab/doctor/{path.stem}").kinds()}
    assert len(kinds) > 25
    assert kinds == {entry.heading.split(": ")[1] for entry in FOUND}


def test_every_reason_of_optimlab_info_stands_in_the_index() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", PAGE.partition("## Reasons of")[2], re.MULTILINE)
    said = [*Source("native/library").reasons(), *Source("native/self_check").reasons()]
    assert len(said) >= 12
    assert not [text for text in said if not any(is_part(text, row) for row in rows)]
    assert not [row for row in rows if not any(is_part(text, row) for text in said)]


def is_part(text: str, row: str) -> bool:
    return re.search(re.escape(text).replace("X", ".+"), row) is not None


class Source:
    """A file of optimlab, and the texts that it says, with X for what varies."""

    def __init__(self, name: str) -> None:
        path = ROOT / "optimlab" / f"{name}.py"
        self.nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        self.assigned = {
            target.id: node.value
            for node in self.nodes
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }

    def texts(self, node: ast.expr, *, named: bool = True) -> list[str]:
        """Return the texts that an expression may have."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return ["".join(self.texts(part, named=named)[0] for part in parts)]
            case ast.FormattedValue(value=ast.Name(id="VARIABLE")):
                return ["OPTIMLAB_NATIVE"]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return [a + b for a in self.texts(left) for b in self.texts(right)]
            case ast.IfExp(body=body, orelse=orelse):
                return self.texts(body) + self.texts(orelse)
            case ast.Call(func=ast.Attribute(value=pattern, attr="format"), args=[filled]):
                (filling,) = self.texts(filled, named=False)
                return [text.format(filling) for text in self.texts(pattern)]
            case ast.Name(id=name) if named and name in self.assigned:
                return self.texts(self.assigned[name], named=False)
        return ["X"]

    def raised(self) -> Iterator[str]:
        """Yield what it raises and warns of."""
        for node in self.nodes:
            match node:
                case ast.Raise(exc=ast.Name(id=kind)) | ast.Raise(exc=ast.Call(kind, args=[])):
                    yield kind if isinstance(kind, str) else ast.unparse(kind)
                case ast.Raise(exc=ast.Call(kind, args=[said, *_])):
                    # The message that refuses sparse gradients is an attribute of the class.
                    if ast.unparse(said) != "self.sparse_gradients":
                        yield from (f"{ast.unparse(kind)}: {text}" for text in self.texts(said))
                case ast.Call(ast.Attribute(ast.Name("warnings"), "warn"), args=[said, *_]):
                    yield from (f"UserWarning: {text}" for text in self.texts(said))
                case ast.AnnAssign(ast.Name("sparse_gradients"), value=ast.Constant(str(said))):
                    yield f"RuntimeError: {said}"
                case ast.Assign([ast.Name("sparse_gradients")], ast.Constant(str(said))):
                    yield f"RuntimeError: {said}"

    def kinds(self) -> Iterator[str]:
        """Yield the kinds of findings that it makes."""
        for node in self.nodes:
            match node:
                case ast.Call(ast.Name("error" | "warning" | "note" | "say"), [kind, *_]):
                    yield from self.texts(kind)
                case ast.Call(ast.Name("Finding"), [_, kind, *_]):
                    yield from self.texts(kind)

    def reasons(self) -> Iterator[str]:
        """Yield what is given as a reason: to an error, a keyword, or a variable of that name."""
        for node in self.nodes:
            match node:
                case (
                    ast.Call(func=ast.Name(id="UnusableError"), args=[said])
                    | ast.keyword(arg="reason", value=said)
                    | ast.Assign(targets=[ast.Name(id="reason")], value=said)
                ):
                    texts = (text.removesuffix("X") for text in self.texts(said, named=False))
                    yield from filter(None, texts)


def test_the_two_libraries_of_the_index_are_the_two_that_it_names() -> None:
    assert f"`{OURS}` does as well" in PAGE
    assert STOCK in PRELUDE
    assert optimlab.SGD.__module__.startswith("optimlab")
