"""What training minimises: the transducer loss of a batch, with its auxiliaries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.config.schema import LossConfig
from residualformer.constants import BLANK
from residualformer.data.collate import Batch
from residualformer.loss import get_backend, get_rnnt_prune_ranges
from residualformer.loss.backends import Backend
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.nn.transducer import Transducer

BF16_WEIGHTS = 250_000  # of an output layer, as 500 classes x 512; of fewer, products are no large part of the loss


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
    return transducer_losses(model, batch, encoded, lengths, config, bf16)


def precision(features: Tensor, bf16: bool) -> torch.autocast:
    """bf16 autocast for the encoder, if wanted.

    What follows the encoder stays fp32, but for what `loss_precision` says: log-probabilities of bf16 logits are off by
    hundredths of a nat, and on a CPU small products are no faster in bf16.
    """
    return torch.autocast(features.device.type, torch.bfloat16, enabled=bf16)


def loss_precision(
    joiner: TanhJoiner | AdditiveJoiner, encoded: Tensor, backend: Backend, bf16: bool
) -> torch.autocast:
    """bf16 autocast for a loss, if wanted, where it pays: an output layer of BF16_WEIGHTS or more.

    Only for this package's losses, which take products of bf16 numbers, but keep float32 sums, logits and gradients;
    under the same autocast other back-ends would get bf16 logits.
    """
    output = joiner.vocabulary if isinstance(joiner, TanhJoiner) else joiner.project_encoder
    large = output.weight.numel() >= BF16_WEIGHTS
    return precision(encoded, bf16 and large and backend.name == "torch")


def transducer_losses(
    model: Transducer, batch: Batch, encoded: Tensor, lengths: Tensor, config: LossConfig, bf16: bool = False
) -> dict[str, Tensor]:
    """Losses summed over a batch, in nats, from encoder frames (N, T', D), of which `lengths` (N,) are real.

    `bf16`: as in `loss_precision`.

    Returns:
        `loss`, to be minimised: transducer (+ simple_scale * simple) (+ ctc_scale * ctc), and these parts.
    """
    encoded = encoded.float()
    predicted = model.predictor(batch.tokens)
    boundary = boundary_of(batch.token_lens, lengths)
    backend = get_backend(config.backend)
    if config.kind == "pruned":
        losses = _pruned(model, encoded, predicted, batch.tokens, boundary, backend, config, bf16)
    else:
        exact = exact_loss(model.joiner, encoded, predicted, batch.tokens, boundary, backend, bf16)
        losses = {"transducer": exact, "loss": exact}
    if config.ctc_scale > 0:
        losses["ctc"] = _ctc(model, encoded, lengths, batch, config.ctc_target)
        losses["loss"] = losses["loss"] + config.ctc_scale * losses["ctc"]
    return losses


def boundary_of(token_lens: Tensor, lengths: Tensor) -> Tensor:
    """k2's `boundary` (N, 4) of utterances of so many labels, (N,), and encoder frames, (N,)."""
    boundary = torch.zeros(len(lengths), 4, dtype=torch.int64, device=lengths.device)
    boundary[:, 2], boundary[:, 3] = token_lens, lengths
    return boundary


def _pruned(
    model: Transducer,
    encoded: Tensor,
    predicted: Tensor,
    tokens: Tensor,
    boundary: Tensor,
    backend: Backend,
    config: LossConfig,
    bf16: bool,
) -> dict[str, Tensor]:
    """The simple joiner's loss finds the labels worth a look at each frame; the joiner is run on those alone."""
    of_encoder, of_predictor = model.training_only["simple_encoder"], model.training_only["simple_predictor"]
    joiner, output = model.joiner, model.joiner.vocabulary
    am, lm = joiner.project_encoder(encoded), joiner.project_predictor(predicted)
    with loss_precision(joiner, encoded, backend, bf16):
        simple, (px_grad, py_grad) = backend.simple_joiner_loss(
            *(encoded, predicted, of_encoder.weight, of_encoder.bias, of_predictor.weight, of_predictor.bias),
            *(tokens, BLANK, boundary),
            lm_only_scale=config.lm_scale,
            am_only_scale=config.am_scale,
            reduction="sum",
            return_grad=True,
        )
        ranges = get_rnnt_prune_ranges(px_grad, py_grad, boundary, config.prune_range)
        pruned = backend.pruned_joiner_loss(
            am, lm, output.weight, output.bias, tokens, ranges, BLANK, boundary, reduction="sum"
        )
    return {"loss": pruned + config.simple_scale * simple, "transducer": pruned, "simple": simple}


def exact_loss(
    joiner: TanhJoiner | AdditiveJoiner,
    encoded: Tensor,
    predicted: Tensor,
    tokens: Tensor,
    boundary: Tensor,
    backend: Backend,
    bf16: bool = False,
    reduction: str = "sum",
) -> Tensor:
    """The loss over all alignments, in nats, of whichever joiner: of the batch, or (N,) with `reduction` none.

    Args:
        encoded: (N, T', D) encoder frames; predicted: (N, S+1, P) predictor outputs for `tokens` (N, S).
        boundary: (N, 4), see `boundary_of`; bf16: as in `loss_precision`.
    """
    of_encoder, of_predictor = joiner.project_encoder, joiner.project_predictor
    if isinstance(joiner, AdditiveJoiner):
        weights = of_encoder.weight, of_encoder.bias, of_predictor.weight, of_predictor.bias
        with loss_precision(joiner, encoded, backend, bf16):
            return backend.simple_joiner_loss(
                encoded, predicted, *weights, tokens, BLANK, boundary, reduction=reduction
            )
    am, lm, output = of_encoder(encoded), of_predictor(predicted), joiner.vocabulary
    with loss_precision(joiner, encoded, backend, bf16):
        return backend.exact_joiner_loss(
            am, lm, output.weight, output.bias, tokens, BLANK, boundary, reduction=reduction
        )


def _ctc(model: Transducer, encoded: Tensor, lengths: Tensor, batch: Batch, target: str) -> Tensor:
    logp = model.training_only["ctc"](encoded).log_softmax(-1).transpose(0, 1)  # (T', N, V)
    labels, label_lens = (batch.tokens, batch.token_lens) if target == "tokens" else _said(batch)
    return F.ctc_loss(logp, labels, lengths, label_lens, blank=BLANK, reduction="sum", zero_infinity=True)


def _said(batch: Batch) -> tuple[Tensor, Tensor]:
    """The transcripts' UTF-8 bytes, each plus 1 (0 is blank), one after another, and how many each has (N,).

    Bytes need no second set of tokens and are the same for every language.
    """
    said = [transcript.encode() for transcript in batch.transcripts]
    labels = torch.tensor([1 + byte for each in said for byte in each], dtype=torch.int64)
    return labels.to(batch.tokens.device), torch.tensor([len(each) for each in said], device=batch.tokens.device)
