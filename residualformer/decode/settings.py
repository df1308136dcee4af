"""The settings of a search: where they come from, and the names of what was searched with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from residualformer.config.loading import config_from_dict, config_to_dict, load_config
from residualformer.config.schema import Config, DecodeConfig
from residualformer.data.splits import set_of
from residualformer.errors import UserError


def decode_settings(config: Config, overrides: Sequence[str], experiment: Path | None = None) -> DecodeConfig:
    """Return the model's search settings, or those of a YAML file `experiment`, with `overrides` like 'decode.beam=8'.

    Raises:
        UserError: a key is unknown, a value is out of range, or, without `experiment`, a key is not of the section
            `decode`.
    """
    if experiment is not None:
        return load_config(experiment, overrides).decode
    for override in overrides:
        if not re.match(r"\s*decode\..*=", override):
            raise UserError(
                f"--set {override}: a trained model only takes keys of the section decode, such as decode.beam=16."
            )
    return config_from_dict(config_to_dict(config), "the model", overrides).decode


def settings_for(settings: DecodeConfig, split: str) -> DecodeConfig:
    """Return the settings for a split: greedy search if its test set is among `greedy_sets`."""
    return replace(settings, kind="greedy") if set_of(split) in settings.greedy_sets else settings


def search_name(settings: DecodeConfig) -> str:
    """Return a short name for folders and tables: `greedy`, `beam16`, or `beam16_ngram0.3` with a language model."""
    if settings.kind == "greedy":
        return "greedy"
    name = f"beam{settings.beam}"
    if settings.lm is not None:
        stem = re.sub(r"[^A-Za-z0-9.-]", "-", Path(settings.lm).name.partition(".")[0])
        name += f"_{stem}{settings.lm_weight:g}" + (f"_ilm{settings.ilm_weight:g}" if settings.ilm_weight else "")
    return name
