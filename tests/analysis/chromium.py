"""Drive a headless Chromium that opens a page from disk and keeps its console."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1280,900")


class Browser:
    """A browser. driver: selenium's driver."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        self.driver.get(page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.driver.execute_script(f"return {script}")

    def press(self, selector: str) -> None:
        """Click the first visible element of a CSS selector."""
        from selenium.webdriver.common.by import By

        next(e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()).click()

    def type(self, selector: str, *keys: str) -> None:
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(*keys)

    def texts(self, selector: str) -> list[str]:
        """Return the text of each visible element."""
        shown = f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility())"
        return self.run(f"{shown}.map(e => e.textContent.trim())")

    def prefer(self, scheme: str) -> None:
        """Set the system's scheme to `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def resize(self, width: int) -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def print(self) -> bytes:
        """Print the page (PDF)."""
        printed = self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
        return base64.b64decode(printed["data"])

    def busy_seconds(self) -> float:
        """Return the processor seconds of the browser's processes so far."""
        import psutil

        processes = psutil.Process(self.driver.service.process.pid).children(recursive=True)
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def complaints(self) -> list[str]:
        """Return the messages of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser for a `with`; skip the test if none is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no Chromium with its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # Chromium has no sandbox for root, and tests in a container run as root.
    for option in (*_OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(started)
    finally:
        started.quit()
