"""Log-mel filterbanks by kaldi-native-fbank: one definition for training, streaming and deployment.

Frames are 25 ms every 10 ms, pre-emphasis 0.97, FFT 512 (at 16 kHz), natural log of the mel power, no dither and
`snip_edges` off, so S samples give round(S / shift) frames and the same samples always give the same features.
Samples are in [-1, 1] with both presets; Kaldi itself reads 16-bit integers, which only adds 2 ln(32768) to
every value, and the mean normalisation inside the model takes that away again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kaldi_native_fbank as knf
import numpy as np
import torch
from lhotse.features.base import FeatureExtractor, register_extractor

from residualformer.errors import UserError, closest
from residualformer.files import read_json
from residualformer.schema import FeatureConfig

FRAME_SHIFT_S = 0.01
_AGAIN = "run stage 2 first, with --overwrite if it ran before"
LOG_FLOOR = float(np.log(np.finfo(np.float32).eps))  # -15.94, the value of digital silence

# What a preset decides. `sherpa`: the options sherpa-onnx uses, whatever the user says, for streaming models whose
# predictor is an LSTM, so a model trained with them can be deployed as it is. `kaldi`: plain Kaldi, icefall's choice.
# A high_freq <= 0 counts down from half the sampling rate.
PRESETS: dict[str, dict[str, Any]] = {
    "sherpa": dict(low_freq=0.0, high_freq=8000.0, is_librosa=True, window_type="hann", remove_dc_offset=False),
    "kaldi": dict(low_freq=20.0, high_freq=-400.0, is_librosa=False, window_type="povey", remove_dc_offset=True),
}


def checked_preset(config: FeatureConfig) -> dict[str, Any]:
    """What the preset of `config` decides.

    Raises UserError for an unknown preset or a sampling rate or bin count that the preset cannot serve.
    """
    if config.preset not in PRESETS:
        raise UserError(
            f"features.preset is '{config.preset}'; allowed are {', '.join(PRESETS)}.{closest(config.preset, PRESETS)}"
        )
    preset = PRESETS[config.preset]
    if preset["high_freq"] > config.sample_rate_hz / 2:
        raise UserError(
            f"features.sample_rate_hz is {config.sample_rate_hz}, but preset '{config.preset}' reaches up to "
            f"{preset['high_freq']:.0f} Hz and needs at least {2 * preset['high_freq']:.0f}: "
            "resample the corpus or choose preset 'kaldi'."
        )
    if config.num_mel_bins < 3:
        raise UserError(f"features.num_mel_bins is {config.num_mel_bins}; allowed is 3 or more, 80 is usual.")
    return preset


def fbank_options(config: FeatureConfig) -> knf.FbankOptions:
    """All options of the extractor that `config` stands for; UserError as `checked_preset`."""
    options = knf.FbankOptions()
    set_fbank_options(options, config)
    options.mel_opts.is_librosa = PRESETS[config.preset]["is_librosa"]
    return options


def set_fbank_options(options: Any, config: FeatureConfig) -> None:
    """Set in `options` what kaldi-native-fbank and kaldifeat call by the same names; UserError as `checked_preset`."""
    preset = checked_preset(config)
    options.frame_opts.samp_freq = config.sample_rate_hz
    options.frame_opts.frame_length_ms = 25.0
    options.frame_opts.frame_shift_ms = 1000 * FRAME_SHIFT_S
    options.frame_opts.preemph_coeff = 0.97
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.frame_opts.window_type = preset["window_type"]
    options.frame_opts.remove_dc_offset = preset["remove_dc_offset"]
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = preset["low_freq"]
    options.mel_opts.high_freq = preset["high_freq"]


class OnlineFbank:
    """Filterbank of a stream: give samples as they come, take the frames that are ready.

    All frames together equal `compute_fbank` of all samples together, bit for bit, however the samples were cut.
    """

    def __init__(self, config: FeatureConfig):
        self.config = config
        self._fbank = knf.OnlineFbank(fbank_options(config))
        self._taken = 0

    def accept(self, samples: np.ndarray) -> None:
        """Add samples (S,), float32 in [-1, 1], at the configured rate."""
        self._fbank.accept_waveform(self.config.sample_rate_hz, np.ascontiguousarray(samples, dtype=np.float32))

    def finish(self) -> None:
        """No more samples will come; the last frames, which look past the end, become ready."""
        self._fbank.input_finished()

    def pop(self) -> np.ndarray:
        """Frames ready and not yet taken, (t, F) float32; t may be 0."""
        ready = self._fbank.num_frames_ready
        frames = np.empty((ready - self._taken, self.config.num_mel_bins), dtype=np.float32)
        for row, index in enumerate(range(self._taken, ready)):
            frames[row] = self._fbank.get_frame(index)
        self._fbank.pop(ready - self._taken)
        self._taken = ready
        return frames


def compute_fbank(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Log-mel filterbank (T, F) float32 of one utterance, samples (S,) float32 in [-1, 1]."""
    _check_channel(samples)
    fbank = OnlineFbank(config)
    fbank.accept(samples)
    fbank.finish()
    return fbank.pop()


def _check_channel(samples: np.ndarray) -> None:
    if samples.ndim != 1:
        raise UserError(f"features are computed on one channel, samples (S,); given is the shape {samples.shape}.")


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
        _check_channel(samples)
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
