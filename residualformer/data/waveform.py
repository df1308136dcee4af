"""Training features of degraded audio: rooms, noise, levels and telephone lines, drawn for each use of an utterance.

The order is that of a call: the voice in a room, noise beside it, the microphone's level, the line. The features are
those that stage 2 computes of such audio.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from residualformer.config.augmentation import WaveformConfig
from residualformer.config.schema import FeatureConfig
from residualformer.data.degrade import CODECS, at_level, in_room, room_response, through_telephone, with_noise
from residualformer.data.fbank import compute_fbank
from residualformer.data.manifest import BadCut, check_sources, parse_cut
from residualformer.data.noise import find_noise, read_excerpt
from residualformer.data.shar import AUDIO_START
from residualformer.data.speed import load_at_speed
from residualformer.data.utterance import Utterance
from residualformer.errors import UserError

DIRECT_DB = (-3.0, 12.0)  # direct sound over reverberation: from across the room to a hand's breadth
TRIES = 3  # noise files that are drawn, the next where one cannot be read
LINES = (None, *CODECS)
LENGTH_ERROR_S = 1e-3  # of what is rounded to samples
AUDIO_KEYS = ("type", "id", "start", "duration", "channel", "recording")  # of a cut


class Line(NamedTuple):
    codec: str | None
    band: bool


@dataclass(frozen=True)
class Scene:
    """What happens to the samples of utterances; None: nothing of that kind."""

    rt60_s: float | None
    direct_db: float
    seed: int  # of the room
    snr_db: float | None
    noise: tuple[int, ...]  # numbers of files, of which the first that can be read is taken
    place: float  # in that file, see `read_excerpt`
    gain_db: float | None
    line: Line | None


class Waveforms:
    """Features of utterances whose audio is degraded.

    Args:
        config: what is done to the audio, and how often.
        features: the definition of the features.

    Raises:
        UserError: see `find_noise`.
    """

    def __init__(self, config: WaveformConfig, features: FeatureConfig) -> None:
        self.config, self._features = config, features
        self.noise = find_noise(config.noise) if config.noise_probability else []

    def drawn(self, rng: np.random.Generator) -> Scene:
        """Draw a scene. All of it is drawn, used or not, so that switching one kind off does not change the others."""
        config = self.config
        chances = config.room_probability, config.noise_probability, config.level_probability
        room, noise, level, line = rng.random(4) < [*chances, config.telephone_probability]
        ranges = config.room_rt60_s, config.noise_snr_db, config.level_db
        rt60_s, snr_db, gain_db = (rng.uniform(low, high) for low, high in ranges)
        direct_db, place, files = rng.uniform(*DIRECT_DB), rng.random(), rng.random(TRIES)
        seed, codec, band = int(rng.integers(1 << 32)), LINES[rng.integers(len(LINES))], bool(rng.integers(2))
        return Scene(
            rt60_s if room else None,
            direct_db,
            seed,
            snr_db if noise else None,
            tuple((files * len(self.noise)).astype(int).tolist()),
            place,
            gain_db if level else None,
            Line(codec, band) if line else None,
        )

    def features(self, utterance: Utterance, scene: Scene, unread: dict[str, str]) -> np.ndarray:
        """Compute the features (T, F) float32 of an utterance in a scene.

        Args:
            unread: gets the noise files that cannot be read, with reasons.

        Raises:
            UserError: the audio cannot be read, or is too short, or none of the scene's noise files can be read.
        """
        rate = self._features.sample_rate_hz
        try:
            samples = load_at_speed(parse_cut(audio_of(utterance)), utterance.speed, rate)
        except Exception as error:  # the audio libraries raise many kinds for a broken file
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the audio of {utterance.id} cannot be read ({reason}): mend it, or leave it out."
            ) from error
        array = compute_fbank(self.degraded(samples, scene, unread), self._features)
        if not len(array) or not np.isfinite(array).all():
            raise UserError(
                f"the audio of {utterance.id} is too short, or holds values that are not finite: leave it out."
            )
        return array

    def degraded(self, samples: np.ndarray, scene: Scene, unread: dict[str, str]) -> np.ndarray:
        """Return samples (S,) float32 in a scene; `unread` and errors as of `features`."""
        rate = self._features.sample_rate_hz
        if scene.rt60_s is not None:
            rng = np.random.default_rng(scene.seed)
            samples = in_room(samples, room_response(scene.rt60_s, scene.direct_db, rate, rng))
        if scene.snr_db is not None:
            samples = with_noise(samples, self._noise_of(scene, len(samples), unread), scene.snr_db)
        if scene.gain_db is not None:
            samples = at_level(samples, scene.gain_db)
        if scene.line is not None:
            samples = through_telephone(samples, rate, *scene.line)
        return samples

    def _noise_of(self, scene: Scene, size: int, unread: dict[str, str]) -> np.ndarray:
        for file in (self.noise[number] for number in scene.noise):
            try:
                return read_excerpt(file, scene.place, size, self._features.sample_rate_hz)
            except Exception as error:  # as above
                unread[str(file.path)] = " ".join(str(error).split())[:200]
        raise UserError(
            f"{TRIES} files in a row of data.waveform.noise cannot be read: are {', '.join(self.config.noise)} there?"
        )

    def check(self, utterance: Utterance) -> None:
        """Raise UserError unless the manifest of an utterance names its audio, and that is there."""
        try:
            cut = parse_cut(audio_of(utterance))
            check_sources(cut.recording)
        except BadCut as error:
            raise UserError(
                f"data.waveform changes the audio of the training utterances, but that of {utterance.id} is not here "
                f"({error}): train where the audio is, run stage 2 there, or leave data.waveform out."
            ) from error


def audio_of(utterance: Utterance) -> dict:
    """Return what the line of a manifest tells of the audio of an utterance, as JSON; BadCut if that is not enough."""
    value = json.loads(utterance.line)
    recording = value.get("recording")
    if recording is None:
        raise BadCut("its manifest names no recording")
    start = (value.get("custom") or {}).get(AUDIO_START)
    if start is not None:
        value["start"] = start
    elif utterance.member and abs(value["duration"] - recording["duration"]) > LENGTH_ERROR_S:
        raise BadCut("its shard, of an earlier version, does not tell where in the recording it is")
    return {key: value[key] for key in AUDIO_KEYS if key in value}
