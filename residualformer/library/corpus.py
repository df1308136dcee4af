"""Decoding of sets of cuts with an exported folder, from their audio, into the records of stage 7."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lhotse.cut import Cut

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Context
from residualformer.context.verdict import SILENCE
from residualformer.data.manifest import load_mono, read_cuts
from residualformer.decode.corpus import Outcome, reference
from residualformer.decode.recognize import NO_MATCH, times_s
from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import ExportedModel
from residualformer.runtime.recognizer import Recognizer
from residualformer.runtime.stream import Result
from residualformer.runtime.tokens import to_text
from residualformer.words.words import NO_WORDS


class ExportedDecoder(NamedTuple):
    """The decoding of a batch by an exported folder, in whatever process it is called."""

    folder: Path
    int8: bool
    lean: bool
    settings: DecodeConfig
    context: Context | None = None

    def __call__(self, batch: Sequence[Cut]) -> dict[str, Any]:
        """Return the `Outcome` of a batch as plain values; cuts whose audio cannot be read are skipped."""
        model = loaded_export(self.folder, self.int8, self.lean)
        recognizer = Recognizer(model, self.settings, words=model.target == "text")
        started, outcome = time.monotonic(), Outcome()
        for cut in batch:
            try:
                samples = load_mono(cut)
            except Exception as error:  # Lhotse raises errors of many libraries
                reason = f"{type(error).__name__}: {error}"
                outcome.skipped.append({"id": cut.id, "ref": reference(cut, model.target), "reason": reason})
                continue
            # One stream at a time, as on a device: 8-bit activations have a scale of all streams of a batch.
            stream = recognizer.create_stream(self.context)
            stream.branches = [] if model.num_branches > 1 else None
            stream.accept_waveform(samples, cut.sampling_rate)
            stream.finish()
            recognizer.decode([stream])
            found = next(iter(stream.pop_segments()), None)
            record = _record(model, cut, found, self.settings.nbest, stream.branches)
            verdict = found.verdict if found else self.context and self.context.judge(SILENCE)
            outcome.records.append(record | (verdict.to_dict() if verdict else {}))
        outcome.search_s = time.monotonic() - started
        return asdict(outcome)


@cache
def loaded_export(folder: Path, int8: bool, lean: bool) -> ExportedModel:
    """Return the model of an exported folder, read once in a process."""
    return load_exported(folder, int8=int8, lean=lean)


def read_cuts_with_audio(path: Path) -> list[Cut]:
    """Read cuts and check that they have audio; UserError otherwise."""
    cuts = list(read_cuts(path, stage=1))
    silent = [cut.id for cut in cuts if not cut.has_recording]
    if silent:
        raise UserError(
            f"{path}: {len(silent)} cuts have no audio, which an exported model hears, the first is {silent[0]}: "
            "give those of stage 1, data/manifests/cuts_<split>.jsonl.gz."
        )
    return cuts


def _record(
    model: ExportedModel, cut: Cut, found: Result | None, most: int, branches: list[int | None] | None
) -> dict[str, Any]:
    """Return the line of hyp.jsonl; `found` is None where nothing was written."""
    entries = [_entry(model, hypothesis) for hypothesis in found.nbest[:most]] if found else []
    best = entries[0] if entries else NO_MATCH
    record = {"id": cut.id, "ref": reference(cut, model.target), **best, "duration": cut.duration}
    record |= {} if branches is None else {"branches": "".join(map(str, branches))}
    if model.target == "text":
        record |= (found.timed if found and found.timed else NO_WORDS).to_dict()
    return record | {"nbest": entries}


def _entry(model: ExportedModel, hypothesis: Hypothesis) -> dict[str, Any]:
    """Return what `decode.recognize.hypothesis_record` does."""
    pieces = [model.pieces[token] for token in hypothesis.tokens]
    context = {"context": round(hypothesis.context, 4)} if hypothesis.context else {}
    times = times_s(hypothesis, model.stride)
    return {"hyp": to_text(pieces), "score": round(hypothesis.score, 4), **context, "tokens": pieces, "times": times}
