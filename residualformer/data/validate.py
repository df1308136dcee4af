"""Validation of a corpus: from its utterances to Lhotse cuts that later stages may rely on.

Bad utterances are skipped, and reported with a reason; only a split without any good one is an error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import soundfile
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from tqdm import tqdm

from residualformer.data.audio import audio_blocks, open_sound, rate_problem, value_problem, write_flac
from residualformer.data.audio_backend import count_samples
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.ffmpeg import container_of
from residualformer.data.manifest import BadCut, check_sources, load_audio, open_recording
from residualformer.errors import UserError
from residualformer.files import replacing
from residualformer.parallel import worker_map

CUTS_PER_PROCESS = 2000  # with fewer cuts, a process takes longer to start than it saves
MAX_OVERSHOOT_S = 0.5  # how far beyond its recording a segment may end, as in Kaldi


class BadUtterance(Exception):
    """An utterance that cannot be used; the message is the reason."""


def make_cut(utterance: CorpusUtterance, decoded: Path | None = None) -> MonoCut | MultiCut:
    """Return the cut of an utterance, with its channel, or all channels, of its recording.

    Its single supervision holds translation and origin as `custom`. An end that is up to `MAX_OVERSHOOT_S` too late
    becomes that of the recording.

    Args:
        decoded: folder for FLAC copies of files that only ffmpeg reads; None: they are refused.

    Raises:
        BadUtterance: the audio is missing, its header cannot be read, or the recording does not contain the segment or
            the channel.
    """
    path = utterance.audio
    if path is None or not path.is_file():
        raise BadUtterance("there is a transcript but no audio")
    if path.stat().st_size == 0:
        raise BadUtterance(f"{path} is an empty file")
    try:
        recording = open_recording(readable(path, decoded).resolve(), utterance.id)
    except Exception as error:  # each audio backend has its own family of exceptions
        raise BadUtterance(f"{path} cannot be opened as audio ({_reason(error)})") from error
    if recording.num_samples == 0:
        raise BadUtterance(f"{path} holds no samples")
    start, duration = _segment(utterance, recording.duration)
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
    channels = recording.channel_ids
    if utterance.channel is not None:
        if utterance.channel not in channels:
            raise BadUtterance(f"it is on channel {utterance.channel}, but {path} has {len(channels)}, from 0")
        channels = [utterance.channel]
        supervision.channel = utterance.channel
    kind, channel = (MonoCut, channels[0]) if len(channels) == 1 else (MultiCut, channels)
    return kind(utterance.id, start, duration, channel, supervisions=[supervision], recording=recording)


def readable(path: Path, decoded: Path | None) -> Path:
    """Return a file that libsndfile reads: `path`, or a FLAC of the same audio in the folder `decoded`.

    Raises:
        UserError: the file needs ffmpeg, and it is missing or fails, or there is no such folder.
    """
    container = container_of(path)
    if container is None:
        return path
    if decoded is None:
        raise UserError(f"{path} is {container.name}: convert it to WAV or FLAC")
    with open(path, "rb") as file:
        target = decoded / f"{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}.flac"
    if not target.exists():
        with replacing(target) as temporary:
            write_flac(audio_blocks(path), temporary)
    return target


def _segment(utterance: CorpusUtterance, length: float) -> tuple[float, float]:
    """Return start and duration, in seconds, of an utterance in its recording of `length` seconds."""
    start = utterance.start
    end = length if utterance.duration is None else start + utterance.duration
    if not 0 <= start < min(end, length) or end > length + MAX_OVERSHOOT_S:
        raise BadUtterance(f"it goes from {start:g} to {end:g} s, but its recording is {length:g} s long")
    return start, round(min(end, length) - start, 8)


def check_cut(cut: MonoCut, sampling_rate: int | None = None) -> None:
    """Raise BadUtterance unless a cut has text, and audio that is complete and as its manifest states.

    `sampling_rate` is in Hz, if only one is allowed.
    """
    if len(cut.supervisions) != 1:
        raise BadUtterance(f"it has {len(cut.supervisions)} supervisions instead of one")
    supervision, recording = cut.supervisions[0], cut.recording
    if not (supervision.text or "").strip():
        raise BadUtterance("its transcript is empty")
    if cut.duration <= 0 or recording.num_samples <= 0:
        raise BadUtterance("its length is zero")
    if problem := rate_problem(recording.sampling_rate):
        raise BadUtterance(f"its audio {problem}")
    if sampling_rate is not None and recording.sampling_rate != sampling_rate:
        raise BadUtterance(f"it is sampled at {recording.sampling_rate} Hz, the corpus at {sampling_rate} Hz")
    if supervision.start < 0 or supervision.end > cut.duration + 1 / recording.sampling_rate:
        raise BadUtterance(f"its transcript ends at {supervision.end} s, its audio at {cut.duration} s")
    try:
        check_sources(recording)
    except BadCut as error:
        raise BadUtterance(str(error)) from error
    for source in recording.sources:
        _check_file(Path(source.source), recording)
    try:
        samples = load_audio(cut)  # (channels, samples)
    except Exception as error:
        raise BadUtterance(f"its audio cannot be read ({_first_line(error)})") from error
    if samples.shape[-1] != cut.num_samples:
        raise BadUtterance(f"its audio has {samples.shape[-1]} samples, its manifest {cut.num_samples}")
    if problem := value_problem(samples):
        raise BadUtterance(f"its audio {problem}")


def _check_file(path: Path, recording: Recording) -> None:
    """Compare the samples and the rate that a file's header states with what it holds, and with its manifest."""
    try:
        with open_sound(path) as file:
            rate, promised = file.samplerate, file.stated
        held = count_samples(path)
    except Exception as error:
        raise BadUtterance(f"{path} cannot be opened as audio ({_reason(error)})") from error
    if held < promised:
        raise BadUtterance(f"{path} is truncated: its header promises {promised} samples, it holds {held}")
    if recording.transforms:  # the manifest describes their result, not the file
        return
    if rate != recording.sampling_rate:
        raise BadUtterance(f"{path} is sampled at {rate} Hz, its manifest says {recording.sampling_rate}")
    if held != recording.num_samples:
        raise BadUtterance(f"{path} holds {held} samples, its manifest says {recording.num_samples}")


def _validate(
    item: MonoCut | CorpusUtterance, sampling_rate: int | None, decoded: Path | None
) -> MonoCut | MultiCut | str:
    """Return a valid cut, or the reason why there is none."""
    try:
        cut = make_cut(item, decoded) if isinstance(item, CorpusUtterance) else item
        check_cut(cut, sampling_rate)
        return cut
    except BadUtterance as error:
        return str(error)


def validate_cuts(
    cuts: Iterable[MonoCut | CorpusUtterance],
    name: str,
    sampling_rate: int | None = None,
    jobs: int = 1,
    decoded: Path | None = None,
) -> tuple[CutSet, list[str]]:
    """Validate the cuts of the split `name`, or make them of utterances.

    Args:
        sampling_rate: in Hz, if only one is allowed.
        jobs: processes that read the audio (all of it, twice: about 2 s of work for an hour of FLAC or MP3).
        decoded: see `make_cut`.

    Returns:
        The valid cuts, in order, and "id: reason" for each skipped one.

    Raises:
        UserError: none is valid.
    """
    kept: dict[str, MonoCut | MultiCut] = {}
    skipped: list[str] = []
    cuts = list(cuts)
    with worker_map(min(jobs, 1 + len(cuts) // CUTS_PER_PROCESS), items_at_once=64) as map_:
        validated = map_(partial(_validate, sampling_rate=sampling_rate, decoded=decoded), cuts)
        for item, cut in tqdm(zip(cuts, validated), total=len(cuts), desc=f"checking {name}", unit="utt", leave=False):
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


def usable_cuts(
    utterances: Iterable[MonoCut | CorpusUtterance],
    name: str,
    sampling_rate: int | None = None,
    orphans: Iterable[str] = (),
    jobs: int = 1,
) -> tuple[CutSet, int]:
    """Return the valid cuts of a split, and how many utterances are skipped, which are printed on stderr.

    `orphans` are "id: reason" of what the corpus script skipped, such as audio without a transcript. See
    `validate_cuts` for the rest.
    """
    cuts, unusable = validate_cuts(utterances, name, sampling_rate, jobs)
    skipped = [*orphans, *unusable]
    for line in skipped:
        print(f"skipped in {name}: {line}", file=sys.stderr)
    return cuts, len(skipped)


def write_cuts(
    utterances: Iterable[MonoCut | CorpusUtterance],
    name: str,
    path: Path | str,
    sampling_rate: int | None = None,
    orphans: Iterable[str] = (),
    jobs: int = 1,
) -> CutSet:
    """Validate the cuts of a split, as `usable_cuts` does, and write them to `path`; print a summary."""
    cuts, skipped = usable_cuts(utterances, name, sampling_rate, orphans, jobs)
    save_cuts(cuts, name, path, skipped)
    return cuts


def save_cuts(cuts: CutSet, name: str, path: Path | str, skipped: int) -> None:
    """Write the validated cuts of a split to `path` atomically and print a summary; `skipped` counts the others."""
    with replacing(path) as temporary:
        cuts.to_file(temporary)
    hours = sum(cut.duration for cut in cuts) / 3600
    speakers = len({cut.supervisions[0].speaker for cut in cuts})
    print(f"{name}: {len(cuts)} utterances, {hours:.2f} h, {speakers} speakers, {skipped} skipped -> {path}")


def _reason(error: Exception) -> str:
    """Return why audio does not open, in libsndfile's words if possible."""
    if isinstance(error, soundfile.LibsndfileError):
        return error.error_string
    return _first_line(error)


def _first_line(error: Exception) -> str:
    """Return the first line of an exception's text; audio back-ends write long reports."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
