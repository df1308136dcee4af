"""Streaming recognition with an exported folder: many streams in one batch, partial results, endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.errors import UserError
from residualformer.runtime.beam import BeamSearch
from residualformer.runtime.endpoint import Rule
from residualformer.runtime.greedy import GreedySearch
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import ExportedModel
from residualformer.runtime.search import Search
from residualformer.runtime.stream import Result, Stream


class Recognizer:
    """A model and a search, which all streams of a recognizer share.

    Example::

        recognizer = Recognizer("exp/model/export")
        stream = recognizer.create_stream()
        for samples in microphone:
            stream.accept_waveform(samples, 48000)
            recognizer.decode([stream])
            print(recognizer.partial(stream).text)
        stream.finish()
        recognizer.decode([stream])
        print([segment.text for segment in stream.pop_segments()])

    Args:
        model: a folder (its fp32 files, one thread), or what `load_exported` returned.
        decode: the search; default the model's `decode`.
        endpoint_rules: where any holds, the segment is closed and encoder and predictor start afresh, as they do in
            sherpa-onnx; for example `ENDPOINT_RULES`. Without rules the whole stream is one segment.

    Raises:
        UserError: the folder is no exported model, or a number of `decode` is out of range.
    """

    def __init__(
        self, model: ExportedModel | Path | str, decode: DecodeConfig | None = None, endpoint_rules: Sequence[Rule] = ()
    ):
        self.model = model if isinstance(model, ExportedModel) else load_exported(model)
        self.decode_config = decode or self.model.decode
        self.endpoint_rules = tuple(endpoint_rules)
        self._search = make_search(self.model, self.decode_config)

    def create_stream(self) -> Stream:
        """Return a new stream, at time 0."""
        return Stream(self.model, self._search.start())

    def decode(self, streams: Sequence[Stream]) -> None:
        """Decode all audio that the streams have received, in one batch while several have a chunk ready.

        The tokens do not depend on how the audio was cut, or on which streams were decoded together.
        """
        waiting = list(streams)
        while waiting:
            windows = [(stream, stream.window()) for stream in waiting]
            ready = [(stream, window) for stream, window in windows if window is not None]
            if ready:
                self._step([stream for stream, _ in ready], [window for _, window in ready])
            for stream in waiting:
                self._close(stream)
            waiting = [stream for stream, _ in ready]

    def partial(self, stream: Stream) -> Result:
        """Return the result so far of the stream's open segment."""
        return stream.result()

    def _step(self, streams: Sequence[Stream], windows: Sequence[np.ndarray]) -> None:
        """Decode one chunk of each of `streams`."""
        model = self.model
        lengths = np.array([len(window) for window in windows], np.int64)
        features = np.zeros((len(streams), model.window, windows[0].shape[1]), np.float32)
        for row, window in zip(features, windows, strict=True):
            row[: len(window)] = window
        encoded, states = model.encode(features, lengths, [stream.encoder_state for stream in streams])
        real = -(-np.minimum(lengths, model.shift) // model.stride)
        self._search.advance(
            [stream.search_state for stream in streams],
            [frames[:count] for frames, count in zip(encoded, real, strict=True)],
        )
        for stream, state, length in zip(streams, states, lengths, strict=True):
            stream.encoder_state = state
            stream.step_done(int(length))

    def _close(self, stream: Stream) -> None:
        """Close the open segment if the stream is over or a rule holds; one without tokens leaves no result."""
        measures = stream.silence_and_length_s()
        if not stream.is_over() and not any(rule.holds(*measures) for rule in self.endpoint_rules):
            return
        if measures[0]:
            stream.segments.append(stream.result(self.decode_config.nbest))
        stream.begin(self._search.start())


def make_search(model: ExportedModel, decode: DecodeConfig) -> Search[Any]:
    """Return the search that `decode` describes; UserError when one of its values is out of range."""
    if decode.kind not in ("greedy", "beam"):
        raise UserError(f"decode.kind is '{decode.kind}'; allowed are greedy, beam.")
    for name in ("beam", "max_symbols", "nbest"):
        if getattr(decode, name) < 1:
            raise UserError(f"decode.{name} is {getattr(decode, name)}; allowed: 1 or more.")
    return {"greedy": GreedySearch, "beam": BeamSearch}[decode.kind](model, model.blank, decode)
