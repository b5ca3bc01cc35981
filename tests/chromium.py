"""Headless Chromium, for tests of what people see.

Without Chromium and its driver these tests are skipped, unless ``ZIBAI_NEED_BROWSER`` is set.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 1280

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDED = bool(os.environ.get("ZIBAI_NEED_BROWSER"))

needs_browser = pytest.mark.skipif(not (BROWSER and DRIVER) and not NEEDED, reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars"),
        *(f"window-size={WIDTH},1000", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = started(webdriver, options)
    try:
        yield driver
    finally:
        driver.quit()


def started(webdriver: Any, options: Any, attempts: int = 3) -> Any:
    """A driver. Selenium looks for a free port and tells chromedriver, and in between another test may take it."""
    from selenium.common.exceptions import WebDriverException

    for left in reversed(range(attempts)):
        try:
            return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        except WebDriverException as error:
            if "unexpectedly exited" not in str(error) or not left:
                raise
    raise AssertionError
