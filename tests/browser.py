"""A real browser for tests: Debian's chromium, with nothing of its own on the network."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Set where a browser must be there, so that its tests can't be left out unnoticed.
REQUIRED = "SLIMDIFF_FX_NEEDS_BROWSER"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def require_browser() -> tuple[str, str]:
    """Give the paths of chromium and of its driver; where they are missing, skip, or fail if they were promised."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is not None and found[1] is not None:
        return found[0], found[1]
    words = "needs chromium and its driver: apt-get install chromium chromium-driver"
    if os.environ.get(REQUIRED):
        pytest.fail(words)
    pytest.skip(words)


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Open one with a new profile; its console and its requests are recorded."""
    chromium, driver = require_browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def resize(opened: Any, width: int, height: int = 900, scale: float = 1) -> None:
    """Give the page this many CSS pixels, as a phone would with a narrow one."""
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600},
    )


def prefer(opened: Any, scheme: str) -> None:
    """Set what the system prefers, "light" or "dark"."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def screenshot(opened: Any, file: Path, height: int | None = None) -> None:
    """Save a picture of the whole page, or of its first pixels."""
    width = opened.execute_script("return document.documentElement.clientWidth")
    whole = opened.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
    arguments = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    data = opened.execute_cdp_cmd("Page.captureScreenshot", arguments)["data"]
    file.write_bytes(base64.b64decode(data))


def requested(opened: Any) -> list[str]:
    """List what has been asked for since the last time, by address, but for data and the browser's own pages."""
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "chrome:", "about:"))]
