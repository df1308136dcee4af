"""The result of a search, in PyTorch or without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from residualformer.constants import FRAME_SHIFT_S, SPACE


class Hypothesis(NamedTuple):
    """A label sequence, the encoder frame at which each label was written, and its natural log-probability.

    `context` is what scorers (`residualformer.context`) added in the search; the score is the model's alone. `inserted`
    are the places of tokens that were not written by the search, see `separated`.
    """

    tokens: list[int]
    frames: list[int]
    score: float
    context: float = 0.0
    inserted: tuple[int, ...] = ()

    @property
    def written(self) -> list[int]:
        """The places of the tokens that the search wrote."""
        inserted = set(self.inserted)
        return [place for place in range(len(self.tokens)) if place not in inserted]

    @property
    def score_per_label(self) -> float:
        """Log-probability per label, by which Graves (2012, section 2.4) chooses among hypotheses, with its context.

        The end of the sequence counts as one more label, so that the value is defined for the empty sequence too.
        """
        return (self.score + self.context) / (len(self.tokens) + 1)


def pause_frames(restart_s: float, stride: int) -> int:
    """Return the encoder frames without a label after which the predictor starts afresh.

    Args:
        restart_s: `decode.restart_s`, more than 0.
        stride: feature frames per encoder frame.
    """
    return max(1, round(restart_s / (stride * FRAME_SHIFT_S)))


def word_separator(pieces: Sequence[str]) -> int | None:
    """Return the label that stands between words; None where words begin with a mark, or nothing separates them."""
    marked = any(len(piece) > 1 and piece.startswith(SPACE) for piece in pieces)
    return pieces.index(SPACE) if SPACE in pieces and not marked else None


def separated(hypothesis: Hypothesis, pause: int, separator: int | None) -> Hypothesis:
    """Return a hypothesis with the separator where the predictor started afresh after a pause.

    It then begins a word, as at the start of a sentence, without writing what separates it from the one before.

    Args:
        pause: frames without a label after which the predictor starts afresh; 0 is never.
        separator: see `word_separator`.
    """
    if not pause or separator is None or not hypothesis.tokens:
        return hypothesis
    labels, times, inserted = hypothesis.tokens[:1], hypothesis.frames[:1], []
    for label, frame in zip(hypothesis.tokens[1:], hypothesis.frames[1:], strict=True):
        if frame - times[-1] > pause and separator not in (label, labels[-1]):
            inserted.append(len(labels))
            labels.append(separator)
            times.append(frame)
        labels.append(label)
        times.append(frame)
    return hypothesis._replace(tokens=labels, frames=times, inserted=tuple(inserted))
