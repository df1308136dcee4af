"""Measurement of a model's calibration on a development set: the weights of confidences, and delays of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from lhotse.cut import Cut

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S, SPACE
from residualformer.decode.corpus import Outcome, batches, load_readable, read_cuts_with_features, reference
from residualformer.decode.recognize import Recognized, encode_batch, search_encoded
from residualformer.decode.words import frame_s, has_words
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle, fingerprint
from residualformer.words.calibration import (
    CALIBRATION_FILE,
    UNCALIBRATED,
    Calibration,
    SearchCalibration,
    save_calibration,
)
from residualformer.words.confidence import Logistic, features, fit, pairs
from residualformer.words.words import Span, Word, gather_evidence, spans

EDGE = 0.4  # of the way from the quietest frames to the loudest
UTTERANCES = 300  # of the development set are enough for two delays and three weights


SEARCHES: tuple[Literal["greedy", "beam"], ...] = ("greedy", "beam")


@dataclass
class Observed:
    """Measurements of a search on a set of cuts.

    Attributes:
        words: of each word, the inputs (3,) of `Logistic` and whether it was right; `tokens` likewise.
        reference_words: the number of words in the references.
        starts: seconds from the true start of a word to its first token, where it is known; `ends` likewise.
        steps: seconds from the last token of a word to the first one of the next.
    """

    words: list[tuple[np.ndarray, bool]] = field(default_factory=list)
    tokens: list[tuple[np.ndarray, bool]] = field(default_factory=list)
    reference_words: int = 0
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


def calibrate(
    bundle: Bundle, settings: DecodeConfig, cuts: Sequence[Cut], times: Mapping[str, Sequence[Word]] | None = None
) -> Calibration:
    """Return the calibration of a model, measured with both searches on `cuts`.

    Confidences are fitted by logistic regression to whether a word (a token) is that of the reference, aligned by the
    fewest edits. Delays are medians over right words. Without true times the last word ends with the speech, by its
    energy (`speech_edges`); and since in fluent speech a word starts where the one before it ends, the delay of starts
    is that of ends plus the median step between words.

    Args:
        settings: of both searches, which differ in the kind alone.
        cuts: with features and references.
        times: true times of the words of utterances, by their id.

    Raises:
        UserError: the search of `settings` recognized no words.
    """
    greedy, beam = (observe(bundle, replace(settings, kind=kind), cuts, times) for kind in SEARCHES)
    seen = greedy if settings.kind == "greedy" else beam
    if not seen.words:
        raise UserError(
            f"no words were recognized in the {len(cuts)} utterances, so that nothing can be measured: give others, or "
            "train the model longer."
        )
    start_delay_s, end_delay_s = _median(seen.starts), _median(seen.ends)
    if times is None and seen.steps:
        start_delay_s = round(end_delay_s + _median(seen.steps), 3)
    return Calibration(
        start_delay_s=start_delay_s,
        end_delay_s=end_delay_s,
        greedy=SearchCalibration(_fit(greedy.words), _fit(greedy.tokens)) if greedy.words else UNCALIBRATED.greedy,
        beam=SearchCalibration(_fit(beam.words), _fit(beam.tokens)) if beam.words else UNCALIBRATED.beam,
        measured_on=len(seen.words),
        fingerprint=fingerprint(bundle.model.state_dict()),
    )


def ensure_calibrated(bundle: Bundle, model: Path, settings: DecodeConfig, dev_cuts: Path) -> None:
    """Calibrate a model that is not calibrated on the first `UTTERANCES` of its development set; write the result.

    Nothing happens if that set is missing or the model translates; if no words are recognized, a line says so.

    Args:
        model: the model's run folder or file, beside which the calibration is written.
        dev_cuts: manifest of the development set, with features.
    """
    if bundle.calibration != UNCALIBRATED or not has_words(bundle) or not dev_cuts.is_file():
        return
    cuts = read_cuts_with_features(dev_cuts, bundle.config.features)[:UTTERANCES]
    try:
        bundle.calibration = calibrate(bundle, settings, cuts)
    except UserError as error:
        print(f"confidences are not calibrated: {error}")
        return
    save_calibration((model if model.is_dir() else model.parent) / CALIBRATION_FILE, bundle.calibration)


def speech_edges(x: np.ndarray) -> tuple[float, float]:
    """Return start and end in seconds of the speech in log-mel features (T, F), T >= 1.

    Frames count as speech above a level between that of the quietest frames and that of the loudest ones.
    """
    loudness = np.logaddexp.reduce(x.astype(np.float64), axis=1)
    quiet, loud = np.percentile(loudness, [5, 90])
    speech = np.flatnonzero(loudness > quiet + EDGE * (loud - quiet))
    if len(speech) == 0:
        return 0.0, len(x) * FRAME_SHIFT_S
    return float(speech[0] * FRAME_SHIFT_S), float((speech[-1] + 1) * FRAME_SHIFT_S)


def observe(
    bundle: Bundle, settings: DecodeConfig, cuts: Iterable[Cut], times: Mapping[str, Sequence[Word]] | None = None
) -> Observed:
    """Return the measurements of a search on cuts with features and references; `times` as in `calibrate`.

    Cuts whose features cannot be read are left out.
    """
    observed, bins = Observed(), bundle.config.features.num_mel_bins
    for batch in batches(cuts, settings.max_batch_s):
        references = {cut.id: reference(cut, bundle.config.tokens.target) for cut in batch}
        loaded = list(load_readable(batch, bins, references, Outcome()))
        if not loaded:
            continue
        found = search_encoded(bundle.model, settings, encode_batch(bundle.model, [x for _, x in loaded]), align=True)
        for (cut, x), recognized in zip(loaded, found, strict=True):
            true_words = [span.text for span in spans(SPACE.join(references[cut.id].split()))]
            observed.reference_words += len(true_words)
            if recognized.alignment is None:
                continue
            words = _add_evidence(observed, bundle, settings, recognized, references[cut.id], true_words)
            known = _edges(x, len(true_words)) if times is None else _known(times.get(cut.id, ()), true_words)
            _add_delays(observed, recognized.alignment.frames, frame_s(bundle.model), words, true_words, known)
    return observed


def _add_evidence(
    observed: Observed,
    bundle: Bundle,
    settings: DecodeConfig,
    recognized: Recognized,
    text: str,
    true_words: Sequence[str],
) -> list[Span]:
    """Add words and tokens of an utterance to what was observed; return its words."""
    pieces, tokens = bundle.tokenizer.pieces, recognized.nbest[0].tokens
    assert recognized.alignment is not None
    evidence = gather_evidence(recognized.nbest, recognized.alignment, pieces, settings.token_reward)
    words = spans([pieces[token] for token in tokens])
    for seen, rows, right in (
        (observed.words, evidence.words, pairs([each.text for each in words], true_words)),
        (observed.tokens, evidence.tokens, pairs(tokens, bundle.tokenizer.encode(text))),
    ):
        places = {place for place, _ in right}
        seen += [(row, place in places) for place, row in enumerate(features(*rows.T))]
    return words


Known = dict[int, tuple[float | None, float | None]]  # start and end in seconds of words, by their place


def _add_delays(
    observed: Observed,
    frames: np.ndarray,
    step_s: float,
    words: Sequence[Span],
    true_words: Sequence[str],
    known: Known,
) -> None:
    """Add how late right words were written whose times are known, and the steps between all words."""
    for one, following in pairwise(words):
        observed.steps.append((frames[following.first] - frames[one.last] - 1) * step_s)
    for place, true_place in pairs([each.text for each in words], true_words):
        start, end = known.get(true_place, (None, None))
        if start is not None:
            observed.starts.append(frames[words[place].first] * step_s - start)
        if end is not None:
            observed.ends.append((frames[words[place].last] + 1) * step_s - end)


def _edges(x: np.ndarray, num_words: int) -> Known:
    start, end = speech_edges(x)
    return {0: (start, end)} if num_words == 1 else {0: (start, None), num_words - 1: (None, end)}


def _known(timed: Sequence[Word], words: Sequence[str]) -> Known:
    """Return the true times of words, none where they are not those of the reference."""
    if [each.word for each in timed] != list(words):
        return {}
    return {place: (each.start, each.end) for place, each in enumerate(timed)}


def _fit(seen: Sequence[tuple[np.ndarray, bool]]) -> Logistic:
    return fit(np.stack([row for row, _ in seen]), np.array([right for _, right in seen]))


def _median(delays: Sequence[float]) -> float:
    return round(float(np.median(delays)), 3) if delays else 0.0
