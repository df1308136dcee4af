"""Voices of Piper (https://github.com/OHF-Voice/piper1-gpl): neural ones, from model files that the user has."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from local.common.synthesis import Speaker
from residualformer.errors import UserError
from residualformer.files import read_json
from residualformer.optional import optional
from residualformer.workflow.inputs import content

SUFFIX = ".onnx"  # of a model; its settings are in a file with .json after that
SPEED, PITCH = (0.85, 1.2), (0.9, 1.12)  # bounds of the factors of uniform distributions


@dataclass(frozen=True)
class PiperVoice:
    """A speaker of a model, at another speed (of which `length` is the inverse) and pitch.

    Without the model's noise the same text has the same samples. The pitch is changed by playing them faster, which
    moves the formants as a shorter vocal tract does.
    """

    model: Path = field(repr=False)
    content: str  # fingerprint of the model
    speaker: int
    length: float
    pitch: float

    def speak(self, written: str, seed: int) -> tuple[np.ndarray, int]:
        """Return the samples of a text, int16 of shape (samples,), and their rate in Hz."""
        settings = optional("piper").SynthesisConfig(
            speaker_id=self.speaker, length_scale=self.length * self.pitch, noise_scale=0.0, noise_w_scale=0.0
        )
        chunks = list(_load(self.model).synthesize(written, settings))
        samples = np.concatenate([np.asarray(chunk.audio_float_array) for chunk in chunks])
        return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16), round(chunks[0].sample_rate * self.pitch)


def timbres_in(folder: Path) -> dict[str, tuple[Path, int]]:
    """Return model and number of each speaker in a folder of models.

    Raises:
        UserError: piper is not installed, the folder holds no model, or one lacks its settings.
    """
    optional("piper")
    found = {}
    for model in sorted(folder.glob(f"*{SUFFIX}")):
        speakers = range(_settings(model)["num_speakers"])
        found.update({f"{model.stem}-{speaker}": (model, speaker) for speaker in speakers})
    if not found:
        raise UserError(f"--piper {folder} holds no *{SUFFIX}: put models of Piper there, each with its {SUFFIX}.json.")
    return found


def make_piper_speakers(
    known: dict[str, tuple[Path, int]], prefix: str, count: int, timbres: list[str], rng: np.random.Generator
) -> list[Speaker]:
    """Return `count` speakers, spread evenly over timbres, random in speed and pitch."""
    fingerprints = {model: content(model) for model in {known[timbre][0] for timbre in timbres}}
    speakers = []
    for number in range(count):
        timbre = timbres[number % len(timbres)]
        model, speaker = known[timbre]
        length, pitch = (round(float(rng.uniform(*bounds)), 3) for bounds in (SPEED, PITCH))
        voice = PiperVoice(model, fingerprints[model], speaker, length, pitch)
        speakers.append(Speaker(f"{prefix}{number:03d}-{timbre}", voice))
    return speakers


@lru_cache(4)
def _load(model: Path) -> Any:
    """Load a model on one thread, as the utterances are spread over processes."""
    from residualformer.onnx_session import open_session  # takes a second to import, not needed by options

    piper = optional("piper")
    settings = piper.PiperConfig.from_dict(_settings(model))
    return piper.PiperVoice(session=open_session(model, "put the model there again"), config=settings)


def _settings(model: Path) -> dict[str, Any]:
    return read_json(model.with_name(f"{model.name}.json"), "put it beside the model of Piper, as published")
