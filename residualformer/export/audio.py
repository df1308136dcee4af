"""Audio for the check of an exported folder: recorded utterances if there are any, else noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from residualformer.data.audio import read_audio, resample
from residualformer.data.manifest import load_mono, read_cuts
from residualformer.data.splits import cuts_file
from residualformer.decode.corpus import find_reference
from residualformer.errors import UserError
from residualformer.export.check import CheckAudio

NOISE_S, SYLLABLES_PER_S = 5.0, 4


def dev_cuts(run: Path) -> Path:
    """Return the path of the development set, from stage 1, of the corpus of the run folder `exp/<name>`."""
    return cuts_file(run.resolve().parent.parent / "data" / "manifests", "dev")


def utterances_of_cuts(path: Path, number: int, rate: int, target: str = "text") -> list[CheckAudio]:
    """Load at most `number` utterances, evenly spread over the manifest, at `rate` Hz, with references if there are.

    Raises UserError if the manifest or the audio of a cut cannot be read.
    """
    cuts = list(read_cuts(path, stage=1))
    chosen = [cuts[i] for i in np.unique(np.linspace(0, len(cuts) - 1, num=min(number, len(cuts))).round().astype(int))]
    found = []
    for cut in chosen:
        try:
            samples = resample(load_mono(cut), cut.sampling_rate, rate)
        except Exception as error:  # Lhotse raises errors of many libraries
            raise UserError(
                f"{path}: the audio of cut {cut.id} cannot be read ({type(error).__name__}: {error}); "
                "give other cuts with --check-cuts, or audio files with --check-audio."
            ) from error
        found.append(CheckAudio(cut.id, samples.astype(np.float32), find_reference(cut, target)))
    return found


def utterances_of_files(paths: list[Path], rate: int) -> list[CheckAudio]:
    """Load audio files as utterances at `rate` Hz; UserError if one cannot be read."""
    return [CheckAudio(str(path), read_audio(path, rate)) for path in paths]


def noise(rate: int, seed: int = 0) -> list[CheckAudio]:
    """Return an utterance of `NOISE_S` seconds: noise and a tone that swell, fade and change pitch, as speech does."""
    rng = np.random.default_rng(seed)
    size = rate // SYLLABLES_PER_S
    time = np.arange(size) / rate
    envelope = 0.05 * (1 - np.cos(2 * np.pi * SYLLABLES_PER_S * time))
    pitches = rng.uniform(100, rate / 4, size=int(NOISE_S * SYLLABLES_PER_S))
    syllables = [envelope * (np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.3, size)) for pitch in pitches]
    return [CheckAudio("noise", np.concatenate(syllables).astype(np.float32))]
