"""One audio stream: samples in, windows of features out, and its position in time."""

from __future__ import annotations

import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residualformer.constants import FRAME_SHIFT_S
from residualformer.context.scorer import Context
from residualformer.context.verdict import Heard, Verdict
from residualformer.data.audio import rate_problem
from residualformer.data.fbank import OnlineFbank
from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.runtime.audio import Resampler, time_first, to_mono
from residualformer.runtime.greedy import GreedyState
from residualformer.runtime.model import Array, State, StreamingModel
from residualformer.runtime.search import SearchState
from residualformer.runtime.tokens import to_text
from residualformer.words.words import Timed

HALF_WINDOW_S = 0.0125  # a feature frame covers 25 ms around its middle
PIECE_S = 1.0  # audio of which features are computed at a time


@dataclass(frozen=True)
class Result:
    """The result of a segment, from one endpoint to the next; times are seconds from the start of the stream."""

    text: str
    tokens: list[str]  # as text
    times: list[float]  # of each token, the start of the encoder frame that wrote it
    needed: list[float]  # of each token, the time of the last sample that had to be heard before it could be written
    latencies: list[float]  # of each token, real time that passed between the arrival of that sample and the token
    score: float | None  # natural log-probability; None: the context lets no hypothesis end here, so there is no text
    start: float
    end: float
    nbest: list[Hypothesis]  # the best ones as ids, the first of which is the one above; frames count from `start`
    verdict: Verdict | None = None  # of a context that judges, on a segment that has ended
    timed: Timed | None = None  # words with times and confidences, of a segment that has ended, if they are wanted

    def to_dict(self) -> dict[str, Any]:
        """Return all but `nbest` as JSON values, and `context`, what scorers added, where they added something."""
        values = asdict(self)
        del values["nbest"], values["timed"], values["verdict"]
        values |= self.verdict.to_dict() if self.verdict else {}
        if self.nbest and self.nbest[0].context:
            values["context"] = round(self.nbest[0].context, 4)
        return values | (self.timed.to_dict() if self.timed else {})


class Stream:
    """An audio stream: created by `Recognizer.create_stream`, fed by `accept_waveform` and `finish`, and advanced by
    `Recognizer.decode`."""

    def __init__(
        self,
        model: StreamingModel,
        search_state: SearchState,
        context: Context | None = None,
        free_state: GreedyState | None = None,
    ):
        self.segments: list[Result] = []  # closed ones, which `pop_segments` takes out
        self.branches: list[int | None] | None = None  # set a list, and each step that begins in the audio adds to it
        self._model, self._frame_s, self._rate = model, model.stride * FRAME_SHIFT_S, model.features.sample_rate_hz
        self._fbank = OnlineFbank(model.features)
        self._pieces: deque[NDArray[np.float32]] = deque()  # not yet turned into features
        self._resampler: Resampler | None = None
        self._channels: int | None = None  # of what was accepted before
        self._buffer = np.empty((0, model.features.num_mel_bins), np.float32)
        self._finished = self._flushed = False
        self.received_s = 0.0  # audio accepted
        self._arrivals: deque[tuple[float, float]] = deque()  # (seconds received by then, clock)
        self._position = 0  # feature frames that no step will need again
        self.context = context
        self.begin(search_state, free_state)

    def accept_waveform(
        self, samples: ArrayLike, sample_rate_hz: int | None = None, arrived: float | None = None
    ) -> None:
        """Accept the next samples, (S,), (S, channels) or (channels, S), of a type that `to_mono` takes.

        The channels are averaged.

        Args:
            sample_rate_hz: their rate; default that of the model. It must not change within a stream.
            arrived: `time.perf_counter()` of their arrival, if that was not just now.

        Raises:
            UserError: the samples are no audio, or the rate or the number of channels changes.
            ValueError: the stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished: create another one")
        rate = self._rate if sample_rate_hz is None else sample_rate_hz
        if self._resampler is not None and rate != self._resampler.from_hz:
            raise UserError(f"audio at {rate} Hz, not {self._resampler.from_hz} Hz as before: keep to one rate.")
        if problem := rate_problem(rate):
            raise UserError(f"audio {problem}: give the rate at which it was recorded.")
        columns = time_first(np.asarray(samples), self._channels)
        mono = to_mono(columns)
        self._channels = columns.shape[1]
        if self._resampler is None:
            self._resampler = Resampler(rate, self._rate)
        self.received_s += len(mono) / rate
        self._arrivals.append((self.received_s, time.perf_counter() if arrived is None else arrived))
        size = max(1, round(PIECE_S * rate))
        self._pieces += [mono[start : start + size] for start in range(0, len(mono), size)]

    def finish(self) -> None:
        """Mark the end of the audio; the next `Recognizer.decode` decodes the rest."""
        if not self._finished:
            self._finished = True
            self._arrivals.append((float("inf"), time.perf_counter()))

    def pop_segments(self) -> list[Result]:
        """Return the results of closed segments, oldest first, and forget them."""
        segments, self.segments = self.segments, []
        return segments

    # The methods below are called by the recognizer.

    def begin(self, search_state: SearchState, free_state: GreedyState | None = None) -> None:
        """Start a segment at the present position; `free_state` is of a search without the context, if that judges."""
        self.encoder_state: State = self._model.encoder_state()
        self.encoded: list[Array] = []  # the encoder's output since then, if words are wanted
        self.search_state, self.free_state = search_state, free_state
        self._start = self._position
        self._latencies = array("f")  # of each step

    def window(self) -> NDArray[np.float32] | None:
        """Return the model's next window of features (t, F), shorter at the end; None if it is incomplete."""
        size = self._model.window
        self._fill(size)
        if len(self._buffer) >= size or self._flushed and len(self._buffer) and not self._model.tail_s:
            return self._buffer[:size]
        return None

    def step_done(self, window: int, encoder_state: State) -> None:
        """Advance by a step, after encoder and search have run on `window` feature frames; take the encoder's state."""
        if self.branches is not None and (not self._model.tail_s or self._position * FRAME_SHIFT_S < self.received_s):
            decided = self.encoder_state if self._model.branch_delay else encoder_state
            self.branches.append(self._model.branch(decided))
        self.encoder_state = encoder_state
        shift = self._model.shift
        needed = self._needed_s(self._position + window)
        while len(self._arrivals) > 1 and self._arrivals[0][0] < needed - 1e-9:
            self._arrivals.popleft()
        self._latencies.append(time.perf_counter() - self._arrivals[0][1])
        self._position += min(shift, len(self._buffer))
        self._buffer = self._buffer[shift:]

    def is_over(self) -> bool:
        """Return whether the audio has ended and all of it is decoded."""
        return self._flushed and len(self._buffer) < (self._model.window if self._model.tail_s else 1)

    def silence_and_length_s(self) -> tuple[bool, float, float]:
        """Return if the open segment has tokens, the seconds since the last one (or its start), and its length."""
        state = self.free_state or self.search_state
        last, done = state.last_label(), state.num_frames
        trailing = done if last is None else done - 1 - last
        return last is not None, trailing * self._frame_s, done * self._frame_s

    def result(self, nbest: int = 1, ended: bool = False) -> Result:
        """Return the result so far of the open segment; `ended`: as a whole utterance (`SearchState.nbest`)."""
        hypotheses = self.search_state.nbest(nbest, ended)
        verdict = None
        if ended and self.context and self.free_state:
            verdict = self.context.judge(self._heard(hypotheses, self.free_state))
            hypotheses = hypotheses if verdict is None or verdict.match else []
        hypothesis = hypotheses[0] if hypotheses else Hypothesis([], [], 0.0)
        pieces = [self._model.pieces[token] for token in hypothesis.tokens]
        start = self._start * FRAME_SHIFT_S
        end = min(self._position * FRAME_SHIFT_S, self.received_s)
        model = self._model
        steps = [frame * model.stride // model.shift for frame in hypothesis.frames]
        windows = [self._needed_s(self._start + step * model.shift + model.window) for step in steps]
        return Result(
            text=to_text(pieces),
            tokens=pieces,
            times=[round(start + frame * self._frame_s, 2) for frame in hypothesis.frames],
            needed=[round(min(needed, self.received_s), 4) for needed in windows],
            latencies=[round(self._latencies[step], 4) for step in steps],
            score=round(hypothesis.score, 4) if hypotheses else None,
            start=round(start, 2),
            end=round(end, 2),
            nbest=hypotheses,
            verdict=verdict,
        )

    def _heard(self, hypotheses: list[Hypothesis], free_state: GreedyState) -> Heard:
        best = hypotheses[0] if hypotheses else None
        text = to_text([self._model.pieces[token] for token in best.tokens]) if best else ""
        return Heard(text, best.score if best else None, free_state.nbest()[0], self._frame_s)

    def _needed_s(self, frames: int) -> float:
        """Return the seconds of audio that the first `frames` feature frames cover."""
        return (frames - 0.5) * FRAME_SHIFT_S + HALF_WINDOW_S

    def _fill(self, size: int) -> None:
        """Compute features until there are `size`, or no samples are left."""
        while len(self._buffer) < size and not self._flushed:
            if self._pieces and self._resampler is not None:
                self._fbank.accept(self._resampler(self._pieces.popleft()))
            elif self._finished:
                self._flush()
            else:
                return
            self._buffer = np.concatenate([self._buffer, self._fbank.pop()])

    def _flush(self) -> None:
        """Push the rest of resampler and filterbank through, and the silence that the model needs."""
        if self._resampler is not None:
            self._fbank.accept(self._resampler(np.empty(0, np.float32), last=True))
        self._fbank.accept(np.zeros(round(self._model.tail_s * self._rate), np.float32))
        self._fbank.finish()
        self._flushed = True
