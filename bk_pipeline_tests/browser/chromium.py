"""Controls Debian's Chromium with Playwright and takes screenshots.

Playwright's own browsers are on a host that CI cannot reach. If Chromium is missing, tests are
skipped; with `BK_PIPELINE_TEST_PROGRAMS=required` they fail.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bk_pipeline_tests.dagster_dev import PATIENCE_S, PROJECT
from bk_pipeline_tests.programs import missing

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PICTURES = Path(os.environ.get("BK_PIPELINE_TEST_PICTURES") or PROJECT / ".screenshots")
COLORS = 128


def path_of_chromium() -> str:
    """Return the path of Chromium. If there is none, skip the test, or fail if it is required."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        missing("Chromium", "chromium")
    return found


@contextmanager
def browser_page(*, width: int = 1440, height: int = 900) -> Iterator[Page]:
    """Open a page in a new browser, with long timeouts for a loaded machine."""
    path = path_of_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=OPTIONS, timeout=PATIENCE_S * 1000
        )
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE_S * 1000)
            yield page
        finally:
            browser.close()


def take_picture(page: Page, name: str, *, full_page: bool = False) -> Path:
    """Save a screenshot as `name`.png, small enough for a repository; return its path."""
    # Elements under the mouse are highlighted.
    page.mouse.move(0, 0)
    content = page.screenshot(animations="disabled", full_page=full_page)
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path
