"""BLEU and chrF of translations into Chinese, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from residualformer.metrics.bootstrap import Measure


def bleu_and_chrf(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Measure]:
    """Return the measures `bleu` (of Chinese characters) and `chrf`, 0 to 100, with sacrebleu's signatures."""
    metrics = {"bleu": BLEU(tokenize="zh"), "chrf": CHRF()}
    return {name: _measure(metric, list(references), list(hypotheses)) for name, metric in metrics.items()}


def _measure(metric: Metric, references: list[str], hypotheses: list[str]) -> Measure:
    """Return a measure of the statistics of each sentence, from whose sums sacrebleu computes the corpus score."""
    # These are the first and the last step of sacrebleu's own bootstrap, which is private and gives no percentiles.
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, [references]))

    def score(sums: np.ndarray) -> np.ndarray:
        return np.array([metric._compute_score_from_stats(row).score for row in sums.tolist()])

    signature = str(metric.get_signature())  # known only after the statistics
    return Measure([statistics], score, higher_is_better=True, details={"signature": signature})
