"""The page in headless Chromium, whose microphone plays a known file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support.browser import fake_microphone, opened
from support.loud_model import RATE, SPEECH

pytest.importorskip("websockets")

SILENCE = np.zeros(4 * RATE, np.float32)


@pytest.fixture(scope="module")
def address(folder):
    command = [sys.executable, "-m", "residualformer", "demo", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        yield line.split()[4]
        process.terminate()


@pytest.fixture
def page(folder, address):
    """The page, in a browser that grants it a microphone; nothing in it may go wrong unnoticed."""
    heard = folder / "microphone.wav"
    soundfile.write(heard, np.concatenate([SPEECH, SILENCE]), RATE, subtype="PCM_16")
    with opened(address, *fake_microphone(heard)) as page:
        yield page


def test_a_microphone_is_heard(page):
    page.click("#microphone")
    page.wait_for_selector("#text .segment:nth-of-type(2)")  # after the name of the source: the rule for silence holds
    page.click("#microphone")
    # On a busy machine Chromium drops parts of what it plays, so that words may be missing; files are exact, below.
    words = page.inner_text("#text .segment").split()
    assert words and {*words} <= {"a", "b"}
    assert page.inner_text("#model") == "loud" and page.is_hidden("#branches")
    assert float(page.inner_text("#rtf")) > 0 and page.inner_text("#latency").endswith(" ms")
    shades = page.eval_on_selector_all("#text .segment span", "words => words.map(word => +word.style.opacity)")
    assert len(shades) == len(words) and all(0.3 <= shade <= 1 for shade in shades)


def test_files_are_read_one_after_another(page, folder):
    stereo = np.stack([SPEECH, SPEECH], 1)
    soundfile.write(folder / "stereo.flac", stereo, RATE)
    (folder / "broken.wav").write_text("no audio")
    page.set_input_files("#files", [str(folder / "speech.wav"), str(folder / "stereo.flac")])
    page.locator("#text .segment").nth(1).wait_for()
    assert [text.split() for text in page.locator("#text .segment").all_inner_texts()] == [["a", "b", "a"]] * 2
    assert page.locator("#text .name").all_inner_texts() == ["speech.wav", "stereo.flac"]
    page.set_input_files("#files", [str(folder / "broken.wav")])
    page.locator("#state", has_text="broken.wav: ").wait_for()


def test_a_wrong_hotword_is_told(page, folder):
    page.fill("#hotwords", "a :x")
    page.set_input_files("#files", [str(folder / "speech.wav")])
    page.locator("#state", has_text="is no number above 0").wait_for()
