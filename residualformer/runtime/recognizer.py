"""Streaming recognition with an exported folder: many streams in one batch, partial results, endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.context.grammar.context import GrammarContext, read_grammar
from residualformer.context.hotwords import Hotwords, read_phrase
from residualformer.context.scorer import Context, joint, numbered, training_order
from residualformer.errors import UserError
from residualformer.runtime.beam import BeamSearch
from residualformer.runtime.endpoint import Rule
from residualformer.runtime.fusion import language_model
from residualformer.runtime.greedy import GreedySearch, GreedyState
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import StreamingModel
from residualformer.runtime.search import Search
from residualformer.runtime.stream import Result, Stream
from residualformer.runtime.words import describe


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
        words: find times and confidences of the words of closed segments. For that the encoder's output of the open
            segment stays in memory.

    Raises:
        UserError: the folder is no exported model, a number of `decode` is out of range, or its language model is
            missing, damaged or of other tokens.
    """

    def __init__(
        self,
        model: StreamingModel | Path | str,
        decode: DecodeConfig | None = None,
        endpoint_rules: Sequence[Rule] = (),
        words: bool = False,
    ):
        self.model = model if isinstance(model, StreamingModel) else load_exported(model)
        self.decode_config = decode or self.model.decode
        self.endpoint_rules = tuple(endpoint_rules)
        self.words = words
        if words and self.model.target != "text":
            raise UserError("the words of a translation have no times, and so no confidences here: leave them out.")
        self._language_model = language_model(self.model, self.decode_config)
        self._search = make_search(self.model, self.decode_config)

    def create_stream(self, context: Context | None = None) -> Stream:
        """Return a new stream, at time 0; `context` adds to the scores of its labels, as does `decode.lm`."""
        whole = self.with_language_model(context)
        scorer = numbered(whole.scorer(), self.model.blank) if whole else None
        return Stream(self.model, self._search.start(scorer), context, self._start_free(context))

    def with_language_model(self, context: Context | None = None) -> Context | None:
        """Return `context` together with the language model of the search, if any."""
        return joint([context, self._language_model])

    def hotwords(self, lines: Iterable[str]) -> Hotwords:
        """Return the context of words and phrases, for `create_stream`: `PHRASE` or `PHRASE :SCORE` each.

        Raises:
            UserError: there are none, or one is no phrase or has a character that the model cannot write.
        """
        pieces = training_order(self.model.pieces, self.model.blank)
        return Hotwords(map(read_phrase, lines), pieces, self.decode_config.hotwords_score)

    def grammar(self, path: Path | str, reject: float | None = None) -> GrammarContext:
        """Return the context of a grammar, for `create_stream`: only what it allows, with its slots (docs/grammar.md).

        Raises:
            UserError: see `read_grammar`.
        """
        pieces = training_order(self.model.pieces, self.model.blank)
        return read_grammar(Path(path), pieces, self.decode_config, reject)

    def decode(self, streams: Sequence[Stream]) -> None:
        """Decode all audio that the streams have received, in one batch while several have a chunk ready.

        The tokens do not depend on how the audio was cut, or, in float32, on which streams were decoded together; with
        int8 files the streams of a batch share the scale of their activations.
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
        heard = [frames[:count] for frames, count in zip(encoded, real, strict=True)]
        self._search.advance([stream.search_state for stream in streams], heard)
        free = [(s.free_state, frames) for s, frames in zip(streams, heard, strict=True) if s.free_state]
        if free:
            self._free.advance([state for state, _ in free], [frames for _, frames in free])
        if self.words:
            for stream, frames in zip(streams, heard, strict=True):
                stream.encoded.append(np.array(frames))  # a view would keep the whole batch
        for stream, state, length in zip(streams, states, lengths, strict=True):
            stream.step_done(int(length), state)

    def _close(self, stream: Stream) -> None:
        """Close the open segment if the stream is over or a rule holds; one without tokens leaves no result."""
        measures = stream.silence_and_length_s()
        if not stream.is_over() and not any(rule.holds(*measures) for rule in self.endpoint_rules):
            return
        if measures[0] or stream.result(ended=True).tokens:  # a scorer may prefer others at the end
            stream.segments.append(self._ended(stream))
        stream.begin(self._search.start(stream.search_state.scorer), self._start_free(stream.context))

    def _start_free(self, context: Context | None) -> GreedyState | None:
        """Return the start of the search that a context is judged by; None without one that judges."""
        return self._free.start() if context and context.judges else None

    @cached_property
    def _free(self) -> GreedySearch:
        return GreedySearch(self.model, self.model.blank, self.decode_config)

    def _ended(self, stream: Stream) -> Result:
        """Return the result of the open segment, which ends here."""
        if not self.words:
            return stream.result(self.decode_config.nbest, ended=True)
        found = stream.result(max(self.decode_config.beam, self.decode_config.nbest), ended=True)
        encoded = np.concatenate(stream.encoded)
        timed = describe(self.model, self.decode_config, encoded, found.nbest, found.start, found.end)
        return replace(found, nbest=found.nbest[: self.decode_config.nbest], timed=timed)


def make_search(model: StreamingModel, decode: DecodeConfig) -> Search[Any]:
    """Return the search that `decode` describes; UserError when one of its values is out of range."""
    if decode.kind not in ("greedy", "beam"):
        raise UserError(f"decode.kind is '{decode.kind}'; allowed are greedy, beam.")
    for name in ("beam", "max_symbols", "nbest"):
        if getattr(decode, name) < 1:
            raise UserError(f"decode.{name} is {getattr(decode, name)}; allowed: 1 or more.")
    return {"greedy": GreedySearch, "beam": BeamSearch}[decode.kind](model, model.blank, decode)
