"""A run folder as a transcriber, in PyTorch: recordings in batches, live audio through the runtime's streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from residualformer.constants import FRAME_SHIFT_S
from residualformer.context.scorer import Context
from residualformer.data.fbank import compute_fbank
from residualformer.decode.grouping import group_by_length
from residualformer.decode.recognize import (
    NO_MATCH,
    Recognized,
    describe,
    encode_batch,
    hypothesis_record,
    judged,
    search_encoded,
)
from residualformer.decode.settings import decode_settings
from residualformer.errors import UserError
from residualformer.library.options import Options
from residualformer.library.sound import Sound
from residualformer.library.torch_model import TorchModel
from residualformer.library.transcriber import Outcome, Transcriber, check_length
from residualformer.library.transcript import Transcript
from residualformer.model.adapter import load_adapted
from residualformer.model.device import find_device

BATCHES_AHEAD = 8  # batches whose recordings are sorted by length together; one at a time is in memory
MOST_AHEAD = 1000  # recordings in them, at most


class TrainedTranscriber(Transcriber):
    """The model of a run folder or of a model file; UserError if the model or the options are wrong."""

    def __init__(self, path: Path, options: Options) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.bundle = load_adapted(path, options.adapter, find_device(options.device), options.loops)
        overrides = ["decode.kind=greedy"] if options.greedy or options.streaming else []
        if options.beam is not None:
            overrides = ["decode.kind=beam", f"decode.beam={options.beam}"]
        decode = options.with_language_model(decode_settings(self.bundle.config, overrides))
        super().__init__(TorchModel(self.bundle), decode, options.words)
        self._streaming = options.streaming

    def _outcomes(self, sounds: Iterable[Sound | UserError], context: Context | None) -> Iterator[Outcome]:
        if self._streaming:
            yield from self._one_by_one(sounds, context)
            return
        for window in self._windows(sounds):
            yield from self._in_batches(window, context)

    def _windows(self, sounds: Iterable[Sound | UserError]) -> Iterator[list[tuple[Sound | UserError, float]]]:
        """Yield recordings with their lengths in seconds by their headers, for some batches at a time."""
        window: list[tuple[Sound | UserError, float]] = []
        ahead_s = 0.0
        for sound in sounds:
            window.append((sound, self._length_s(sound)))
            ahead_s += window[-1][1]
            if ahead_s >= BATCHES_AHEAD * self.decode.max_batch_s or len(window) >= MOST_AHEAD:
                yield window
                window, ahead_s = [], 0.0
        yield window

    def _length_s(self, sound: Sound | UserError) -> float:
        """Return the length in seconds by the header; that of a batch if it is not known, to be one by itself."""
        try:
            length_s = sound.length_s() if isinstance(sound, Sound) else 0.0
        except UserError:
            return 0.0  # reading it will raise the error again
        return self.decode.max_batch_s if length_s is None else length_s

    def _in_batches(
        self, window: Sequence[tuple[Sound | UserError, float]], context: Context | None
    ) -> Iterator[Outcome]:
        """Recognize recordings of similar length together; yield each result when it and those before it are known."""
        found: dict[int, Outcome] = {n: sound for n, (sound, _) in enumerate(window) if isinstance(sound, UserError)}
        lengths = {n: length for n, (sound, length) in enumerate(window) if n not in found}
        batches = group_by_length(lengths, lengths.__getitem__, self.decode.max_batch_s)
        shown = 0
        for batch in [*sorted(batches, key=min), []]:
            found |= self._batch({n: sound for n in batch if isinstance(sound := window[n][0], Sound)}, context)
            while shown in found:
                yield found.pop(shown)
                shown += 1

    def _batch(self, sounds: dict[int, Sound], context: Context | None) -> dict[int, Outcome]:
        """Read recordings and recognize them together; in parts where they are longer than their headers state."""
        found: dict[int, Outcome] = {}
        features: dict[int, np.ndarray] = {}
        seconds: dict[int, float] = {}
        for n, sound in sounds.items():
            try:
                samples = sound.samples(self.sample_rate_hz)
                seconds[n] = len(samples) / self.sample_rate_hz
                found_features = compute_fbank(samples, self.bundle.config.features)  # (T, F)
                check_length(sound.name, seconds[n] if len(found_features) else 0.0)
                features[n] = found_features
            except (UserError, OSError) as error:
                found[n] = error if isinstance(error, UserError) else UserError(f"the audio cannot be read: {error}")
        whole = self._recognizer(endpoints=False).with_language_model(context)
        for batch in group_by_length(features, lambda n: len(features[n]) * FRAME_SHIFT_S, self.decode.max_batch_s):
            scorers = [whole.scorer() for _ in batch] if whole else []
            encoded = encode_batch(self.bundle.model, [features[n] for n in batch])
            results = search_encoded(self.bundle.model, self.decode, encoded, scorers, align=self.words)
            results = judged(self.bundle, self.decode, encoded, results, context)
            for n, result in zip(batch, results, strict=True):
                found[n] = self._transcript(result, seconds[n])
        return found

    def _transcript(self, recognized: Recognized, seconds: float) -> Transcript:
        record = hypothesis_record(self.bundle, recognized.nbest[0]) if recognized.nbest else NO_MATCH
        return Transcript(
            text=record["hyp"],
            score=record["score"],
            tokens=record["tokens"],
            times=record["times"],
            start=0.0,
            end=round(seconds, 3),
            timed=describe(self.bundle, self.decode, recognized, seconds) if self.words else None,
            context=record.get("context", 0.0),
            verdict=recognized.verdict,
        )
