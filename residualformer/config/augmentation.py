"""The keys of augmentation, sections of `data` in `schema.py`; like it, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Predicate, Unit

from residualformer.config.keys import Allowed, Doc, Fraction, NotNegative, Only, Updates

JOINED = Only("data.concat_probability", Gt(0))


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
        list[float],
        Predicate(lambda pair: len(pair) == 2 and pair[0] <= pair[1]),
        Unit("dB"),
        Allowed("[lowest, highest]"),
        Only("data.variation.noise_probability", Gt(0)),
        Doc("its signal-to-noise ratio"),
    ] = field(default_factory=lambda: [5.0, 30.0])
