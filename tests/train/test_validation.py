"""The scores that a training reports of the dev set."""

from __future__ import annotations

import jiwer
import pytest
import sacrebleu
import torch
from support.toy_training import TEXTS, F, changed

from residualformer.config.loading import config_to_dict
from residualformer.data.tokenizer import train_tokenizer
from residualformer.hypothesis import Hypothesis
from residualformer.train import validation
from residualformer.train.loop import Trainer
from residualformer.train.validation import greedy_scores


def test_a_training_tells_bleu_of_a_translation(toy_cuts, tmp_path, monkeypatch):
    config = changed("tokens", kind="char", target="translation")
    texts = ["".join(chr(ord(c) + 0x4E00) for c in text if c != " ") for text in TEXTS]  # as make_cut's
    tokenizer = train_tokenizer(texts, config.tokens)
    told = max(texts, key=len)
    found = Hypothesis(tokenizer.encode(told), [], 0.0)
    monkeypatch.setattr(validation, "greedy_search", lambda model, encoded, lengths, **_: [found] * len(lengths))
    cmvn = torch.zeros(F), torch.ones(F)
    values = Trainer(config, tokenizer, toy_cuts, cmvn, tmp_path, {"config": config_to_dict(config)}).validate()
    references = [text for text in texts if text]
    assert (
        values["greedy_bleu"]
        == pytest.approx(sacrebleu.corpus_bleu([told] * len(references), [references], tokenize="zh").score, rel=1e-9)
        and told
    )
    assert values["greedy_bleu"] > 0 and values["transducer_per_token"] > 0 and "greedy_wer" not in values


def test_a_training_tells_both_error_rates_of_a_transcript():
    references, hypotheses = ["one two", "three"], ["one too", "three four"]
    wer, cer = (100 * rate(references, hypotheses) for rate in (jiwer.wer, jiwer.cer))
    assert greedy_scores(references, hypotheses, "text") == pytest.approx({"greedy_wer": wer, "greedy_cer": cer})
