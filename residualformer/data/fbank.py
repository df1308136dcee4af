"""Log-mel filterbanks by kaldi-native-fbank: one definition for training, streaming and deployment.

Frames are 25 ms every 10 ms, pre-emphasis 0.97, FFT 512 (at 16 kHz), natural log of the mel power, no dither and
`snip_edges` off, so that S samples give round(S / shift) frames and the same samples always give the same features.
Samples are in [-1, 1] with both presets. Kaldi itself reads 16-bit integers, which adds 2 ln(32768) to every value; the
normalization inside the model removes it. Needs neither torch nor Lhotse.
"""

from __future__ import annotations

from typing import Any

import kaldi_native_fbank as knf
import numpy as np

from residualformer.config.schema import FeatureConfig
from residualformer.constants import FRAME_SHIFT_MS
from residualformer.data.level import AMPLIFIED, StreamingLevel
from residualformer.errors import UserError, closest

LOG_FLOOR = float(np.log(np.finfo(np.float32).eps))  # -15.94, the value of digital silence

# The options that a preset decides. `sherpa`: those that sherpa-onnx always uses for streaming models with an LSTM
# predictor, so that models can be deployed there. `kaldi`: Kaldi's defaults, as in icefall. A high_freq <= 0 is
# relative to half the sampling rate.
PRESETS: dict[str, dict[str, Any]] = {
    "sherpa": dict(low_freq=0.0, high_freq=8000.0, is_librosa=True, window_type="hann", remove_dc_offset=False),
    "kaldi": dict(low_freq=20.0, high_freq=-400.0, is_librosa=False, window_type="povey", remove_dc_offset=True),
}


def checked_preset(config: FeatureConfig) -> dict[str, Any]:
    """Return the options that the preset of `config` decides.

    Raises:
        UserError: the preset is unknown, or cannot serve the sampling rate or the number of bins.
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
    """Return the options of kaldi-native-fbank for `config`. Raise UserError as `checked_preset` does."""
    options = knf.FbankOptions()
    set_fbank_options(options, config)
    options.mel_opts.is_librosa = PRESETS[config.preset]["is_librosa"]
    return options


def set_fbank_options(options: Any, config: FeatureConfig) -> None:
    """Set the options that kaldi-native-fbank and kaldifeat share. Raise UserError as `checked_preset` does."""
    preset = checked_preset(config)
    options.frame_opts.samp_freq = config.sample_rate_hz
    options.frame_opts.frame_length_ms = 25.0
    options.frame_opts.frame_shift_ms = FRAME_SHIFT_MS
    options.frame_opts.preemph_coeff = 0.97
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.frame_opts.window_type = preset["window_type"]
    options.frame_opts.remove_dc_offset = preset["remove_dc_offset"]
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = preset["low_freq"]
    options.mel_opts.high_freq = preset["high_freq"]


class OnlineFbank:
    """The filterbank of a stream.

    However the samples are cut into blocks, all frames equal `compute_fbank` of all samples, bit for bit.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._fbank = knf.OnlineFbank(fbank_options(config))
        self._taken = 0
        self._level = leveler(config)

    def accept(self, samples: np.ndarray) -> None:
        """Add samples (S,), float32 in [-1, 1], at the configured rate."""
        samples = amplified(np.ascontiguousarray(samples, dtype=np.float32), self.config)
        self._fbank.accept_waveform(self.config.sample_rate_hz, samples)

    def finish(self) -> None:
        """End the stream: the last frames, whose windows reach beyond it, become ready."""
        self._fbank.input_finished()

    def pop(self) -> np.ndarray:
        """Return the frames that have become ready since the last call, (t, F) float32; t may be 0."""
        ready = self._fbank.num_frames_ready
        frames = np.empty((ready - self._taken, self.config.num_mel_bins), dtype=np.float32)
        for row, index in enumerate(range(self._taken, ready)):
            frames[row] = self._fbank.get_frame(index)
        self._fbank.pop(ready - self._taken)
        self._taken = ready
        return self._level(frames) if self._level else frames


def amplified(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Return samples (S,) float32 as the filterbank of `config` takes them, see `data.level`."""
    return samples * AMPLIFIED if config.level == "normalized" else samples


def leveler(config: FeatureConfig) -> StreamingLevel | None:
    """Return the normalization of a stream's level that `config` asks for, if any."""
    return StreamingLevel(LOG_FLOOR) if config.level == "normalized" else None


def compute_fbank(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Compute the log-mel filterbank (T, F) float32 of one utterance, samples (S,) float32 in [-1, 1]."""
    check_channel(samples)
    fbank = OnlineFbank(config)
    fbank.accept(samples)
    fbank.finish()
    return fbank.pop()


def check_channel(samples: np.ndarray) -> None:
    """Raise UserError unless `samples` are one channel (S,)."""
    if samples.ndim != 1:
        raise UserError(f"features are computed on one channel, samples (S,); given is the shape {samples.shape}.")
