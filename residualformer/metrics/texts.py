"""The scores of a test set by its texts: error rates of transcripts, BLEU and chrF of translations."""

from __future__ import annotations

from collections.abc import Sequence

from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.bootstrap import Measure, rate
from residualformer.metrics.wer import Unit, count_errors

UNITS: dict[str, Unit] = {"wer": "word", "cer": "character"}


def text_measures(references: Sequence[str], hypotheses: Sequence[str], translated: bool) -> dict[str, Measure]:
    """Return the measures `wer` and `cer`, in percent, or of translations `bleu` and `chrf`; systems are compared by
    the first."""
    if translated:
        return bleu_and_chrf(references, hypotheses)
    measures = {}
    for name, unit in UNITS.items():
        counts = count_errors(references, hypotheses, unit)
        kinds = {kind: int(getattr(counts, kind).sum()) for kind in ("insertions", "deletions", "substitutions")}
        measures[name] = rate(counts.errors, counts.lengths, details=kinds)
    return measures
