"""What tests share: the devices they run on, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# It has no examples to run, and docs/ has a module of the same name.
collect_ignore = ["conftest.py"]


DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.cuda))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device type in turn."""
    return torch.device(request.param)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no CUDA device, and say so."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium without a window; OPTIMLAB_BROWSER=required fails where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="pages are opened with playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    with api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            nothing = f"no Chromium to open pages in: {str(error).splitlines()[0]}"
            if os.environ.get("OPTIMLAB_BROWSER") == "required":
                pytest.fail(nothing)
            pytest.skip(nothing)
        yield chromium
        chromium.close()
