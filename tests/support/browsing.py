"""What a page does in a browser that it should not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request


def watch(page: Page, complaints: list[str]) -> None:
    """Note the errors of a page, what it could not load, and what it asks of other machines."""

    def note_foreign(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            complaints.append(request.url)

    def note_error(kind: str, text: str) -> None:
        if kind == "error":
            complaints.append(text)

    page.on("console", lambda said: note_error(said.type, said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("request", note_foreign)
