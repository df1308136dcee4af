"""Error counts per utterance, and the two error rates of recognition: of words (WER) and of characters (CER)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

_PROCESS = {"word": jiwer.process_words, "character": jiwer.process_characters}


@dataclass(frozen=True)
class ErrorCounts:
    """Counts of U utterances, each (U,) int64; `lengths` are those of the references."""

    insertions: np.ndarray
    deletions: np.ndarray
    substitutions: np.ndarray
    lengths: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """100 x errors / reference length over all utterances, in percent; nan where the references are empty."""
        length = int(self.lengths.sum())
        return 100 * int(self.errors.sum()) / length if length else float("nan")


def count_errors(references: Sequence[str], hypotheses: Sequence[str], unit: str = "word") -> ErrorCounts:
    """Insertions, deletions, substitutions of each pair, from a minimal alignment of `word`s or `character`s (jiwer).

    The texts are compared as they are, except that runs of spaces count as one.
    """
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        reference, hypothesis = " ".join(reference.split()), " ".join(hypothesis.split())
        result = _PROCESS[unit](reference, hypothesis)
        length = result.hits + result.substitutions + result.deletions
        rows.append((result.insertions, result.deletions, result.substitutions, length))
    return ErrorCounts(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)
