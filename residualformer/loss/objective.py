"""The training objective: the transducer loss of a batch and its auxiliary losses.

Letters: N utterances, T' encoder frames, S labels, V vocabulary size, D encoder and P predictor dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.config.schema import LossConfig
from residualformer.constants import BLANK
from residualformer.kernels.precision import bf16_autocast
from residualformer.loss.backends import Backend, get_backend
from residualformer.loss.distill import Outputs, SoftTargets
from residualformer.loss.pruning import get_rnnt_prune_ranges
from residualformer.loss.recursion import trusted_values
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.nn.transducer import Transducer

# Weights of an output layer from which bf16 products pay (500 classes x 512); below, products cost little of the loss.
MIN_BF16_WEIGHTS = 250_000


class Labels(Protocol):
    """The part of a batch that the objective reads; `data.collate.Batch` has it."""

    @property
    def tokens(self) -> Tensor:
        """(N, S) int64, padded."""

    @property
    def token_lens(self) -> Tensor:
        """(N,) int64."""

    @property
    def transcripts(self) -> Sequence[str]:
        """N texts in the language spoken; read for `loss.ctc_target: transcript` only."""


class TransducerObjective:
    """The sum that training minimizes: transducer (+ simple_scale * simple) (+ ctc_scale * ctc) (+ weight * distill).

    With `bf16` the encoder runs under bf16 autocast, and the losses of large output layers take bf16 products, see
    `loss_autocast`. `distill_weight` counts for batches with soft targets of a teacher.
    """

    def __init__(self, config: LossConfig, bf16: bool = False, distill_weight: float = 0.0) -> None:
        self.config, self.bf16, self.backend = config, bf16, get_backend(config.backend)
        self.distill_weight = distill_weight

    def from_features(
        self,
        model: Transducer,
        features: Tensor,
        feature_lens: Tensor,
        labels: Labels,
        targets: SoftTargets | None = None,
    ) -> dict[str, Tensor]:
        """Run the encoder on features (N, T, F), of which feature_lens (N,) are real, and return the losses."""
        with bf16_autocast(features, self.bf16):
            encoded, lengths = model.encoder(features, feature_lens)
        return self(model, encoded, lengths, labels, targets)

    def __call__(
        self,
        model: Transducer,
        encoded: Tensor,
        lengths: Tensor,
        labels: Labels,
        targets: SoftTargets | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of encoder frames (N, T', D), of which lengths (N,) are real, in nats over the batch.

        They are `loss`, to be minimized, and its parts (`transducer`, `simple`, `ctc`, `distill`). All but their large
        products runs in float32: log-probabilities of bf16 logits are off by hundredths of a nat, and on a CPU small
        products are no faster in bf16.
        """
        encoded = encoded.float()
        predicted = model.predictor(labels.tokens)
        boundary = lattice_boundary(labels.token_lens, lengths)
        with nullcontext() if encoded.device.type == "cpu" else trusted_values():  # to look at them is to wait
            if self.config.kind == "pruned":
                losses = self._pruned(model, encoded, predicted, labels.tokens, boundary)
            else:
                exact = exact_loss(model.joiner, encoded, predicted, labels.tokens, boundary, self.backend, self.bf16)
                losses = {"transducer": exact, "loss": exact}
        if self.config.ctc_scale > 0:
            losses["ctc"] = self._ctc(model, encoded, lengths, labels)
            losses["loss"] = losses["loss"] + self.config.ctc_scale * losses["ctc"]
        if targets is not None:
            losses["distill"] = targets.divergence(Outputs.of(model.joiner, encoded, predicted))
            losses["loss"] = losses["loss"] + self.distill_weight * losses["distill"]
        return losses

    def _pruned(
        self, model: Transducer, encoded: Tensor, predicted: Tensor, tokens: Tensor, boundary: Tensor
    ) -> dict[str, Tensor]:
        """Compute the simple joiner's loss, and the joiner's on the label positions that the former finds likely."""
        joiner = model.joiner
        assert isinstance(joiner, TanhJoiner)  # the configuration refuses others with the pruned loss
        output, am, lm = joiner.vocabulary, joiner.project_encoder(encoded), joiner.project_predictor(predicted)
        simple, ranges = self.simple(model, encoded, predicted, tokens, boundary)
        with loss_autocast(joiner, encoded, self.backend, self.bf16):
            pruned = self.backend.pruned_joiner_loss(
                am, lm, output.weight, output.bias, tokens, ranges, BLANK, boundary, reduction="sum"
            )
        return {"loss": pruned + self.config.simple_scale * simple, "transducer": pruned, "simple": simple}

    def simple(
        self, model: Transducer, encoded: Tensor, predicted: Tensor, tokens: Tensor, boundary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the simple joiner's loss, and the label positions (N, T', R) that it finds likely at each frame."""
        config, heads = self.config, [model.training_only[f"simple_{part}"] for part in ("encoder", "predictor")]
        weights = [weight for head in heads for weight in (head.weight, head.bias)]
        with loss_autocast(model.joiner, encoded, self.backend, self.bf16):
            simple, (px_grad, py_grad) = self.backend.simple_joiner_loss(
                encoded,
                predicted,
                *weights,
                tokens,
                BLANK,
                boundary,
                lm_only_scale=config.lm_scale,
                am_only_scale=config.am_scale,
                reduction="sum",
                return_grad=True,
            )
            return simple, get_rnnt_prune_ranges(px_grad, py_grad, boundary, config.prune_range)

    def _ctc(self, model: Transducer, encoded: Tensor, lengths: Tensor, labels: Labels) -> Tensor:
        logp = model.training_only["ctc"](encoded).log_softmax(-1).transpose(0, 1)  # (T', N, V)
        if self.config.ctc_target == "tokens":
            targets, target_lens = labels.tokens, labels.token_lens
        else:
            targets, target_lens = _transcript_bytes(labels.transcripts, encoded.device)
        return F.ctc_loss(logp, targets, lengths, target_lens, blank=BLANK, reduction="sum", zero_infinity=True)


def loss_autocast(joiner: TanhJoiner | AdditiveJoiner, encoded: Tensor, backend: Backend, bf16: bool) -> torch.autocast:
    """Return bf16 autocast for a loss where it pays: an output layer of at least `MIN_BF16_WEIGHTS`.

    Only this package's losses get it: they take products of bf16 numbers but keep float32 sums, logits and gradients.
    Other back-ends would get bf16 logits.
    """
    output = joiner.vocabulary if isinstance(joiner, TanhJoiner) else joiner.project_encoder
    large = output.weight.numel() >= MIN_BF16_WEIGHTS
    return bf16_autocast(encoded, bf16 and large and backend.name == "torch")


def lattice_boundary(token_lens: Tensor, lengths: Tensor) -> Tensor:
    """Return k2's `boundary` (N, 4) of utterances with token_lens (N,) labels and lengths (N,) encoder frames."""
    boundary = torch.zeros(len(lengths), 4, dtype=torch.int64, device=lengths.device)
    boundary[:, 2], boundary[:, 3] = token_lens, lengths
    return boundary


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
    """Return the loss over all alignments, in nats, for either kind of joiner: a scalar, or (N,) for reduction `none`.

    Args:
        encoded: (N, T', D) encoder frames; predicted: (N, S+1, P) predictor outputs for `tokens` (N, S).
        boundary: (N, 4), see `lattice_boundary`; bf16: see `loss_autocast`.
    """
    encoder, predictor = joiner.project_encoder, joiner.project_predictor
    if isinstance(joiner, AdditiveJoiner):
        weights = encoder.weight, encoder.bias, predictor.weight, predictor.bias
        with loss_autocast(joiner, encoded, backend, bf16):
            return backend.simple_joiner_loss(
                encoded, predicted, *weights, tokens, BLANK, boundary, reduction=reduction
            )
    am, lm, output = encoder(encoded), predictor(predicted), joiner.vocabulary
    with loss_autocast(joiner, encoded, backend, bf16):
        return backend.exact_joiner_loss(
            am, lm, output.weight, output.bias, tokens, BLANK, boundary, reduction=reduction
        )


def _transcript_bytes(transcripts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the UTF-8 bytes of all transcripts, each plus 1 (0 is blank), in one row, and the count of each (N,).

    Bytes need no second tokenizer and are the same for every language.
    """
    encoded = [transcript.encode() for transcript in transcripts]
    labels = torch.tensor([1 + byte for text in encoded for byte in text], dtype=torch.int64)
    return labels.to(device), torch.tensor([len(text) for text in encoded], device=device)
