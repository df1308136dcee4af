"""From features to hypotheses: the settings of a search, the chunk-by-chunk encoder, the choice of the search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from residualformer.config.loading import config_from_dict, config_to_dict, load_config
from residualformer.config.schema import Config, DecodeConfig
from residualformer.config.yaml_loader import load_yaml
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.splits import set_of
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import greedy_search
from residualformer.decode.hypotheses import Hypothesis
from residualformer.errors import UserError
from residualformer.nn.arbitrator import OneHot
from residualformer.nn.recurrent import RecurrentEncoder

LONGEST_FULL_PASS = 6000  # feature frames: a minute


class EncodedFrames(NamedTuple):
    """The encoder's output for N utterances, and of recurrent encoders the branch that each frame went through."""

    frames: Tensor  # (N, T', D)
    lengths: Tensor  # (N,)
    branches: Tensor | None = None  # (N, T') int64; all 0 where there is one branch


def search(model, encoded: Tensor, lengths: Tensor, settings: DecodeConfig) -> list[list[Hypothesis]]:
    """n-best lists, best first, of the encoder's output `encoded` (N, T, D) with `lengths` (N,) int64."""
    if settings.kind == "greedy":
        labels = settings.max_symbols, settings.blank_penalty, settings.token_reward
        return [[hypothesis] for hypothesis in greedy_search(model, encoded, lengths, *labels)]
    return beam_search(
        model, encoded, lengths, settings.beam, settings.max_symbols, settings.nbest,
        settings.blank_penalty, settings.token_reward, settings.length_norm,
    )  # fmt: skip


@torch.no_grad()
def encode(model, features: Tensor, lengths: Tensor, streaming: bool = False) -> EncodedFrames:
    """Features (N, T, F) with `lengths` (N,), by the masked full pass, or chunk by chunk.

    The outputs are equal; what is long goes chunk by chunk in any case, because a full mask grows with T squared.
    """
    if not streaming and features.shape[1] <= LONGEST_FULL_PASS:
        return _full_pass(model.encoder, features, lengths)
    frames, _, branches = zip(*encode_chunks(model, features, lengths), strict=True)
    lengths = model.encoder.output_lengths(lengths)
    most = int(lengths.max())
    taken = None if branches[0] is None else torch.cat(branches, dim=1)[:, :most]
    return EncodedFrames(torch.cat(frames, dim=1)[:, :most], lengths, taken)


def _full_pass(encoder, features: Tensor, lengths: Tensor) -> EncodedFrames:
    if not isinstance(encoder, RecurrentEncoder):
        return EncodedFrames(*encoder(features, lengths))
    frames, lengths, decisions, _ = encoder.encode(features, lengths, OneHot())
    single = torch.zeros(frames.shape[:2], dtype=torch.int64, device=frames.device)
    return EncodedFrames(frames, lengths, single if decisions is None else decisions.argmax(2))


@torch.no_grad()
def encode_chunks(model, features: Tensor, lengths: Tensor) -> Iterator[EncodedFrames]:
    """Run features (N, T, F) with `lengths` (N,) through `encoder.step`; yields C frames and how many are valid."""
    encoder = model.encoder
    state = encoder.init_state(features.shape[0])
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, max(int(lengths.max()), 1), encoder.shift):
        real = (lengths - start).clamp(min=0)
        window = padded[:, start : start + encoder.window]
        encoded, state = encoder.step(window, real.clamp(max=encoder.window), state)
        branches = state.decisions[:, None] if isinstance(encoder, RecurrentEncoder) else None
        yield EncodedFrames(encoded, encoder.output_lengths(real.clamp(max=encoder.shift)), branches)


def decode_settings(config: Config, overrides: Sequence[str], experiment: Path | None = None) -> DecodeConfig:
    """The model's search settings, or those of a YAML file `experiment`, with `overrides` such as 'decode.beam=8'.

    Raises UserError for an unknown key, a value out of range, and without `experiment` for a key outside of `decode`.
    """
    if experiment is not None:
        return load_config(experiment, overrides).decode
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


def settings_for(settings: DecodeConfig, split: str) -> DecodeConfig:
    """The settings for a split: greedy for those of the test sets in `greedy_sets`."""
    return replace(settings, kind="greedy") if set_of(split) in settings.greedy_sets else settings


def search_name(settings: DecodeConfig) -> str:
    """Short name for folders and tables: `greedy` or `beam16`."""
    return "greedy" if settings.kind == "greedy" else f"beam{settings.beam}"


def times_s(hypothesis: Hypothesis, stride: int) -> list[float]:
    """Start, in seconds from the start of the utterance, of the encoder frame that wrote each token.

    Args:
        stride: feature frames per encoder frame.
    """
    return [round(frame * stride * FRAME_SHIFT_S, 2) for frame in hypothesis.frames]
