"""Errors per utterance, of words for the word error rate (WER) or of characters for the character error rate (CER)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np

Unit = Literal["word", "character"]


@dataclass(frozen=True)
class ErrorCounts:
    """Counts of errors in U utterances, and the lengths of the references; each (U,) int64."""

    insertions: np.ndarray
    deletions: np.ndarray
    substitutions: np.ndarray
    lengths: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Insertions, deletions and substitutions together, (U,)."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors of all utterances in percent of the length of their references; NaN where these are empty."""
        length = int(self.lengths.sum())
        return 100 * int(self.errors.sum()) / length if length else float("nan")


def count_errors(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> ErrorCounts:
    """Count the errors of each hypothesis in a minimal alignment with its reference, by jiwer.

    The texts are compared as they are, except that runs of spaces count as one.
    """
    align = jiwer.process_words if unit == "word" else jiwer.process_characters
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        reference, hypothesis = " ".join(reference.split()), " ".join(hypothesis.split())
        result = align(reference, hypothesis)
        length = result.hits + result.substitutions + result.deletions
        rows.append((result.insertions, result.deletions, result.substitutions, length))
    return ErrorCounts(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)
