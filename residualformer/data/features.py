"""The filterbanks of a corpus: `fbank.py` as a Lhotse feature extractor, and what stage 2 stores beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.features.base import FeatureExtractor, register_extractor

from residualformer.config.schema import FeatureConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.fbank import (
    LOG_FLOOR,
    PRESETS,
    OnlineFbank,
    check_channel,
    checked_preset,
    compute_fbank,
    fbank_options,
    set_fbank_options,
)
from residualformer.errors import UserError
from residualformer.files import read_json

__all__ = [  # those of fbank.py, which runs without torch, are to be had here too
    "LOG_FLOOR",
    "PRESETS",
    "KnfFbank",
    "KnfFbankConfig",
    "OnlineFbank",
    "checked_preset",
    "compute_fbank",
    "fbank_options",
    "read_cmvn",
    "read_feature_config",
    "set_fbank_options",
]
_AGAIN = "run stage 2 first, with --overwrite if it ran before"


@dataclass(frozen=True)
class KnfFbankConfig(FeatureConfig):
    """FeatureConfig with the two methods that Lhotse wants."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> KnfFbankConfig:
        return cls(**data)


@register_extractor
class KnfFbank(FeatureExtractor):
    """`compute_fbank` as a Lhotse feature extractor; a back-end may compute in its place (`feature_backends.py`)."""

    name = "residualformer-fbank"
    backend = "knf"
    config_type = KnfFbankConfig

    def __init__(self, config: FeatureConfig | None = None):
        super().__init__(KnfFbankConfig(**asdict(config or FeatureConfig())))

    @property
    def frame_shift(self) -> float:
        return FRAME_SHIFT_S

    def feature_dim(self, sampling_rate: int) -> int:
        return self.config.num_mel_bins

    def extract(self, samples: np.ndarray | torch.Tensor, sampling_rate: int) -> np.ndarray:
        """(T, F) float32 of samples (S,) or (1, S); UserError when `sampling_rate` is not the configured one."""
        if sampling_rate != self.config.sample_rate_hz:
            raise UserError(
                f"audio at {sampling_rate} Hz, but features.sample_rate_hz is {self.config.sample_rate_hz}: "
                f"resample the audio (Lhotse: cuts.resample({self.config.sample_rate_hz})) or change the option."
            )
        samples = np.asarray(samples)
        samples = samples[0] if samples.ndim == 2 and len(samples) == 1 else samples
        check_channel(samples)
        return self.compute(samples)

    def compute(self, samples: np.ndarray) -> np.ndarray:
        """(T, F) float32 of samples (S,) at the configured rate."""
        return compute_fbank(samples, self.config)


def read_feature_config(fbank_dir: Path | str) -> FeatureConfig:
    """The definition that the features in `fbank_dir` were computed with."""
    data = read_json(Path(fbank_dir) / "features.json", _AGAIN)
    try:
        return FeatureConfig(**data)
    except TypeError as error:
        raise UserError(f"{fbank_dir}/features.json is not a feature definition ({error}): {_AGAIN}.") from error


def read_cmvn(fbank_dir: Path | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over the training set, each (F,) float32."""
    path = Path(fbank_dir) / "cmvn.json"
    data = read_json(path, _AGAIN)
    bins = read_feature_config(fbank_dir).num_mel_bins
    try:
        mean, std = (torch.tensor(data[key], dtype=torch.float32) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        mean = std = torch.empty(0)
    if not mean.shape == std.shape == (bins,) or not (mean.isfinite() & std.isfinite() & (std > 0)).all():
        raise UserError(f"{path} does not hold mean and std of {bins} bins: {_AGAIN}.")
    return mean, std
