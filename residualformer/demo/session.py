"""The recognition of one stream of the page, apart from the network: settings and samples in, messages out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from residualformer.context.scorer import Context, joint
from residualformer.data.audio import rate_problem
from residualformer.errors import UserError
from residualformer.runtime.recognizer import Recognizer

MAX_STREAM_S = 3600.0
MAX_HOTWORDS, MAX_HOTWORD_CHARACTERS = 1000, 100


@dataclass(frozen=True)
class Settings:
    """What the page asks for a stream: the rate of its samples, and hotwords."""

    rate_hz: int
    hotwords: list[str]  # each "PHRASE" or "PHRASE :SCORE"


def read_settings(text: str) -> Settings:
    """Read the first message of a stream, such as `{"rate": 48000, "hotwords": ["ANN ARBOR"]}`.

    Raises:
        UserError: it has another form, the rate is impossible, or there are too many hotwords.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    expected = 'the first message must be like {"rate": 48000, "hotwords": ["ANN ARBOR"]}.'
    if not isinstance(content, dict) or not content.keys() <= {"rate", "hotwords"}:
        raise UserError(expected)
    rate, hotwords = content.get("rate"), content.get("hotwords", [])
    if type(rate) is not int or not isinstance(hotwords, list) or not all(isinstance(each, str) for each in hotwords):
        raise UserError(expected)
    if problem := rate_problem(rate):
        raise UserError(f"the first message {problem}: give the rate at which the audio was recorded.")
    if len(hotwords) > MAX_HOTWORDS or any(len(each) > MAX_HOTWORD_CHARACTERS for each in hotwords):
        raise UserError(f"give at most {MAX_HOTWORDS} hotwords, of {MAX_HOTWORD_CHARACTERS} characters each.")
    return Settings(rate, [each.strip() for each in hotwords if each.strip()])


class Session:
    """A stream of 16-bit samples.

    Its messages are JSON values: `segments`, those that have ended (see `Result.to_dict`); `partial`, the text of the
    open one; `received`, seconds of audio; `rtf`, seconds of work for each of them; `latency`, seconds between the
    arrival of the audio that the newest token needed and the token; `branch`, the present one of an AmNet, or depth (0
    is slow).

    Args:
        grammar: all that may be said.

    Raises:
        UserError: the model cannot write a hotword, or its score is no number.
    """

    def __init__(self, recognizer: Recognizer, settings: Settings, grammar: Context | None = None) -> None:
        self._recognizer, self._rate_hz = recognizer, settings.rate_hz
        hotwords = recognizer.hotwords(settings.hotwords) if settings.hotwords else None
        self._stream = recognizer.create_stream(joint([hotwords, grammar]))
        self._spent_s = 0.0

    def accept(self, data: bytes, arrived: float) -> dict[str, Any]:
        """Recognize the next samples, little-endian integers of 16 bits, of one channel; return a message.

        Args:
            arrived: `time.perf_counter()` when they came.

        Raises:
            UserError: there are none, or half a one, or the stream becomes too long.
        """
        if not data or len(data) % 2:
            raise UserError(f"samples have 2 bytes each; a message of {len(data)} bytes came: send whole samples.")
        if self._stream.received_s + len(data) / 2 / self._rate_hz > MAX_STREAM_S:
            raise UserError(f"a stream may last {MAX_STREAM_S:g} s at most: start another one.")
        self._stream.accept_waveform(np.frombuffer(data, "<i2").astype(np.int16), self._rate_hz, arrived)
        return self._decoded()

    def finish(self) -> dict[str, Any]:
        """Recognize the rest; return the last message, in which `ended` is true."""
        self._stream.finish()
        return {**self._decoded(), "ended": True}

    def _decoded(self) -> dict[str, Any]:
        started = time.perf_counter()
        self._recognizer.decode([self._stream])
        segments = self._stream.pop_segments()
        found = self._recognizer.partial(self._stream)
        self._spent_s += time.perf_counter() - started
        latencies = [*(segments[-1].latencies if segments else []), *found.latencies]
        received = self._stream.received_s
        return {
            "segments": [segment.to_dict() for segment in segments],
            "partial": found.text,
            "received": round(received, 3),
            "rtf": round(self._spent_s / received, 4) if received else None,
            "latency": latencies[-1] if latencies else None,
            "branch": self._recognizer.model.branch(self._stream.encoder_state),
        }
