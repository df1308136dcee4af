"""The settings of a search: where they come from, and the names of what was searched with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from residualformer.config.loading import config_from_dict, config_to_dict, load_config
from residualformer.config.schema import Config, DecodeConfig
from residualformer.config.yaml_loader import load_yaml
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
    """Return the settings for a split: greedy search if its test set is among `greedy_sets`."""
    return replace(settings, kind="greedy") if set_of(split) in settings.greedy_sets else settings


def search_name(settings: DecodeConfig) -> str:
    """Return a short name for folders and tables: `greedy` or `beam16`."""
    return "greedy" if settings.kind == "greedy" else f"beam{settings.beam}"
