"""Augmentation of log-mel features by other vocal tracts, background noise, telephone lines and levels.

It works on padded batches of features, so that it costs next to nothing and differs in every epoch. Vocal tract length
perturbation: Jaitly and Hinton (2013), "Vocal tract length perturbation (VTLP) improves speech recognition".

Letters: N utterances, T frames, F mel bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residualformer.config.schema import FeatureConfig, VariationConfig
from residualformer.data.fbank import fbank_options
from residualformer.data.feature_channel import CODECS, FeatureChannel
from residualformer.data.level import LOG_PER_DB
from residualformer.padding import real_frames

TILT_DB = 12.0  # maximum rise or fall of the background's spectrum from the lowest to the highest bin
FLICKER = 0.4  # standard deviation of the background's log energies, about that of noise in a mel bin
BEND = 0.6  # warped frequencies are proportional up to this part of the highest one, then lead back to it


class Augmentation:
    """Random changes of the features of a batch, different for each utterance.

    Args:
        config: the changes; what is 0 there does not change.
        features: the definition of the features, which decides the frequencies of the bins.
    """

    def __init__(self, config: VariationConfig, features: FeatureConfig) -> None:
        options, count = fbank_options(features).mel_opts, features.num_mel_bins
        self.config = config
        self.highest = options.high_freq + (0.0 if options.high_freq > 0 else features.sample_rate_hz / 2)
        self.mel, hz = (_slaney_mel, _slaney_hz) if options.is_librosa else (_htk_mel, _htk_hz)
        low, high = self.mel(torch.tensor([options.low_freq, self.highest], dtype=torch.float64))
        self.first, self.step = low, (high - low) / (count + 1)
        self.centers = hz(low + self.step * torch.arange(1, count + 1))  # (F,), Hz
        self.shifts_only = not (config.quieter_db or config.clip or config.gain_probability < 1)
        is_needed = config.telephone_probability or not self.shifts_only
        self.channel = FeatureChannel(features, self.centers) if is_needed else None

    def __call__(self, features: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented features.

        Args:
            features: (N, T, F).
            lengths: (N,), the frames of each utterance; the padding does not change.
            generator: on the CPU, so that the same state gives the same changes on every device.

        Returns:
            A new tensor (N, T, F).
        """
        config, count = self.config, len(features)
        # All are drawn, used or not, so that switching one off does not change the others.
        warp, gain, noisy, snr, tilt = torch.rand(5, count, generator=generator)
        augmented = features
        if config.warp:
            augmented = self.warped(augmented, 1 + config.warp * (2 * warp - 1))
        if config.noise_probability:
            low, high = config.noise_snr_db
            noise = self.background(features.shape, TILT_DB * (2 * tilt - 1), generator).to(features, non_blocking=True)
            with_noise = mixed(augmented, noise, lengths, low + (high - low) * snr)
            chosen = (noisy < config.noise_probability)[:, None, None].to(features.device, non_blocking=True)
            augmented = torch.where(chosen, with_noise, augmented)
        if self.channel and config.telephone_probability:
            augmented = self.over_telephone(augmented, self.channel, generator)
        if self.channel and not self.shifts_only:
            changes = torch.rand(count, generator=generator) < config.gain_probability
            gain_db = config.gain_db * (2 * gain - 1) - config.quieter_db * (1 - gain)
            augmented = self.channel.louder(augmented, gain_db * changes, config.clip)
        elif config.gain_db:
            augmented = augmented + (config.gain_db * LOG_PER_DB * (2 * gain - 1))[:, None, None].to(
                features, non_blocking=True
            )
        real = real_frames(features.size(1), lengths.to(features.device, non_blocking=True))[:, :, None]
        return torch.where(real, augmented, features)

    def over_telephone(self, features: Tensor, channel: FeatureChannel, generator: torch.Generator) -> Tensor:
        """Return features (N, T, F) of which some went over a telephone line, each over one of its own."""
        count = len(features)
        chosen, band = torch.rand(2, count, generator=generator)
        codec = torch.randint(len(CODECS), (count,), generator=generator)
        line = channel.through_telephone(features, band < 0.5, codec, generator)
        chosen = chosen < self.config.telephone_probability
        return torch.where(chosen[:, None, None].to(features.device, non_blocking=True), line, features)

    def warped(self, features: Tensor, factors: Tensor) -> Tensor:
        """Return features (N, T, F) as of vocal tracts `factors` (N,) times as long: frequencies fall by the factor."""
        hz, factors = self.centers, factors[:, None]
        bend = BEND * self.highest / factors.clamp(min=1)  # (N, 1)
        rest = (self.highest - bend * factors) / (self.highest - bend)
        source = torch.where(hz <= bend, hz * factors, self.highest - rest * (self.highest - hz))  # (N, F)
        position = (
            ((self.mel(source) - self.first) / self.step - 1).clamp(0, len(hz) - 1).to(features, non_blocking=True)
        )
        below = position.floor().clamp(max=len(hz) - 2).long()
        fraction = (position - below)[:, None]  # (N, 1, F)
        index = below[:, None].expand_as(features)
        return features.gather(2, index) * (1 - fraction) + features.gather(2, index + 1) * fraction

    def background(self, shape: torch.Size, tilt_db: Tensor, generator: torch.Generator) -> Tensor:
        """Return log energies (N, T, F) of stationary noise whose spectrum rises by `tilt_db` (N,) over all bins."""
        slope = LOG_PER_DB * tilt_db[:, None, None] * torch.linspace(-0.5, 0.5, shape[2])
        return slope + FLICKER * torch.randn(shape, generator=generator)


def mixed(features: Tensor, noise: Tensor, lengths: Tensor, snr_db: Tensor) -> Tensor:
    """Add `noise` to speech, both log energies (N, T, F), at a signal-to-noise ratio `snr_db` (N,) over real frames."""
    real = real_frames(features.size(1), lengths.to(features.device, non_blocking=True))[:, :, None].expand_as(features)
    speech_level, noise_level = (
        x.masked_fill(~real, -torch.inf).flatten(1).logsumexp(1)[:, None, None] for x in (features, noise)
    )
    distance = LOG_PER_DB * snr_db.to(features, non_blocking=True)[:, None, None]
    return torch.logaddexp(features, noise + (speech_level - noise_level - distance))


def _htk_mel(hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hz / 700.0)


def _htk_hz(mel: Tensor) -> Tensor:
    return 700.0 * torch.expm1(mel / 1127.0)


def _slaney_mel(hz: Tensor) -> Tensor:
    """Convert Hz to Slaney's mel scale, which librosa uses: linear up to 1 kHz, then logarithmic."""
    return torch.where(hz < 1000, hz * 0.015, 15 + torch.log(hz.clamp(min=1) / 1000) * 27 / math.log(6.4))


def _slaney_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel / 0.015, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))
