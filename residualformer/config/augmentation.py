"""The keys of augmentation, sections of `data` in `schema.py`; like it, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Predicate, Unit

from residualformer.config.keys import Allowed, Doc, Fraction, NotNegative, Only, Updates

JOINED = Only("data.concat_probability", Gt(0))
MOST_DB = 100.0
LONGEST_RT60_S = 5.0

Decibels = Annotated[
    list[float],
    Predicate(lambda pair: len(pair) == 2 and -MOST_DB <= pair[0] <= pair[1] <= MOST_DB),
    Unit("dB"),
    Allowed(f"[lowest, highest], from -{MOST_DB:g} to {MOST_DB:g}"),
]
ReverberationTimes = Annotated[
    list[float],
    Predicate(lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= LONGEST_RT60_S),
    Unit("s"),
    Allowed(f"[shortest, longest], above 0 and up to {LONGEST_RT60_S:g}"),
]


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Masks over stretches of time and of frequency."""

    start_step: Annotated[Updates, Doc("applied from this update on")] = 0
    num_time_masks: Annotated[int, Ge(0), Doc("masks in time")] = 2
    max_time_fraction: Annotated[
        Fraction, Only("data.specaugment.num_time_masks", Gt(0)), Doc("of the utterance, per mask")
    ] = 0.1
    num_freq_masks: Annotated[int, Ge(0), Doc("masks in frequency")] = 2
    max_freq_bins: Annotated[int, Ge(0), Only("data.specaugment.num_freq_masks", Gt(0)), Doc("mel bins, per mask")] = 20


@dataclass(frozen=True)
class PauseConfig:
    """Pauses between joined utterances: digital silence, the utterance's own background, or faint noise."""

    longest_s: Annotated[NotNegative, Unit("s"), JOINED, Doc("longest ordinary pause; short ones are likelier")] = 0.0
    long_probability: Annotated[Fraction, JOINED, Doc("chance of a pause up to `very_long_s`")] = 0.0
    very_long_s: Annotated[
        NotNegative, Unit("s"), Only("data.pause.long_probability", Gt(0)), Doc("longest of these rare pauses")
    ] = 20.0


@dataclass(frozen=True)
class VariationConfig:
    """Other voices, levels and backgrounds, made of the features at random."""

    warp: Annotated[float, Interval(ge=0, le=0.5), Doc("vocal tracts up to this part longer or shorter")] = 0.0
    gain_db: Annotated[NotNegative, Unit("dB"), Doc("level raised or lowered by up to this much")] = 0.0
    quieter_db: Annotated[NotNegative, Unit("dB"), Doc("level lowered by up to this much more, down to silence")] = 0.0
    gain_probability: Annotated[Fraction, Doc("chance that the level of an utterance changes")] = 1.0
    clip: Annotated[bool, Only("data.variation.gain_db", Gt(0)), Doc("samples beyond full scale are clipped")] = False
    telephone_probability: Annotated[
        Fraction, Doc("chance of a telephone line: 8 kHz, half of them 300 to 3400 Hz, with G.711, GSM or neither")
    ] = 0.0
    noise_probability: Annotated[Fraction, Doc("chance of stationary noise behind an utterance")] = 0.0
    noise_snr_db: Annotated[
        Decibels, Only("data.variation.noise_probability", Gt(0)), Doc("its signal-to-noise ratio")
    ] = field(default_factory=lambda: [5.0, 30.0])


@dataclass(frozen=True)
class WaveformConfig:
    """Rooms, noise, levels and lines that change the samples at random; if any is on, batches read the audio."""

    room_probability: Annotated[Fraction, Doc("chance of a synthetic room")] = 0.0
    room_rt60_s: Annotated[
        ReverberationTimes,
        Only("data.waveform.room_probability", Gt(0)),
        Doc("its reverberation time, in which sound decays by 60 dB"),
    ] = field(default_factory=lambda: [0.1, 0.7])
    noise_probability: Annotated[Fraction, Doc("chance of noise from a file")] = 0.0
    noise: Annotated[
        list[str], Only("data.waveform.noise_probability", Gt(0)), Doc("folders of its files, searched with all below")
    ] = field(default_factory=list)
    noise_snr_db: Annotated[
        Decibels, Only("data.waveform.noise_probability", Gt(0)), Doc("its signal-to-noise ratio")
    ] = field(default_factory=lambda: [0.0, 30.0])
    level_probability: Annotated[Fraction, Doc("chance of another level, rounded to 16 bits and clipped")] = 0.0
    level_db: Annotated[
        Decibels, Only("data.waveform.level_probability", Gt(0)), Doc("louder by so much; below 0: quieter")
    ] = field(default_factory=lambda: [-35.0, 10.0])
    telephone_probability: Annotated[
        Fraction, Doc("chance of a telephone line: 8 kHz, half of them 300 to 3400 Hz, with mu-law, A-law, GSM or none")
    ] = 0.0
