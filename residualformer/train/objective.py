"""What training minimises: the transducer loss of a batch, with its auxiliaries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.data.batches import Batch
from residualformer.loss import do_rnnt_pruning, get_backend, get_rnnt_prune_ranges
from residualformer.nn.predictor import START
from residualformer.nn.transducer import Transducer
from residualformer.schema import LossConfig

BLANK = START


def batch_losses(
    model: Transducer, batch: Batch, features: Tensor, config: LossConfig, bf16: bool = False
) -> dict[str, Tensor]:
    """Losses summed over a batch, in nats: see `transducer_losses`.

    Args:
        features: (N, T, F), the batch's own or augmented.
        bf16: as in `precision`.
    """
    with precision(features, bf16):
        encoded, lengths = model.encoder(features, batch.feature_lens)
    return transducer_losses(model, batch, encoded, lengths, config)


def precision(features: Tensor, bf16: bool) -> torch.autocast:
    """bf16 autocast for the encoder, if wanted.

    What follows the encoder stays fp32: log-probabilities of bf16 logits are off by hundredths of a nat, and on a CPU
    these small products are no faster in bf16.
    """
    return torch.autocast(features.device.type, torch.bfloat16, enabled=bf16)


def transducer_losses(
    model: Transducer, batch: Batch, encoded: Tensor, lengths: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """Losses summed over a batch, in nats, from encoder frames (N, T', D), of which `lengths` (N,) are real.

    Returns:
        `loss`, to be minimised: transducer (+ simple_scale * simple) (+ ctc_scale * ctc), and these parts.
    """
    encoded = encoded.float()
    predicted = model.predictor(batch.tokens)
    boundary = torch.zeros(len(lengths), 4, dtype=torch.int64, device=lengths.device)
    boundary[:, 2], boundary[:, 3] = batch.token_lens, lengths
    if config.kind == "pruned":
        losses = _pruned(model, encoded, predicted, batch.tokens, boundary, config)
    else:
        exact = _simple if config.kind == "simple" else _exact
        losses = {"transducer": exact(model, encoded, predicted, batch.tokens, boundary, config)}
        losses["loss"] = losses["transducer"]
    if config.ctc_scale > 0:
        losses["ctc"] = _ctc(model, encoded, lengths, batch)
        losses["loss"] = losses["loss"] + config.ctc_scale * losses["ctc"]
    return losses


def _pruned(
    model: Transducer, encoded: Tensor, predicted: Tensor, tokens: Tensor, boundary: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """The simple joiner's loss finds the labels worth a look at each frame; the joiner is run on those alone."""
    backend = get_backend(config.backend)
    simple, (px_grad, py_grad) = backend.rnnt_loss_smoothed(
        lm=model.training_only["simple_predictor"](predicted),
        am=model.training_only["simple_encoder"](encoded),
        symbols=tokens,
        termination_symbol=BLANK,
        lm_only_scale=config.lm_scale,
        am_only_scale=config.am_scale,
        boundary=boundary,
        reduction="sum",
        return_grad=True,
    )
    ranges = get_rnnt_prune_ranges(px_grad, py_grad, boundary, config.prune_range)
    joiner = model.joiner
    am, lm = do_rnnt_pruning(joiner.project_encoder(encoded), joiner.project_predictor(predicted), ranges)
    pruned = backend.rnnt_loss_pruned(
        joiner.output(am + lm), tokens, ranges, BLANK, boundary, reduction="sum"
    )
    return {"loss": pruned + config.simple_scale * simple, "transducer": pruned, "simple": simple}


def _exact(
    model: Transducer, encoded: Tensor, predicted: Tensor, tokens: Tensor, boundary: Tensor, config: LossConfig
) -> Tensor:
    logits = model.joiner(encoded.unsqueeze(2), predicted.unsqueeze(1))  # (N, T', S + 1, V)
    return get_backend(config.backend).rnnt_loss(logits, tokens, BLANK, boundary, reduction="sum")


def _simple(
    model: Transducer, encoded: Tensor, predicted: Tensor, tokens: Tensor, boundary: Tensor, config: LossConfig
) -> Tensor:
    """What `_exact` gives for the additive joiner, without logits of every frame with every label."""
    lm, am = model.joiner.project_predictor(predicted), model.joiner.project_encoder(encoded)
    return get_backend(config.backend).rnnt_loss_simple(lm, am, tokens, BLANK, boundary, reduction="sum")


def _ctc(model: Transducer, encoded: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    logp = model.training_only["ctc"](encoded).log_softmax(-1).transpose(0, 1)  # (T', N, V)
    return F.ctc_loss(
        logp, batch.tokens, lengths, batch.token_lens, blank=BLANK, reduction="sum", zero_infinity=True
    )
