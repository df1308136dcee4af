"""The conditions of `robustness.py`: what is done to the utterances of a test set, and what is heard in each case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from residualformer.data.audio import read_audio, resample
from residualformer.data.degrade import CODECS, TELEPHONE_BAND_HZ, TELEPHONE_HZ, at_level, band_limited
from residualformer.data.degrade import through_telephone as telephone
from residualformer.data.manifest import load_mono, read_cuts
from residualformer.errors import UserError
from residualformer.files import read_text, split_lines

GAINS_DB = (-40, -30, -20, -10, 10, 20)
GAPS_S = (0.0, 0.3, 1.0, 3.0, 8.0, 20.0)
LONG_S = 60.0  # continuous speech
CLEAN, LEVEL, TELEPHONE, PAUSE, LONG = "as it is", "level", "telephone", "pause", "continuous"
GROUPS = (LEVEL, TELEPHONE, PAUSE, LONG)
GOALS = {LEVEL: 1.15, TELEPHONE: 1.5, PAUSE: 1.15, LONG: 1.15}  # times the WER as it is


class Utterance(NamedTuple):
    """Samples (S,) at the model's rate, and what was said."""

    id: str
    text: str
    samples: np.ndarray


@dataclass(frozen=True)
class Case:
    """One condition: each unit is said in one go, and is made of the utterances `members`."""

    group: str
    name: str
    members: list[tuple[int, ...]]  # of each unit, the numbers of its utterances
    audio: list[np.ndarray]  # of each unit

    @property
    def is_joined(self) -> bool:
        """Whether units hold several utterances, so that search and endpoints matter."""
        return self.group in (PAUSE, LONG)


def read_test_set(path: Path, rate_hz: int, count: int, rng: np.random.Generator) -> list[Utterance]:
    """Draw at most `count` utterances of a cuts manifest, or of a list with a line `FILE<tab>TEXT` for each.

    Raises:
        UserError: the test set or its audio cannot be read, or it has fewer than two utterances with text.
    """
    if path.suffix in (".tsv", ".txt"):
        lines = [line.split("\t") for line in split_lines(read_text(path, "give a cuts manifest or a list")) if line]
        if wrong := [line for line in lines if len(line) != 2]:
            raise UserError(f"{path}: '{wrong[0][0][:80]}' is not a line of the form FILE<tab>TEXT.")
        entries = [(name, " ".join(text.split()), path.parent / name) for name, text in lines]
        load = lambda file: read_audio(file, rate_hz)  # noqa: E731
    else:
        cuts = [cut for cut in read_cuts(path, stage=1) if cut.supervisions]
        entries = [(cut.id, " ".join((cut.supervisions[0].text or "").split()), cut) for cut in cuts]
        load = lambda cut: resample(load_mono(cut), cut.sampling_rate, rate_hz)  # noqa: E731
    entries = [entry for entry in entries if entry[1]]
    if len(entries) < 2:
        raise UserError(f"{path} has {len(entries)} utterances with text; two or more are needed.")
    chosen = rng.permutation(len(entries))[:count]
    return [Utterance(*entries[i][:2], np.asarray(load(entries[i][2]), np.float32)) for i in chosen]


def cases(
    utterances: Sequence[Utterance],
    rate_hz: int,
    groups: Sequence[str],
    pairs: int,
    minutes: int,
    pause_db: float | None,
) -> Iterator[Case]:
    """Yield the utterances as they are, then every condition of `groups`.

    Args:
        pause_db: level of the white noise in pauses, in dB of full scale; None for digital silence.
    """
    audio, singles = [each.samples for each in utterances], [(n,) for n in range(len(utterances))]
    yield Case(CLEAN, CLEAN, singles, audio)
    if LEVEL in groups:
        for gain in GAINS_DB:
            yield Case(LEVEL, f"{gain:+d} dB", singles, [at_level(x, gain) for x in audio])
    if TELEPHONE in groups:
        low, high = TELEPHONE_BAND_HZ
        name = f"{low:.0f} to {high:.0f} Hz"
        yield Case(TELEPHONE, f"{TELEPHONE_HZ / 1000:.0f} kHz", singles, [telephone(x, rate_hz) for x in audio])
        yield Case(TELEPHONE, name, singles, [band_limited(x, rate_hz, low, high) for x in audio])
        for codec in CODECS:
            lines = [telephone(x, rate_hz, codec, band=True) for x in audio]
            yield Case(TELEPHONE, f"{name}, {codec}", singles, lines)
    if PAUSE in groups:
        count = min(pairs, len(utterances) // 2)
        members: list[tuple[int, ...]] = [(2 * n, 2 * n + 1) for n in range(count)]
        for gap in GAPS_S:
            yield Case(PAUSE, f"{gap:g} s", members, joined(audio, members, round(gap * rate_hz), pause_db))
    if LONG in groups:
        members = _minutes([len(x) / rate_hz for x in audio])[:minutes]
        yield Case(LONG, "a minute without pauses", members, joined(audio, members, 0, pause_db))


def joined(
    audio: Sequence[np.ndarray], members: Sequence[tuple[int, ...]], gap: int, pause_db: float | None
) -> list[np.ndarray]:
    """Return each unit's utterances in a row, with `gap` samples between them."""
    units = []
    for numbers in members:
        parts = [audio[numbers[0]]]
        for n in numbers[1:]:
            noise = np.random.default_rng(n).standard_normal(gap) * (0 if pause_db is None else 10 ** (pause_db / 20))
            parts += [noise.astype(np.float32), audio[n]]
        units.append(np.concatenate(parts))
    return units


def _minutes(seconds: Sequence[float]) -> list[tuple[int, ...]]:
    """Group neighboring utterances into stretches of `LONG_S` at most; what is left over is not used."""
    groups: list[tuple[int, ...]] = []
    current: list[int] = []
    for n, length in enumerate(seconds):
        if current and sum(seconds[i] for i in current) + length > LONG_S:
            groups.append(tuple(current))
            current = []
        current.append(n)
    return groups or [tuple(current)]
