"""BLEU and chrF against sacrebleu's own."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import sacrebleu
from support.decoded_runs import translations

from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.bootstrap import NO_GAP, Gap


def bleu(references: list[str], hypotheses: list[str]) -> float:
    return sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score


def test_scores_are_those_of_sacrebleu():
    references, hypotheses = translations(60, 1, 0.1)
    measures = bleu_and_chrf(references, hypotheses)
    assert measures["bleu"].value == pytest.approx(bleu(references, hypotheses), rel=1e-12)
    chrf = sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert measures["chrf"].value == pytest.approx(chrf, rel=1e-12)
    score = measures["bleu"].rounded()
    assert score.low < score.value < score.high and "tok:zh" in score.signature
    assert "nc:6" in measures["chrf"].rounded().signature


def test_a_resampled_score_is_that_of_the_repeated_sentences():
    references, hypotheses = translations(12, 2, 0.2)
    times = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12))  # the first sample of the bootstrap
    drawn = [i for i, count in enumerate(times) for _ in range(count)]
    expected = bleu([references[i] for i in drawn], [hypotheses[i] for i in drawn])
    assert bleu_and_chrf(references, hypotheses)["bleu"].samples[0] == pytest.approx(expected, rel=1e-12)


def test_a_lower_bleu_is_a_positive_gap_and_a_clear_one_has_a_small_p():
    references, good = translations(150, 3, 0.05)
    _, bad = translations(150, 3, 0.15)
    better, worse = (bleu_and_chrf(references, hypotheses)["bleu"] for hypotheses in (good, bad))
    gap = worse.gap(better)
    assert gap.relative == pytest.approx(100 * (better.value - worse.value) / better.value, abs=0.005)
    assert gap.relative > 0 > better.gap(worse).relative and gap.p_value == pytest.approx(2 / 2001, abs=1e-4)
    assert better.gap(better) == Gap(relative=0, relative_low=0, relative_high=0, p_value=1)
    nothing = bleu_and_chrf(references, [""] * 150)["bleu"]
    assert better.gap(nothing) == NO_GAP and set(asdict(NO_GAP).values()) == {None}


def test_the_gap_printed_is_the_papers():
    """Table 4: 29.8 -> 26.7 is a gap of 10.4%, and 29.4 -> 28.3 of 3.7%."""
    for base, other, printed in ((29.8, 26.7, 10.4), (29.4, 28.3, 3.7)):
        measures = []
        for value in (base, other):
            measure = bleu_and_chrf(["一二三四"], ["一二三四"])["bleu"]
            measures.append(type(measure)(measure.parts, lambda sums, v=value: np.full(len(sums), v), True))
        assert round(measures[1].gap(measures[0]).relative, 1) == printed
