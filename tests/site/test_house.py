"""The page that says where things are: the files are there, the names in them, the floors so."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "house.md"
PACKAGE = PAGE.parents[2] / "optimlab"
LINKS = sorted(set(re.findall(r"\[`([^`]+)`\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("text", "link"), LINKS)
def test_a_link_leads_to_a_file_of_its_text_that_has_the_name(text: str, link: str) -> None:
    path = (PAGE.parent / link).resolve()
    assert path.is_file()
    if "/" in text:
        assert path.as_posix().endswith(text)
    else:
        source = path.read_text(encoding="utf-8")
        for name in text.split("."):
            assert re.search(rf"^ *(def|class) {name}\b|^{name}\b", source, re.MULTILINE)


def test_the_floors_are_those_that_the_linter_holds_and_nothing_is_left_out() -> None:
    _, head, rest = PAGE.read_text(encoding="utf-8").partition("| floor |")
    rows = re.findall(r"^\| (`.*?) \|", (head + rest).partition("\n\n")[0], re.MULTILINE)
    settings = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(
        r'^    "(.*)",$', settings.partition("\nlayers = [\n")[2].partition("]")[0], re.MULTILINE
    )
    floors = [sorted(re.findall(r"`(\w+)`", row)) for row in rows]
    assert floors == [sorted(layer.split(" | ")) for layer in layers if "__" not in layer][:-1]
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    on_page = {name for floor in floors for name in floor}
    assert {name for name in there if "__" not in name} - {"version"} <= on_page
