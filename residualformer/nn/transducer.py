"""The model: encoder, predictor, joiner, and the heads that only training needs."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from residualformer.config.schema import Config
from residualformer.nn.encoder import Encoder
from residualformer.nn.joiner import AdditiveJoiner, Joiner, TanhJoiner
from residualformer.nn.predictor import LSTMPredictor, Predictor, StatelessPredictor
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.nn.transformer import TransformerEncoder


class Transducer(nn.Module):
    """A neural transducer (Graves 2012); blank is label 0, and V, `vocab_size`, counts it."""

    encoder: Encoder[Any]  # features (N, T, F) -> frames (N, T', D)
    predictor: Predictor  # labels (N, S) -> (N, S + 1, P)
    joiner: Joiner  # frames and predictor outputs -> logits (..., V)
    separator: int | None = None  # the label that stands between words, if there is one

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        bins = config.features.num_mel_bins
        if config.encoder.kind == "transformer":
            arbitrator = config.amnet.arbitrator if config.encoder.depth.arbitrator else None
            self.encoder = TransformerEncoder(config.encoder, bins, arbitrator)
        else:
            self.encoder = RecurrentEncoder(config.encoder, config.amnet, bins)
        if config.predictor.kind == "lstm":
            self.predictor = LSTMPredictor(vocab_size, config.predictor)
        else:
            self.predictor = StatelessPredictor(vocab_size, config.predictor)
        dim = self.encoder.dim
        if config.joiner.kind == "additive":
            self.joiner = AdditiveJoiner(dim, self.predictor.dim, vocab_size)
        else:
            self.joiner = TanhJoiner(dim, self.predictor.dim, config.joiner.dim, vocab_size)
        if isinstance(self.encoder, TransformerEncoder) and config.amnet.arbitrator.use_backlog:
            self.encoder.run_on(config.amnet.cost.mu, self.joiner.project_encoder.weight.numel())
        # Linear heads D -> V or P -> V of the loss alone: absent from search, never counted in the model's size. Where
        # CTC writes the transcript, its classes are the blank and the 256 bytes.
        self.training_only = nn.ModuleDict()
        if config.loss.kind == "pruned":
            self.training_only["simple_encoder"] = nn.Linear(dim, vocab_size)
            self.training_only["simple_predictor"] = nn.Linear(self.predictor.dim, vocab_size)
        if config.loss.ctc_scale > 0:
            of_transcript = config.loss.ctc_target == "transcript"
            self.training_only["ctc"] = nn.Linear(dim, 1 + 256 if of_transcript else vocab_size)

    def label_parameters(self) -> set[str]:
        """Return the names of the parameters with a row for each label, (V, ...)."""
        outputs = ["joiner.vocabulary"]
        if isinstance(self.joiner, AdditiveJoiner):
            outputs = ["joiner.project_encoder", "joiner.project_predictor"]
        linears = {name: cast(nn.Linear, head) for name, head in self.training_only.items()}
        heads = [f"training_only.{name}" for name, head in linears.items() if head.out_features == self.vocab_size]
        names = {f"{module}.{kind}" for module in [*outputs, *heads] for kind in ("weight", "bias")}
        return ({"predictor.embedding.table.weight"} | names) & {name for name, _ in self.named_parameters()}


def build_model(config: Config, vocab_size: int) -> Transducer:
    """Return the model that `config` describes, with random weights drawn from torch's global generator."""
    return Transducer(config, vocab_size)
