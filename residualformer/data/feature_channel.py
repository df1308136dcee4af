"""Levels, clipping and telephone lines applied to log-mel energies, so that augmentation needs no waveform.

The effects of filters and white noise on each bin are measured once, by the real filterbank on noise. The others follow
from the variance of the samples in a frame, which is computed from its energies:
- a gain adds to log energies, and ends at the filterbank's floor;
- clipping is a gain alpha and an uncorrelated distortion, exactly so for Gaussian samples (Bussgang, 1952);
- G.711 adds noise at a nearly constant distance to the signal; GSM 06.10 also moves each energy at random.

`tests/data/test_feature_channel.py` compares all of these with the operations on samples.

Letters: N utterances, T frames, F mel bins.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from residualformer.config.schema import FeatureConfig
from residualformer.data.degrade import through_telephone
from residualformer.data.fbank import LOG_FLOOR, compute_fbank
from residualformer.data.level import LOG_PER_DB

SILENCE = LOG_FLOOR + 0.02  # stored in half precision, the floor may rise by this much
NOISE_S, NOISE_LEVEL = 10.0, 0.1  # of the noise that measures: its length and its deviation
G711_SNR_DB = 37.0  # of both laws, down to the levels where their steps no longer shrink
G711_STEP = 2.0 / 8159  # the smallest step of the mu-law, where full scale is 1
GSM_SNR_DB, GSM_DEVIATION = 27.0, 0.5  # of the noise that fills its band, and of the log energies
DISTORTION_HZ = 1500.0  # above it the distortion of clipping falls by 12 dB an octave
CODECS = ("none", "G.711", "GSM")


class FeatureChannel:
    """Operations on samples, applied to features of the definition `config`.

    Args:
        centers_hz: (F,), the middle of each bin.
    """

    def __init__(self, config: FeatureConfig, centers_hz: Tensor) -> None:
        config = replace(config, level="as recorded")  # in which responses and variances are measured
        rate = config.sample_rate_hz
        noise = np.random.default_rng(0).standard_normal(round(NOISE_S * rate)).astype(np.float32) * NOISE_LEVEL
        before = _mean_energy(noise, config)
        self.white = (before / NOISE_LEVEL**2).log().float()  # (F,), log energy of white noise of variance 1
        lines = [_mean_energy(through_telephone(noise, rate, band=band), config) for band in (False, True)]
        self.lines = torch.stack([line / before for line in lines]).log().float()  # (2, F), log responses
        hz = centers_hz.double()
        width = torch.gradient(hz)[0]
        self.share = (width / width.sum()).log().float() - self.white  # (F,), log part of a bin in the variance
        falling = -2 * torch.log1p((hz / DISTORTION_HZ) ** 2)
        self.distortion = (falling - (falling.exp() * width / width.sum()).sum().log()).float() + self.white  # (F,)

    def log_variance(self, features: Tensor) -> Tensor:
        """Return the logarithm (N, T, 1) of the variance of the samples of each frame."""
        return (features + self.share.to(features)).logsumexp(2, keepdim=True)

    def louder(self, features: Tensor, gain_db: Tensor, clip: bool) -> Tensor:
        """Return features (N, T, F) `gain_db` (N,) louder, with `clip` clipped to full scale; silence stays silent."""
        gain = (LOG_PER_DB * gain_db).to(features, non_blocking=True)[:, None, None]
        scaled = torch.where(features > SILENCE, features + gain, features).clamp(min=LOG_FLOOR)
        return self.clipped(scaled) if clip else scaled

    def clipped(self, features: Tensor) -> Tensor:
        """Return features (N, T, F) of samples that are clipped to [-1, 1], if each frame were Gaussian."""
        log_variance = self.log_variance(features)
        limit = (-0.5 * log_variance).exp()  # full scale, in deviations
        inside = torch.erf(limit / math.sqrt(2))  # alpha, also the share of samples within full scale
        power = inside - math.sqrt(2 / math.pi) * limit * (-0.5 * limit**2).exp() + (1 - inside) * limit**2
        distortion = (power - inside**2).clamp(min=1e-12).log() + log_variance
        return torch.logaddexp(features + 2 * inside.log(), self.distortion.to(features) + distortion)

    def through_telephone(self, features: Tensor, band: Tensor, codec: Tensor, generator: torch.Generator) -> Tensor:
        """Return features (N, T, F) after a telephone line.

        Args:
            band: (N,) whether each also loses what is outside 300 to 3400 Hz.
            codec: (N,) numbers into `CODECS`.
            generator: of the noise that GSM makes.
        """
        device = features.device
        line = features + self.lines.to(features)[band.long().to(device, non_blocking=True)][:, None]
        signal = self.log_variance(line)
        steps = torch.logaddexp(signal - G711_SNR_DB * LOG_PER_DB, signal.clamp(max=math.log(G711_STEP**2 / 12)))
        noise = (self.white + self.lines[0]).to(features)  # of variance 1, over all of the line
        quantized = torch.logaddexp(line, noise + steps)
        moves = (GSM_DEVIATION * torch.randn(features.shape, generator=generator)).to(features, non_blocking=True)
        moved = torch.logaddexp(line, noise + signal - GSM_SNR_DB * LOG_PER_DB) + moves
        codec = codec.to(device, non_blocking=True)[:, None, None]
        return torch.where(codec == 0, line, torch.where(codec == 1, quantized, moved)).clamp(min=LOG_FLOOR)


def _mean_energy(samples: np.ndarray, config: FeatureConfig) -> Tensor:
    """Return the mean energy (F,) of each bin."""
    return torch.from_numpy(compute_fbank(samples, config)).double().exp().mean(0)
