"""The cost of a model: parameters, each counted once, and FLOPs per frame of the encoder.

One FLOP is one multiply-accumulate, as in the AmNets paper's table 1; biases and element-wise work are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypedDict

import torch
from torch import nn

from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.kernels.recurrent import GATES
from residualformer.nn.encoder import BranchedEncoder
from residualformer.nn.linear import RESIDUAL_PARTS
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.nn.transducer import Transducer, build_model
from residualformer.nn.transformer import TransformerEncoder


class FlopsPerFrame(TypedDict):
    """FLOPs per encoder frame: a frame costs `arbitrator` + `output` + one of `branches`."""

    arbitrator: float  # 0 where there is none; that of a Transformer works once a chunk, which its frames share
    output: float  # the joiner's projection of the encoder, which the paper counts as the encoder's
    branches: list[float]  # slow first; masked weights cost nothing. Of a Transformer: its depths, the largest first


def describe(config: Config) -> dict[str, Any]:
    """Return `count_parameters` and, under the key `flops_per_frame`, `planned_flops`."""
    return {**count_parameters(config), "flops_per_frame": planned_flops(config)}


def count_parameters(config: Config, vocab_size: int | None = None) -> dict[str, int]:
    """Count the parameters of the model that `config` describes, pruned to the end where it asks for pruning.

    The model is not allocated.

    Args:
        vocab_size: V; default `tokens.vocab_size`.
    """
    compression = config.amnet.compression if config.amnet.method == "sparse" else []
    pruned = sum(_zeros(w, v, c) for c in compression for w, v in _shapes(config))
    return parameter_table(_unallocated(config, vocab_size), pruned)


def parameter_table(model: Transducer, pruned: int | None = None) -> dict[str, int]:
    """Count parameters by component, shared ones once.

    Keys: `predictor`; `joiner`; `total`: all that decoding needs; `training_only`: heads that are dropped after
    training, not within the total. And

    - of a Transformer: `transformer`: the papers' column (projections, their biases, residual parts; not LayerNorm);
      `residual`: the A, B, D within it; `layer_norm`; `subsampling`; `arbitrator`, if it has one;
    - of a recurrent encoder: `encoder`: the AmNets paper's column, which takes the joiner's projection of the encoder
      in, and counts of sparse weights those that are not zero; `arbitrator`: within it; `pruned`: the weights at zero
      that the model file holds beside these, in no sum.

    Args:
        pruned: number of weights at zero (default: counted in the model's masks).
    """
    training_only = _count(model.training_only.parameters())
    total = _count(model.parameters()) - training_only
    rest = {"predictor": _count(model.predictor.parameters()), "joiner": _count(model.joiner.parameters())}
    if isinstance(model.encoder, RecurrentEncoder):
        masks = [buffer for name, buffer in model.encoder.named_buffers() if name.rsplit(".", 1)[-1] == "mask"]
        zeros = sum(mask.numel() - int(mask.count_nonzero()) for mask in masks) if pruned is None else pruned
        projection = _count(model.joiner.project_encoder.parameters())
        arbitrator = model.encoder.arbitrator
        table = {
            "encoder": _count(model.encoder.parameters()) + projection - zeros,
            "arbitrator": _count(arbitrator.parameters()) if arbitrator is not None else 0,
            "pruned": zeros,
        }
        rest["joiner"] -= projection
        total -= zeros
        parts = table["encoder"]
    else:
        assert isinstance(model.encoder, TransformerEncoder)
        table = _transformer_table(model.encoder)
        parts = sum(table.values()) - table["residual"]
    assert total == parts + sum(rest.values()), "a component is missing from the table"
    return table | rest | {"total": total, "training_only": training_only}


def flops_per_frame(model: Transducer, branches: list[float] | None = None) -> FlopsPerFrame:
    """Return the cost of a frame of a model, as trained or with other costs of `branches`."""
    encoder = model.encoder
    assert isinstance(encoder, BranchedEncoder)
    return {
        "arbitrator": encoder.arbitrator_flops(),
        "output": float(model.joiner.project_encoder.weight.numel()),
        "branches": encoder.branch_flops() if branches is None else branches,
    }


def planned_flops(config: Config, vocab_size: int | None = None) -> FlopsPerFrame:
    """Return `flops_per_frame` of the model that `config` describes, pruned to the end where it asks for pruning."""
    model = _unallocated(config, vocab_size)
    if config.amnet.method != "sparse":
        return flops_per_frame(model)
    shapes = _shapes(config)
    branches = [float(sum(w * v - _zeros(w, v, c) for w, v in shapes)) for c in config.amnet.compression]
    return flops_per_frame(model, branches)


def compressed_to(config: Config, flops: float) -> Config:
    """Return `config` with one branch, compressed so that its layers cost `flops` per frame.

    Ranks are whole numbers: factors cost less than one rank of each matrix less.

    Raises:
        UserError: `amnet.method` compresses nothing, or the dense layers cost less than `flops`.
    """
    method, dense = config.amnet.method, sum(w * v for w, v in _shapes(config))
    if method == "none" or not 0 < flops <= dense:
        raise UserError(
            f"{flops / 1e6:.4g} MFLOP per frame of the layers cannot be reached by compression with amnet.method = "
            f"{method}; take sparse or factorised, and more than 0, at most the {dense / 1e6:.4g} of the dense layers"
        )
    return replace(config, amnet=replace(config.amnet, compression=[round(1 - flops / dense, 6)]))


def _shapes(config: Config) -> list[tuple[int, int]]:
    """Return (w, v) of the matrices of a branch: per layer, all gates of the input and of the recurrent product."""
    encoder = config.encoder
    w = GATES[encoder.kind] * encoder.dim
    first = encoder.stack_frames * config.features.num_mel_bins
    return [(w, v) for layer in range(encoder.num_layers) for v in (encoder.dim if layer else first, encoder.dim)]


def _zeros(w: int, v: int, compression: float) -> int:
    """Return how many weights of a pruned matrix are zero (with `amnet.block` above 1, to within a block)."""
    return round(compression * w * v)


def _unallocated(config: Config, vocab_size: int | None) -> Transducer:
    with torch.device("meta"):
        return build_model(config, vocab_size or config.tokens.vocab_size)


def _transformer_table(encoder: TransformerEncoder) -> dict[str, int]:
    residual = [p for name, p in encoder.named_parameters() if name.rsplit(".", 1)[-1] in RESIDUAL_PARTS]
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
    return {
        "transformer": _count(encoder.bank.parameters()) + _count(residual),
        "residual": _count(residual),
        "layer_norm": sum(_count(norm.parameters()) for norm in norms),
        "subsampling": _count(encoder.subsampling.parameters()),
        **({} if encoder.arbitrator is None else {"arbitrator": _count(encoder.arbitrator.parameters())}),
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
