"""Pages in headless Chromium; what needs it is skipped without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

WAIT_MS = 300_000  # for what takes a few seconds on a machine with nothing else to do


def fake_microphone(wav: Path) -> list[str]:
    """Options of a browser whose microphone, which every page gets, plays a file once."""
    use = f"--use-file-for-fake-audio-capture={wav}%noloop"
    return ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", use]


@contextmanager
def opened(address: str, *options: str, expected: str = "favicon") -> Iterator[Any]:
    """The page at an address; nothing in it may go wrong unnoticed, but for complaints with the `expected` words."""
    with playwright.sync_playwright() as program:
        try:
            chromium = shutil.which("chromium")
            browser = program.chromium.launch(args=list(options), executable_path=chromium, timeout=WAIT_MS)
        except playwright.Error as error:
            if "Executable doesn't exist" not in str(error):
                raise
            pytest.skip("there is no Chromium (playwright install chromium)")
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        complaints: list[str] = []
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
        known = ("favicon", "404", expected)
        assert [each for each in complaints if not any(words in each for words in known)] == []
