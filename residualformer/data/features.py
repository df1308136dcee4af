"""The filterbanks of a corpus: a Lhotse feature extractor, and the files that stage 2 stores beside the features."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from annotated_types import Gt
from lhotse.features.base import FeatureExtractor, register_extractor

from residualformer.config.schema import FeatureConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.fbank import check_channel, compute_fbank
from residualformer.errors import UserError
from residualformer.files import read_checked_json, write_checked_json
from residualformer.records import read_dataclass

T = TypeVar("T")
DEFINITION = "features.json"  # of the features that are beside it

_ADVICE = "run stage 2 first, with --overwrite if it ran before"


@dataclass(frozen=True)
class KnfFbankConfig(FeatureConfig):
    """A FeatureConfig with the two methods that Lhotse requires."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> KnfFbankConfig:
        return cls(**data)


@register_extractor
class KnfFbank(FeatureExtractor):
    """A Lhotse feature extractor by kaldi-native-fbank. Other back-ends override `compute`."""

    name = "residualformer-fbank"
    backend = "knf"
    config_type = KnfFbankConfig

    def __init__(self, config: FeatureConfig | None = None) -> None:
        super().__init__(KnfFbankConfig(**asdict(config or FeatureConfig())))

    @property
    def frame_shift(self) -> float:
        return FRAME_SHIFT_S

    def feature_dim(self, sampling_rate: int) -> int:
        return self.config.num_mel_bins

    def extract(self, samples: np.ndarray | torch.Tensor, sampling_rate: int) -> np.ndarray:
        """Compute features (T, F) float32 of samples (S,) or (1, S).

        Raises:
            UserError: `sampling_rate` is not the configured one, or there are several channels.
        """
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
        """Compute features (T, F) float32 of samples (S,) at the configured rate."""
        return compute_fbank(samples, self.config)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each bin over the training set's `frames`, in cmvn.json."""

    mean: list[float]
    std: list[Annotated[float, Gt(0)]]
    frames: Annotated[int, Gt(0)]


def write_feature_files(fbank_dir: Path, config: FeatureConfig, statistics: Statistics) -> None:
    """Write the definition of the features, features.json, and their statistics, cmvn.json."""
    write_checked_json(fbank_dir / DEFINITION, asdict(config))
    write_checked_json(fbank_dir / "cmvn.json", asdict(statistics))


def read_feature_config(fbank_dir: Path | str) -> FeatureConfig:
    """Read the definition of the features in `fbank_dir`; UserError if it is missing or damaged."""
    return _read(FeatureConfig, Path(fbank_dir) / DEFINITION)


def read_cmvn(fbank_dir: Path | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Read mean and standard deviation of the training features, each (F,) float32; UserError if damaged."""
    path = Path(fbank_dir) / "cmvn.json"
    statistics = _read(Statistics, path)
    bins = read_feature_config(fbank_dir).num_mel_bins
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (statistics.mean, statistics.std))
    if not mean.shape == std.shape == (bins,) or not (mean.isfinite() & std.isfinite() & (std > 0)).all():
        raise UserError(f"{path} does not hold mean and std of {bins} bins: {_ADVICE}.")
    return mean, std


def _read(kind: type[T], path: Path) -> T:
    try:
        return read_dataclass(kind, read_checked_json(path, _ADVICE))
    except ValueError as error:
        raise UserError(f"{path}: {error}: {_ADVICE}.") from error
