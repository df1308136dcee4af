"""From a corpus's utterances to Lhotse cuts that later stages may trust: one gate for every corpus.

A bad utterance is left out, named with its reason and counted; only a split with nothing left is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from tqdm import tqdm

from residualformer.data.audio import MP3_ESTIMATE, stated_wav_frames
from residualformer.errors import UserError
from residualformer.files import replacing
from residualformer.parallel import worker_map

CUTS_PER_PROCESS = 2000  # fewer are read sooner than a process starts
OVERSHOOT_S = 0.5  # by so much may the end of a part lie beyond its recording's, as in Kaldi


@dataclass(frozen=True)
class CorpusUtterance:
    """What a corpus says of one recording; `audio` is None when there is a transcript and no recording.

    `origin` names what is not the corpus's own (such as `synthetic`), so that results can say so. With `start` and
    `duration` an utterance is a part of its recording.
    """

    id: str
    audio: Path | None
    text: str
    speaker: str
    language: str = "English"
    translation: str = ""
    origin: str = ""
    start: float = 0.0  # seconds into the recording
    duration: float | None = None  # seconds; None = to the recording's end


class BadUtterance(Exception):
    """Why an utterance cannot be used."""


def make_cut(utterance: CorpusUtterance) -> MonoCut | MultiCut:
    """One cut over the utterance's part of its recording; its one supervision has translation and origin as `custom`.

    All channels are taken; stage 2 averages them. Raises BadUtterance when the audio is missing, its header cannot be
    read, or the recording lacks the part (an end up to OVERSHOOT_S too late becomes the recording's).
    """
    path = utterance.audio
    if path is None or not path.is_file():
        raise BadUtterance("there is a transcript but no audio")
    if path.stat().st_size == 0:
        raise BadUtterance(f"{path} is an empty file")
    try:
        recording = Recording.from_file(path.resolve(), recording_id=utterance.id)
        if path.suffix.lower() == ".mp3":  # many do not state their length
            recording.num_samples = _samples_held(path)
            recording.duration = recording.num_samples / recording.sampling_rate
    except Exception as error:  # each audio backend has its own family of exceptions
        raise BadUtterance(f"{path} cannot be opened as audio ({_reason(path, error)})") from error
    if recording.num_samples == 0:
        raise BadUtterance(f"{path} holds no samples")
    start, duration = _part(utterance, recording.duration)
    custom = {name: value for name in ("translation", "origin") if (value := getattr(utterance, name))}
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        text=utterance.text,
        speaker=utterance.speaker,
        language=utterance.language,
        custom=custom or None,
    )
    kind, channel = (MonoCut, 0) if recording.num_channels == 1 else (MultiCut, recording.channel_ids)
    return kind(utterance.id, start, duration, channel, supervisions=[supervision], recording=recording)


def _part(utterance: CorpusUtterance, length: float) -> tuple[float, float]:
    """Start and duration (seconds) of an utterance in its recording of `length` seconds."""
    start = utterance.start
    end = length if utterance.duration is None else start + utterance.duration
    if not 0 <= start < min(end, length) or end > length + OVERSHOOT_S:
        raise BadUtterance(f"it goes from {start:g} to {end:g} s, but its recording is {length:g} s long")
    return start, round(min(end, length) - start, 8)


def check_cut(cut: MonoCut, sampling_rate: int | None = None) -> None:
    """Raise BadUtterance unless `cut` has text and its audio opens, is whole and is as its manifest says.

    `sampling_rate` (Hz), when given, is the only one allowed.
    """
    if len(cut.supervisions) != 1:
        raise BadUtterance(f"it has {len(cut.supervisions)} supervisions instead of one")
    supervision, recording = cut.supervisions[0], cut.recording
    if not (supervision.text or "").strip():
        raise BadUtterance("its transcript is empty")
    if cut.duration <= 0 or recording.num_samples <= 0:
        raise BadUtterance("its length is zero")
    if sampling_rate is not None and recording.sampling_rate != sampling_rate:
        raise BadUtterance(f"it is sampled at {recording.sampling_rate} Hz, the corpus at {sampling_rate} Hz")
    if supervision.start < 0 or supervision.end > cut.duration + 1 / recording.sampling_rate:
        raise BadUtterance(f"its transcript ends at {supervision.end} s, its audio at {cut.duration} s")
    for source in recording.sources:
        if source.type == "file":
            _check_file(Path(source.source), recording)
    try:
        samples = cut.load_audio()  # (channels, samples)
    except Exception as error:
        raise BadUtterance(f"its audio cannot be read ({_first_line(error)})") from error
    if samples.shape[-1] != cut.num_samples:
        raise BadUtterance(f"its audio has {samples.shape[-1]} samples, its manifest {cut.num_samples}")
    if not np.isfinite(samples).all():
        raise BadUtterance("its audio holds values that are not finite")


def _check_file(path: Path, recording: Recording) -> None:
    """Compare what the file's header promises, what it holds, and what the manifest says."""
    if not path.is_file():
        raise BadUtterance(f"{path} is missing")
    try:
        info = soundfile.info(str(path))
        held = _samples_held(path)
    except Exception as error:
        raise BadUtterance(f"{path} cannot be opened as audio ({_first_line(error)})") from error
    promised = max(info.frames, stated_wav_frames(path))
    if held < promised * (1 - MP3_ESTIMATE if info.format == "MP3" else 1):
        raise BadUtterance(f"{path} is truncated: its header promises {promised} samples, it holds {held}")
    if recording.transforms:  # the manifest tells what they make of the file
        return
    if info.samplerate != recording.sampling_rate:
        raise BadUtterance(f"{path} is sampled at {info.samplerate} Hz, its manifest says {recording.sampling_rate}")
    if held != recording.num_samples:
        raise BadUtterance(f"{path} holds {held} samples, its manifest says {recording.num_samples}")


def _samples_held(path: Path) -> int:
    """Samples per channel that decoding gives."""
    state = path.stat()
    return _decoded(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)  # a long recording has many utterances
def _decoded(path: Path, size: int, modified_ns: int) -> int:
    held = 0
    with soundfile.SoundFile(str(path)) as file:
        while block := len(file.read(1 << 16, dtype="int16")):  # soundfile.blocks fills up what is not there
            held += block
    return held


def _checked(item: MonoCut | CorpusUtterance, sampling_rate: int | None) -> MonoCut | str:
    """The sound cut, or why there is none."""
    try:
        cut = make_cut(item) if isinstance(item, CorpusUtterance) else item
        check_cut(cut, sampling_rate)
        return cut
    except BadUtterance as error:
        return str(error)


def validate_cuts(
    cuts: Iterable[MonoCut | CorpusUtterance], name: str, sampling_rate: int | None = None, jobs: int = 1
) -> tuple[CutSet, list[str]]:
    """Keep the sound ones of `cuts` (or of utterances, which become cuts here).

    Args:
        cuts: the split, in the order to keep.
        name: of the split, for messages.
        sampling_rate: Hz; when given, other rates are left out.
        jobs: processes that read the audio (all of it, twice: about 2 s of work for an hour of FLAC or MP3).

    Returns:
        The usable cuts, and "id: reason" for each one left out.

    Raises:
        UserError: nothing is left.
    """
    kept: dict[str, MonoCut] = {}
    skipped: list[str] = []
    cuts = list(cuts)
    with worker_map(min(jobs, 1 + len(cuts) // CUTS_PER_PROCESS), items_at_once=64) as spread:
        checked = spread(partial(_checked, sampling_rate=sampling_rate), cuts)
        for item, cut in tqdm(zip(cuts, checked), total=len(cuts), desc=f"checking {name}", unit="utt", leave=False):
            if isinstance(cut, str):
                skipped.append(f"{item.id}: {cut}")
            elif cut.id in kept:
                skipped.append(f"{cut.id}: its id was used before")
            else:
                kept[cut.id] = cut
    if not kept:
        why = f"; the first of {len(skipped)}: {skipped[0]}" if skipped else ", it lists none"
        advice = "Check the corpus, or obtain it again (stage 0, with --overwrite)."
        raise UserError(f"no usable utterance in '{name}'{why}. {advice}")
    return CutSet.from_cuts(kept.values()), skipped


def write_cuts(
    utterances: Iterable[MonoCut | CorpusUtterance],
    name: str,
    path: Path | str,
    sampling_rate: int | None = None,
    orphans: Iterable[str] = (),
    jobs: int = 1,
) -> CutSet:
    """Validate, name what is left out (on stderr), write the cuts to `path` in one piece, print the split's line.

    `orphans`: "id: reason" of what the corpus itself had to leave out, such as audio without a transcript.
    """
    cuts, skipped = validate_cuts(utterances, name, sampling_rate, jobs)
    skipped = [*orphans, *skipped]
    for line in skipped:
        print(f"skipped in {name}: {line}", file=sys.stderr)
    save_cuts(cuts, name, path, len(skipped))
    return cuts


def save_cuts(cuts: CutSet, name: str, path: Path | str, skipped: int) -> None:
    """Write a split's validated cuts to `path` in one piece and print its line; `skipped` is how many are left out."""
    with replacing(path) as temporary:
        cuts.to_file(temporary)
    hours = sum(cut.duration for cut in cuts) / 3600
    speakers = len({cut.supervisions[0].speaker for cut in cuts})
    print(f"{name}: {len(cuts)} utterances, {hours:.2f} h, {speakers} speakers, {skipped} skipped -> {path}")


def read_cuts(path: Path | str, stage: int) -> Iterator[MonoCut]:
    """The cuts of a manifest, one by one; UserError when it is missing, damaged or empty. `stage` is who writes it."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: run stage {stage} first.")
    again = f"run stage {stage} again, with --overwrite"
    cut = None
    try:
        for cut in CutSet.from_file(path):
            yield cut
    except Exception as error:  # Lhotse raises whatever the broken line led to
        raise UserError(f"{path} is not a manifest of cuts ({_first_line(error)}): {again}.") from error
    if cut is None:
        raise UserError(f"{path} holds no utterance: {again}.")


def _reason(path: Path, error: Exception) -> str:
    """Why audio does not open, in libsndfile's words where it has any: Lhotse's report only lists who failed."""
    try:
        soundfile.info(str(path))
    except soundfile.LibsndfileError as plain:
        return plain.error_string
    return _first_line(error)


def _first_line(error: Exception) -> str:
    """The start of an exception's text; audio backends chain long reports."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
