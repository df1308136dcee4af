"""Words of a hypothesis with start, end and confidence."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from residualformer.constants import HAN_AND_KANA, SPACE
from residualformer.hypothesis import Hypothesis
from residualformer.words.alignment import Alignment
from residualformer.words.calibration import Calibration
from residualformer.words.confidence import agreement, mean, posteriors

SHORTEST_S = 0.02  # of a word


class Span(NamedTuple):
    """A word: its text, and its tokens from `first` to `last`."""

    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Word:
    """A word, its start and end in seconds, and the chance that it is right."""

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Timed:
    """The words of an utterance, the confidence of each token, and that of the whole: the mean over the words."""

    words: list[Word]
    token_confidences: list[float]
    confidence: float | None  # None where there are no words

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        words = [
            {"word": each.word, "start": each.start, "end": each.end, "confidence": each.confidence}
            for each in self.words
        ]
        return {"confidence": self.confidence, "words": words, "token_confidences": self.token_confidences}


NO_WORDS = Timed([], [], None)


class Evidence(NamedTuple):
    """The features of the confidences of the M words and the U tokens of a hypothesis.

    Attributes:
        words: (M, 2) float64, log-probability and agreement.
        tokens: (U, 2), the same.
    """

    words: np.ndarray
    tokens: np.ndarray


def spans(pieces: Sequence[str]) -> list[Span]:
    """Return the words of a sequence of tokens as text; `SPACE` separates words.

    Each Han or Kana character is a word, or each token that holds several of them. A token that ends one word and
    starts another belongs to both.
    """
    found: list[Span] = []
    open_word = False
    for place, piece in enumerate(pieces):
        for number, part in enumerate(piece.split(SPACE)):
            open_word = open_word and number == 0
            if not part:
                continue
            alone = is_unspaced(part[0])
            if open_word and not alone:
                before = found.pop()
                found.append(Span(before.text + part, before.first, place))
            else:
                found.append(Span(part, place, place))
            open_word = not alone
    return found


def is_unspaced(character: str) -> bool:
    """Return whether a character is Han or Kana, scripts without spaces."""
    return unicodedata.name(character, "").startswith(HAN_AND_KANA)


def gather_evidence(
    nbest: Sequence[Hypothesis], alignment: Alignment, pieces: Sequence[str], token_reward: float
) -> Evidence:
    """Return the features of the best hypothesis, the first of `nbest`.

    Args:
        nbest: all hypotheses of the search, best first.
        alignment: of the best one.
        pieces: the text of each token, by its id.
        token_reward: of the search, nats per label.
    """
    shares = posteriors(nbest, token_reward)
    words = [spans([pieces[token] for token in each.tokens]) for each in nbest]
    labels = alignment.log_probabilities
    of_words = [labels[span.first : span.last + 1].sum() for span in words[0]]
    texts = [[span.text for span in each] for each in words]
    return Evidence(
        np.stack([np.array(of_words, np.float64), agreement(texts, shares)], axis=1),
        np.stack([labels, agreement([each.tokens for each in nbest], shares)], axis=1),
    )


def timed_words(
    nbest: Sequence[Hypothesis],
    alignment: Alignment,
    pieces: Sequence[str],
    calibration: Calibration,
    kind: Literal["greedy", "beam"],
    token_reward: float,
    frame_s: float,
    start_s: float,
    end_s: float,
) -> Timed:
    """Return the words of the best hypothesis, the first of `nbest`.

    Args:
        nbest: all hypotheses of the search, best first.
        alignment: of the best one.
        pieces: the text of each token, by its id.
        kind: of the search.
        token_reward: of the search, nats per label.
        frame_s: seconds per encoder frame.
        start_s, end_s: of the audio that was searched, in seconds; no word lies outside.
    """
    evidence, scale = gather_evidence(nbest, alignment, pieces, token_reward), calibration.of(kind)
    of_words, of_tokens = scale.words(*evidence.words.T), scale.tokens(*evidence.tokens.T)
    found = spans([pieces[token] for token in nbest[0].tokens])
    written = start_s + alignment.frames * frame_s
    times = word_times(found, written, frame_s, calibration, start_s, end_s)
    confidences = of_words.round(4).tolist()
    words = [Word(s.text, *time, c) for s, time, c in zip(found, times, confidences, strict=True)]
    whole = mean(of_words.tolist())
    return Timed(words, of_tokens.round(4).tolist(), None if whole is None else round(whole, 4))


def word_times(
    words: Sequence[Span],
    written: np.ndarray,
    frame_s: float,
    calibration: Calibration,
    start_s: float,
    end_s: float,
) -> list[tuple[float, float]]:
    """Return start and end of words in seconds: the times of their tokens minus the model's delays.

    Where two words would overlap, the boundary is put in the middle. Each word lasts at least `SHORTEST_S`, if the
    audio is long enough.

    Args:
        written: (U,) the start of the frame that wrote each token, in seconds.
        frame_s: seconds per encoder frame.
        start_s, end_s: of the audio, in seconds.
    """
    starts = [float(written[each.first]) - calibration.start_delay_s for each in words]
    ends = [float(written[each.last]) + frame_s - calibration.end_delay_s for each in words]
    for place in range(len(words)):
        if place and starts[place] < ends[place - 1]:
            starts[place] = ends[place - 1] = max((starts[place] + ends[place - 1]) / 2, starts[place - 1])
        ends[place] = max(ends[place], starts[place])
    return _within(starts, ends, start_s, end_s)


def _within(starts: list[float], ends: list[float], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return times in order within the audio, rounded to 10 ms, in which each word lasts at least `SHORTEST_S`."""
    shortest = min(SHORTEST_S, (end_s - start_s) / max(len(starts), 1))
    earliest, found = start_s, []
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        latest = end_s - shortest * (len(starts) - place)  # leaves room for the words that follow
        start = min(max(start, earliest), latest)
        earliest = min(max(end, start + shortest), latest + shortest)
        found.append((round(start, 2), round(earliest, 2)))
    return found
