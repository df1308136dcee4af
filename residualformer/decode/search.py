"""From features to hypotheses: the settings of a search, the chunk-by-chunk encoder, the choice of the search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import yaml
from torch import Tensor

from residualformer.config import config_from_dict, config_to_dict
from residualformer.data.features import FRAME_SHIFT_S
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import greedy_search
from residualformer.decode.hypotheses import Hypothesis
from residualformer.errors import UserError
from residualformer.schema import Config, DecodeConfig
from residualformer.yaml_loader import load_yaml

LONGEST_FULL_PASS = 6000  # feature frames: a minute


def search(model, encoded: Tensor, lengths: Tensor, settings: DecodeConfig) -> list[list[Hypothesis]]:
    """n-best lists, best first, of the encoder's output `encoded` (N, T, D) with `lengths` (N,) int64."""
    if settings.kind == "greedy":
        best = greedy_search(model, encoded, lengths, settings.max_symbols, settings.blank_penalty)
        return [[hypothesis] for hypothesis in best]
    return beam_search(
        model, encoded, lengths, settings.beam, settings.max_symbols, settings.nbest, settings.blank_penalty
    )


@torch.no_grad()
def encode(model, features: Tensor, lengths: Tensor, streaming: bool = False) -> tuple[Tensor, Tensor]:
    """features (N, T, F) and lengths (N,) -> (N, T', D) and (N,): by the masked full pass, or chunk by chunk.

    The outputs are equal; what is long goes chunk by chunk in any case, because a full mask grows with T squared.
    """
    if not streaming and features.shape[1] <= LONGEST_FULL_PASS:
        return model.encoder(features, lengths)
    chunks = list(encode_chunks(model, features, lengths))
    encoded = torch.cat([chunk for chunk, _ in chunks], dim=1)
    lengths = model.encoder.output_lengths(lengths)
    return encoded[:, : int(lengths.max())], lengths


@torch.no_grad()
def encode_chunks(model, features: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Run features (N, T, F) with `lengths` (N,) through `encoder.step`; yields (N, C, D) and its valid frames (N,)."""
    encoder = model.encoder
    state = encoder.init_state(features.shape[0])
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, max(int(lengths.max()), 1), encoder.shift):
        real = (lengths - start).clamp(min=0)
        window = padded[:, start : start + encoder.window]
        encoded, state = encoder.step(window, real.clamp(max=encoder.window), state)
        yield encoded, encoder.output_lengths(real.clamp(max=encoder.shift))


def decode_settings(config: Config, overrides: Sequence[str]) -> DecodeConfig:
    """The model's search settings with `overrides` such as 'decode.beam=8' over them.

    Raises UserError for a key outside the section `decode`, an unknown key or a value out of range.
    """
    content = config_to_dict(config)
    for override in overrides:
        key, equals, text = override.partition("=")
        section, _, name = key.strip().partition(".")
        if not equals or section != "decode" or not name:
            raise UserError(
                f"--set {override}: a trained model only takes keys of the section decode, such as decode.beam=16."
            )
        try:
            content["decode"][name] = load_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"--set {override}: the value {text!r} is not valid YAML; put quotes around it.") from None
    return config_from_dict(content, source="--set").decode


def search_name(settings: DecodeConfig) -> str:
    """Short name for folders and tables: `greedy` or `beam16`."""
    return "greedy" if settings.kind == "greedy" else f"beam{settings.beam}"


def times_s(hypothesis: Hypothesis, stride: int) -> list[float]:
    """Start, in seconds from the start of the utterance, of the encoder frame that wrote each token.

    Args:
        stride: feature frames per encoder frame.
    """
    return [round(frame * stride * FRAME_SHIFT_S, 2) for frame in hypothesis.frames]
