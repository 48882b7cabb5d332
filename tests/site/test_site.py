"""The built site: links that lead somewhere, nothing fetched, every page shown without an error.

``nox -s docs`` builds the site and runs these; without a site they are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from browsing import watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("OPTIMLAB_SITE", ROOT / "docs" / "_build" / "html")).resolve()
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
# Written by the theme's search for its own frame, and without a page around it.
PAGES = [page for page in PAGES if not page.startswith("_static/")]

pytestmark = pytest.mark.skipif(not PAGES, reason="no site is built; `nox -s docs` builds it")


def attributes(page: str, *names: str) -> Iterator[str]:
    text = (SITE / page).read_text(encoding="utf-8")
    text = re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    for name in names:
        for match in re.finditer(rf"""<[^>]*\s{name}=["']([^"']*)["']""", text):
            yield match[1]


def anchors(page: str) -> set[str]:
    text = (SITE / page).read_text(encoding="utf-8")
    return {unquote(found) for found in re.findall(r"""\s(?:id|name)=["']([^"']+)["']""", text)}


@pytest.mark.parametrize("page", PAGES)
def test_every_internal_link_leads_somewhere(page: str) -> None:
    lost = []
    for link in attributes(page, "href", "src"):
        parts = urlsplit(link.replace("&amp;", "&"))
        if parts.scheme or parts.netloc or link in ("", "#"):
            continue
        path = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
        path = path / "index.html" if path.is_dir() else path
        if not path.resolve().is_file():
            lost.append(link)
        elif parts.fragment and path.suffix == ".html":
            target = path.resolve().relative_to(SITE).as_posix()
            is_viewers = target.endswith("viewer.html")  # there it says which situation to show
            if not is_viewers and unquote(parts.fragment) not in anchors(target):
                lost.append(link)
    assert not lost


@pytest.mark.parametrize("page", PAGES)
def test_nothing_on_a_page_is_fetched_from_elsewhere(page: str) -> None:
    text = (SITE / page).read_text(encoding="utf-8")
    fetched = re.findall(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["'](https?:)?//""", text)
    sheets = re.findall(r"""<link[^>]*rel=["']stylesheet["'][^>]*href=["'](?:https?:)?//""", text)
    assert not fetched
    assert not sheets


PROGRAMS = [page for page in PAGES if page.startswith("gallery/") and "index" not in page]
DRAWING = ("sine_ladder", "two_layer_network", "sgd_against_adam")


@pytest.mark.skipif(
    not any("sphx-glr-script-out" in (SITE / page).read_text() for page in PROGRAMS),
    reason="this site was built without running the programs",
)
@pytest.mark.parametrize("page", PROGRAMS)
def test_the_gallery_shows_what_each_program_printed_and_drew(page: str) -> None:
    text = (SITE / page).read_text(encoding="utf-8")
    assert "sphx-glr-script-out" in text
    assert "SHA-256" in text.split("sphx-glr-script-out")[1]
    assert ("sphx-glr-single-img" in text) == (Path(page).stem in DRAWING)


WIDTHS = {"desktop": 1280, "phone": 390}
WIDER = """
[...document.querySelectorAll('html, .bd-main, .bd-article-container, article')]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => `${e.className || e.tagName} is wider than the screen: ${e.scrollWidth}`)
"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_browser_shows_each_page_without_an_error(
    page: str, width: str, browser: Browser
) -> None:
    wrong: list[str] = []
    tab = browser.new_page(viewport={"width": WIDTHS[width], "height": 800})
    watch(tab, wrong)
    query = "?q=momentum" if page == "search.html" else ""
    tab.goto((SITE / page).as_uri() + query)
    tab.wait_for_load_state("load")
    unset = "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'))"
    tab.wait_for_function(f"{unset}.length === 0", timeout=15_000)
    wrong += tab.evaluate(
        "[...document.querySelectorAll('mjx-merror')].map(e => `not set: ${e.textContent}`)"
    )
    # A macro that MathJax does not know it sets in red, without an error.
    wrong += tab.evaluate(
        "[...document.querySelectorAll('mjx-container [style*=\"color: red\"]')]"
        ".map(e => `not known: ${e.textContent}`)"
    )
    if width == "phone" and not page.startswith("_modules/"):  # listings of 100 columns
        wrong += tab.evaluate(WIDER)
    tab.close()
    assert not wrong
