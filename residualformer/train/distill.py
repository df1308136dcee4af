"""The teacher of a distillation: a trained model whose outputs the student learns beside the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from residualformer.config.schema import Config
from residualformer.constants import FRAME_SHIFT_MS
from residualformer.data.collate import Batch
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.kernels.precision import bf16_autocast
from residualformer.loss.distill import Outputs, SoftTargets, soft_targets
from residualformer.loss.objective import TransducerObjective, lattice_boundary
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model


class Distiller:
    """A trained transducer, frozen, that tells what it thinks of the labels of a batch.

    It may be larger than the student, see more context, or share fewer weights.

    Args:
        path: a run folder or its model file.
        config, tokenizer: of the student. A teacher of other features, frames or tokens raises UserError.
    """

    def __init__(self, path: Path, config: Config, tokenizer: Tokenizer) -> None:
        bundle = checkpoint.load_model(path)
        self.model = bundle.model.requires_grad_(False)
        if bundle.config.features != config.features:
            raise UserError(_unfit(path, "features", bundle.config.features, config.features))
        with torch.device("meta"):
            wanted = build_model(config, tokenizer.vocab_size).encoder.stride
        if (own := bundle.model.encoder.stride) != wanted:
            raise UserError(_unfit(path, "frames", *(f"{each * FRAME_SHIFT_MS} ms" for each in (own, wanted))))
        if bundle.tokenizer.fingerprint != tokenizer.fingerprint:
            sizes = (f"{each.vocab_size} of kind {each.kind}" for each in (bundle.tokenizer, tokenizer))
            raise UserError(_unfit(path, "tokens", *sizes))
        self.fingerprint = checkpoint.fingerprint(bundle.model.state_dict())
        self.temperature, self.bf16 = config.train.distill.temperature, config.train.precision == "bf16"
        self.objective = TransducerObjective(replace(bundle.config.loss, backend="auto"), self.bf16)

    def to(self, device: torch.device) -> Distiller:
        """Move the model to `device`."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def targets(self, features: Tensor, batch: Batch) -> SoftTargets:
        """Return what the teacher says of the labels of `batch`, hearing its `features` (N, T, F), augmented or not.

        A teacher of the pruned loss is asked within its own ranges. Raises NotFiniteError if its outputs for an
        utterance are not finite.
        """
        with bf16_autocast(features, self.bf16):
            encoded, lengths = self.model.encoder(features, batch.feature_lens)
        encoded, predicted = encoded.float(), self.model.predictor(batch.tokens)
        boundary, ranges = lattice_boundary(batch.token_lens, lengths), None
        if self.objective.config.kind == "pruned":
            _, ranges = self.objective.simple(self.model, encoded, predicted, batch.tokens, boundary)
        outputs = Outputs.of(self.model.joiner, encoded, predicted)
        return soft_targets(outputs, batch.tokens, boundary, ranges, self.temperature)


def _unfit(path: Path, what: str, own: object, wanted: object) -> str:
    """Return why a model cannot be the teacher."""
    return (
        f"{path} cannot be the teacher of train.distill: its {what} are not the student's ({own}, not {wanted}); name "
        f"an experiment of the same {what} in train.distill.teacher"
    )
