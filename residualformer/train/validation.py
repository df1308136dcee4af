"""Measurement of a model on the dev set in the course of its training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain

import torch

from residualformer.config.schema import DecodeConfig
from residualformer.data.batches import EvalBatches
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.greedy import greedy_search
from residualformer.loss.arcs import NotFiniteError
from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.wer import count_errors
from residualformer.train.losses import LossTracker
from residualformer.train.phases import Phases
from residualformer.train.progress import BRANCH_MEASURES
from residualformer.train.ranks import Ranks

log = logging.getLogger("residualformer")

SAMPLE_SECONDS = 600.0  # of dev speech, roughly, that each validation decodes


@torch.no_grad()
def validate(phases: Phases, dev: EvalBatches, tokenizer: Tokenizer, step: int, ranks: Ranks) -> dict[str, float]:
    """Measure the losses over the dev set after update `step`, and the scores of greedy search over a sample of it.

    Each rank measures some of the batches; the result is that of all.
    """
    model, config = phases.model.eval(), phases.config
    tracker, decoded = LossTracker(), sample(dev.seconds)
    messages: list[tuple[int, str]] = []
    texts: list[tuple[str, str]] = []  # of references and hypotheses
    settings = DecodeConfig(kind="greedy", token_reward=config.decode.token_reward)
    for number, batch in dev.part(ranks.rank, ranks.world):
        on_device = batch.to(ranks.device)
        try:
            tracker.add(phases.losses(on_device, on_device.features), batch)
        except NotFiniteError as error:
            named = ", ".join(batch.ids[row] for row in error.rows[:8])
            messages.append((number, f"{error}; {named}"))
        if number in decoded:
            encoded, lengths = model.encoder(on_device.features, on_device.feature_lens)
            found = greedy_search(model, encoded, lengths, settings=settings)
            texts += zip(batch.texts, [tokenizer.decode(hypothesis.tokens) for hypothesis in found], strict=True)
    for _, message in sorted(chain.from_iterable(ranks.gather(messages))):
        log.warning("after step %d: %s", step, message)
    names = {"loss_per_frame", *BRANCH_MEASURES}
    losses = {n: value for n, value in tracker.take(ranks).items() if n.endswith("per_token") or n in names}
    references, hypotheses = zip(*chain.from_iterable(ranks.gather(texts)), strict=True)
    return losses | greedy_scores(references, hypotheses, config.tokens.target)


def sample(seconds: Sequence[float]) -> set[int]:
    """Choose about `SAMPLE_SECONDS` of batches that last `seconds` each; return their numbers, one at least.

    The batches are in order of length, so the sample is spread evenly over them.
    """
    share = min(1.0, SAMPLE_SECONDS / sum(seconds))
    seen = decoded = 0.0
    chosen = set()
    for number, length in enumerate(seconds):
        seen += length
        if decoded + min(length, SAMPLE_SECONDS) / 2 <= share * seen:
            decoded += length
            chosen.add(number)
    return chosen


def greedy_scores(references: Sequence[str], hypotheses: Sequence[str], target: str) -> dict[str, float]:
    """Return word and character error rates in percent, or BLEU and chrF where `target` is `translation`."""
    if target == "translation":
        return {f"greedy_{name}": measure.value for name, measure in bleu_and_chrf(references, hypotheses).items()}
    return {
        "greedy_wer": count_errors(references, hypotheses, "word").rate,
        "greedy_cer": count_errors(references, hypotheses, "character").rate,
    }
