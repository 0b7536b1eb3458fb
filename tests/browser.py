"""The browser that the page tests drive: one that is installed, or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: tests also run as root in containers. Nothing is loaded that a page did not ask for.
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_browser() -> str:
    """Path of a Chromium or Chrome; skips the test where there is none."""
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here: {', '.join(NAMES)}")
    return browser


@contextmanager
def start_browser() -> Iterator[Browser]:
    """A headless browser under playwright's control; skips where playwright or a browser is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = find_browser()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(SWITCHES))
        try:
            yield browser
        finally:
            browser.close()
