"""What a model costs: parameters, counted once each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from residualformer.nn.transducer import Transducer, build_model
from residualformer.schema import Config


def count_parameters(config: Config, vocab_size: int | None = None) -> dict[str, int]:
    """Parameters of the model that `config` describes; none is allocated.

    Args:
        vocab_size: V; default `tokens.vocab_size`.
    """
    with torch.device("meta"):
        return parameter_table(build_model(config, vocab_size or config.tokens.vocab_size))


def parameter_table(model: Transducer) -> dict[str, int]:
    """Parameters by component, a shared one counted once.

    Keys: `transformer`: the papers' column (projections, their biases, residual parts; not LayerNorm); `residual`: the
    A, B, D within it; `layer_norm`, `subsampling`, `predictor`, `joiner`; `total`: all of these; `training_only`: heads
    that are dropped after training, not within the total.
    """
    residual = [p for name, p in model.encoder.named_parameters() if name.rsplit(".", 1)[-1] in ("A", "B", "D")]
    norms = [m for m in model.encoder.modules() if isinstance(m, nn.LayerNorm)]
    table = {
        "transformer": _count(model.encoder.bank.parameters()) + _count(residual),
        "residual": _count(residual),
        "layer_norm": sum(_count(norm.parameters()) for norm in norms),
        "subsampling": _count(model.encoder.subsampling.parameters()),
        "predictor": _count(model.predictor.parameters()),
        "joiner": _count(model.joiner.parameters()),
    }
    training_only = _count(model.training_only.parameters())
    total = _count(model.parameters()) - training_only
    assert total == sum(table.values()) - table["residual"], "a component is missing from the table"
    return table | {"total": total, "training_only": training_only}


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
