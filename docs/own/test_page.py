"""The code that stands beside the page is the code that stands on it."""

from pathlib import Path

FOLDER = Path(__file__).parent


def test_the_module_is_made_of_the_blocks_of_the_page() -> None:
    """Compare every class, line by line."""
    page = (FOLDER.parent / "own.md").read_text(encoding="utf-8")
    module = (FOLDER / "lion.py").read_text(encoding="utf-8")
    _, *classes = module.split("\n\n\n")
    assert len(classes) == 3
    assert all(text.strip() in page for text in classes)
