"""One audio stream: samples in, windows of features out, and where in time it stands."""

from __future__ import annotations

import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.fbank import OnlineFbank
from residualformer.errors import UserError
from residualformer.runtime.audio import Resampler, to_mono
from residualformer.runtime.model import ExportedModel, State
from residualformer.runtime.search import Hypothesis, SearchState
from residualformer.runtime.tokens import to_text

HALF_WINDOW_S = 0.0125  # a feature frame covers 25 ms around its middle
PIECE_S = 1.0  # audio that is turned into features at a time


@dataclass(frozen=True)
class Result:
    """What was recognised between two endpoints; all times in seconds from the start of the stream.

    Attributes:
        text: the words.
        tokens: the output units as text.
        times: of each token, the start of the encoder frame that wrote it.
        needed: of each token, the time of the last sample that had to be heard before it could be written.
        latencies: of each token, real time that passed between the arrival of that sample and the token.
        score: log-probability (natural).
        start, end: the part of the stream that the result is about.
        nbest: the best hypotheses as ids, the first of which is told above; their frames count from `start`.
    """

    text: str
    tokens: list[str]
    times: list[float]
    needed: list[float]
    latencies: list[float]
    score: float
    start: float
    end: float
    nbest: list[Hypothesis]

    def to_dict(self) -> dict[str, Any]:
        """All but `nbest` as JSON values."""
        values = asdict(self)
        del values["nbest"]
        return values


class Stream:
    """Made by `Recognizer.create_stream`, fed by `accept_waveform` and `finish`, moved on by `Recognizer.decode`.

    Attributes:
        segments: results that an endpoint or the end has closed; take them out with `pop_segments`.
    """

    def __init__(self, model: ExportedModel, search_state: SearchState):
        self.segments: list[Result] = []
        self._model, self._frame_s, self._rate = model, model.stride * FRAME_SHIFT_S, model.features.sample_rate_hz
        self._fbank = OnlineFbank(model.features)
        self._pieces: deque[NDArray[np.float32]] = deque()  # not yet turned into features
        self._resampler: tuple[int, Resampler] | None = None
        self._buffer = np.empty((0, model.features.num_mel_bins), np.float32)
        self._finished = self._flushed = False
        self._received_s = 0.0
        self._arrivals: deque[tuple[float, float]] = deque()  # (seconds received by then, clock)
        self._position = 0  # feature frames that no step will need again
        self.begin(search_state)

    def accept_waveform(
        self, samples: NDArray[Any], sample_rate_hz: int | None = None, arrived: float | None = None
    ) -> None:
        """Give the next samples, (S,) or (S, channels): floats in [-1, 1] or integers of 8 to 32 bits.

        Args:
            sample_rate_hz: their rate; default that of the model. It must not change within a stream.
            arrived: `time.perf_counter()` of their arrival, if that was not just now.

        Raises:
            UserError: the samples are no audio, or the rate changes.
            ValueError: the stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished: create another one")
        rate = self._rate if sample_rate_hz is None else sample_rate_hz
        if rate <= 0 or self._resampler is not None and rate != self._resampler[0]:
            before = f", not {self._resampler[0]} Hz as before" if self._resampler else ""
            raise UserError(f"audio at {rate} Hz{before}: give a stream samples of one rate above 0.")
        samples = to_mono(samples)
        if self._resampler is None:
            self._resampler = rate, Resampler(rate, self._rate)
        self._received_s += len(samples) / rate
        self._arrivals.append((self._received_s, time.perf_counter() if arrived is None else arrived))
        for start in range(0, len(samples), size := max(1, round(PIECE_S * rate))):
            self._pieces.append(samples[start : start + size])

    def finish(self) -> None:
        """No more samples will come; what is left is decoded by the next `Recognizer.decode`."""
        if not self._finished:
            self._finished = True
            self._arrivals.append((float("inf"), time.perf_counter()))

    @property
    def received_s(self) -> float:
        """Seconds of audio accepted."""
        return self._received_s

    def pop_segments(self) -> list[Result]:
        """The closed results, oldest first; they are forgotten."""
        segments, self.segments = self.segments, []
        return segments

    # What follows is for the recognizer.

    def begin(self, search_state: SearchState) -> None:
        """Start a segment here."""
        self.encoder_state: State = self._model.encoder_state()
        self.search_state = search_state
        self._start = self._position
        self._latencies = array("f")  # of each step

    def window(self) -> NDArray[np.float32] | None:
        """The model's next window of features (t, F), shorter at the end; None: not there yet, or never."""
        size = self._model.window
        self._fill(size)
        if len(self._buffer) >= size or self._flushed and len(self._buffer) and not self._model.tail_s:
            return self._buffer[:size]
        return None

    def step_done(self, window: int) -> None:
        """The encoder has seen `window` frames and moved on, and the search has read what it gave."""
        shift = self._model.shift
        needed = self._needed_s(self._position + window)
        while len(self._arrivals) > 1 and self._arrivals[0][0] < needed - 1e-9:
            self._arrivals.popleft()
        self._latencies.append(time.perf_counter() - self._arrivals[0][1])
        self._position += min(shift, len(self._buffer))
        self._buffer = self._buffer[shift:]

    def is_over(self) -> bool:
        """Whether everything is decoded and no more will come."""
        return self._flushed and len(self._buffer) < (self._model.window if self._model.tail_s else 1)

    def silence_and_length_s(self) -> tuple[bool, float, float]:
        """Of the open segment: whether something was written, audio since then (or since its start), its audio."""
        last, done = self.search_state.last_label(), self.search_state.num_frames
        trailing = done if last is None else done - 1 - last
        return last is not None, trailing * self._frame_s, done * self._frame_s

    def result(self, nbest: int = 1) -> Result:
        """What is recognised so far in the open segment."""
        hypotheses = self.search_state.nbest(nbest)
        hypothesis = hypotheses[0]
        pieces = [self._model.pieces[token] for token in hypothesis.tokens]
        start = self._start * FRAME_SHIFT_S
        end = min(self._position * FRAME_SHIFT_S, self._received_s)
        model = self._model
        steps = [frame * model.stride // model.shift for frame in hypothesis.frames]
        windows = [self._needed_s(self._start + step * model.shift + model.window) for step in steps]
        return Result(
            to_text(pieces),
            pieces,
            [round(start + frame * self._frame_s, 2) for frame in hypothesis.frames],
            [round(min(needed, self._received_s), 4) for needed in windows],
            [round(self._latencies[step], 4) for step in steps],
            round(hypothesis.score, 4),
            round(start, 2),
            round(end, 2),
            hypotheses,
        )

    def _needed_s(self, frames: int) -> float:
        """Audio in which the first `frames` feature frames lie."""
        return (frames - 0.5) * FRAME_SHIFT_S + HALF_WINDOW_S

    def _fill(self, size: int) -> None:
        """Turn samples into features until there are `size`, or no samples are left."""
        while len(self._buffer) < size and not self._flushed:
            if self._pieces:
                self._fbank.accept(self._resampler[1](self._pieces.popleft()))
            elif self._finished:
                self._flush()
            else:
                return
            self._buffer = np.concatenate([self._buffer, self._fbank.pop()])

    def _flush(self) -> None:
        """What resampler and filterbank still hold, and the silence that the model asks for."""
        if self._resampler is not None:
            self._fbank.accept(self._resampler[1](np.empty(0, np.float32), last=True))
        self._fbank.accept(np.zeros(round(self._model.tail_s * self._rate), np.float32))
        self._fbank.finish()
        self._flushed = True
