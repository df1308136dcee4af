"""BLEU and chrF of translations into Chinese, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from residualformer.score.bootstrap import LEVEL, resampled_sums


def bleu_and_chrf(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """Corpus BLEU (characters of Chinese as tokens) and chrF, 0 to 100, with intervals and sacrebleu's signatures."""
    metrics = {"bleu": BLEU(tokenize="zh"), "chrf": CHRF()}
    return {name: _corpus(metric, list(references), list(hypotheses)) for name, metric in metrics.items()}


def _corpus(metric: Metric, references: list[str], hypotheses: list[str]) -> dict[str, Any]:
    score = metric.corpus_score(hypotheses, [references]).score
    signature = str(metric.get_signature())
    low, high = _interval(metric, references, hypotheses)
    return {"value": round(score, 2), "low": low, "high": high, "signature": signature}


def _interval(metric: Metric, references: list[str], hypotheses: list[str]) -> tuple[float, float]:
    """Percentile bootstrap over sentences, from the same statistics of each sentence that make the corpus score."""
    # The input and the last step of sacrebleu's own bootstrap, which has no public name and gives no percentiles.
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, [references]))
    scores = [metric._compute_score_from_stats(sums).score for sums in resampled_sums(statistics).tolist()]
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), 2), round(float(high), 2)
