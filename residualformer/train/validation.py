"""Measurement of a model on the dev set in the course of its training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.collate import Batch
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.greedy import greedy_search
from residualformer.loss.arcs import NotFiniteError
from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.wer import count_errors
from residualformer.train.losses import LossTracker, warn_not_finite
from residualformer.train.phases import Phases
from residualformer.train.progress import BRANCH_MEASURES

SAMPLE_SECONDS = 600.0  # of dev speech, roughly, that each validation decodes


@torch.no_grad()
def validate(
    phases: Phases, dev: Iterable[Batch], dev_seconds: float, tokenizer: Tokenizer, step: int
) -> dict[str, float]:
    """Measure the losses over the dev set after update `step`, and the scores of greedy search over a sample of it.

    The batches of `dev`, `dev_seconds` long in all, are in order of length, so the sample is spread evenly over them.
    """
    model, config = phases.model.eval(), phases.config
    device = next(model.parameters()).device
    tracker, seen, decoded = LossTracker(), 0.0, 0.0
    sampled = min(1.0, SAMPLE_SECONDS / dev_seconds)
    references: list[str] = []
    hypotheses: list[str] = []
    settings = DecodeConfig(kind="greedy", token_reward=config.decode.token_reward)
    for batch in dev:
        batch = batch.to(device)
        try:
            tracker.add(phases.losses(batch, batch.features), batch)
        except NotFiniteError as error:
            warn_not_finite(error, batch, step)
        seconds = float(batch.feature_lens.sum()) * FRAME_SHIFT_S
        seen += seconds
        if decoded + min(seconds, SAMPLE_SECONDS) / 2 <= sampled * seen:
            decoded += seconds
            encoded, lengths = model.encoder(batch.features, batch.feature_lens)
            found = greedy_search(model, encoded, lengths, settings=settings)
            references += batch.texts
            hypotheses += [tokenizer.decode(hypothesis.tokens) for hypothesis in found]
    names = {"loss_per_frame", *BRANCH_MEASURES}
    losses = {n: value for n, value in tracker.take().items() if n.endswith("per_token") or n in names}
    return losses | greedy_scores(references, hypotheses, config.tokens.target)


def greedy_scores(references: Sequence[str], hypotheses: Sequence[str], target: str) -> dict[str, float]:
    """Return word and character error rates in percent, or BLEU and chrF where `target` is `translation`."""
    if target == "translation":
        return {f"greedy_{name}": measure.value for name, measure in bleu_and_chrf(references, hypotheses).items()}
    return {
        "greedy_wer": count_errors(references, hypotheses, "word").rate,
        "greedy_cer": count_errors(references, hypotheses, "character").rate,
    }
