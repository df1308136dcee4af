"""The gate for data from outside: a manifest before Lhotse sees it, the audio it names before it is read.

A manifest may name local files and nothing else: Lhotse runs commands (sources of type `command`, addresses that begin
with `pipe:`, `sph2pipe` for .sph files) and unpickles features (`memory_raw`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from lhotse import MonoCut, MultiCut, Recording
from lhotse.audio import set_current_audio_backend
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from residualformer.data.audio import MAX_RATE_HZ, MIN_RATE_HZ, rate_problem
from residualformer.data.audio_backend import TrueLengthBackend
from residualformer.data.mixing import layout_of, mix
from residualformer.errors import UserError

MAX_LINE = 1 << 24  # bytes; a cut has about a thousand
BACKEND = TrueLengthBackend()  # libsndfile, which runs no other program

Rate = Annotated[int, Field(ge=MIN_RATE_HZ, le=MAX_RATE_HZ)]
Size = Annotated[int, Field(ge=0, le=1 << 40)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Scalar = str | int | float | bool | None


class BadCut(Exception):
    """A cut that is not allowed or damaged; the message says what is wrong with it."""


class _Known(BaseModel):
    """A mapping in a manifest that may have no keys but these."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Source(_Known):
    type: Literal["file"]
    channels: list[Annotated[int, Field(ge=0, lt=1024)]]
    source: str


class _Factor(_Known):
    factor: Annotated[float, Field(ge=0.1, le=10)]


class _Rates(_Known):
    source_sampling_rate: Rate
    target_sampling_rate: Rate


class _Gain(_Known):
    factor: float


class _Loudness(_Known):
    target: float


class _Reverberation(_Known):
    rir: _Recording | None = None
    normalize_output: bool = True
    early_only: bool = False
    rir_channels: list[Annotated[int, Field(ge=0, lt=1024)]] = [0]
    rir_generator: None = None


class _Speed(_Known):
    name: Literal["Speed", "Tempo"]
    kwargs: _Factor


class _Resample(_Known):
    name: Literal["Resample"]
    kwargs: _Rates


class _Volume(_Known):
    name: Literal["Volume"]
    kwargs: _Gain


class _Normalization(_Known):
    name: Literal["LoudnessNormalization"]
    kwargs: _Loudness


class _Reverb(_Known):
    name: Literal["ReverbWithImpulseResponse"]
    kwargs: _Reverberation


class _Recording(_Known):
    id: str
    sources: list[_Source]
    sampling_rate: Rate
    num_samples: Size
    duration: Seconds
    channel_ids: list[int] | None = None
    transforms: (
        list[Annotated[_Speed | _Resample | _Volume | _Normalization | _Reverb, Field(discriminator="name")]] | None
    ) = None


class _Features(_Known):
    type: str
    num_frames: Size
    num_features: Annotated[int, Field(ge=1, le=10_000)]
    frame_shift: Annotated[float, Field(gt=0, le=10)]
    sampling_rate: Rate
    start: Seconds
    duration: Seconds
    storage_type: Literal["numpy_files"]
    storage_path: str
    storage_key: str
    recording_id: str | None = None
    channels: int | list[int] | None = None


class _Supervision(_Known):
    id: str
    recording_id: str
    start: Annotated[float, Field(ge=-1e9, le=1e9)]
    duration: Annotated[float, Field(ge=-1e9, le=1e9)]
    channel: int | list[int] = 0
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    gender: str | None = None
    custom: dict[str, Any] | None = None
    alignment: Any = None  # which nothing reads, see `parse_cut`


class _Cut(_Known):
    type: Literal["MonoCut", "MultiCut"]
    id: str
    start: Seconds
    duration: Seconds
    channel: int | list[int]
    supervisions: list[_Supervision] = []
    features: _Features | None = None
    recording: _Recording | None = None
    custom: dict[str, Scalar] | None = None  # Lhotse makes manifests of what is nested in it


_CUT = TypeAdapter(_Cut)


def parse_cut(value: Any) -> MonoCut | MultiCut:
    """Return the cut in a JSON value of a manifest; the value is used up.

    Raises:
        BadCut: it is none, or names something else than local files.
    """
    try:
        _CUT.validate_python(value)
    except ValidationError as error:
        raise BadCut(in_words(error)) from error
    for supervision in value.get("supervisions", []):
        supervision.pop("alignment", None)
    if value["type"] == "MonoCut":
        if not isinstance(value["channel"], int):
            raise BadCut(f"channel {value['channel']} is not allowed; a MonoCut has one")
        return MonoCut.from_dict(value)
    return MultiCut.from_dict(value)


def in_words(error: ValidationError) -> str:
    """Return the first mistake that pydantic has found: key, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    if first["type"] == "missing":
        return f"{key} is missing"
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"{key or 'the cut'} {first['input']!r:.60} is not allowed; {reason.replace('input should', 'it should')}"


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the JSON values in the lines of a file, as `raw_lines` does; ValueError if one is not JSON."""
    for line in raw_lines(path):
        try:
            yield json.loads(line)
        except RecursionError as error:
            raise ValueError("too many brackets within brackets") from error


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, which may be compressed (.gz); one is in memory at a time.

    Raises:
        ValueError: a line is too long.
        OSError, EOFError, zlib.error: the file cannot be read, or is not compressed properly.
    """
    if path.stat().st_size == 0:
        raise ValueError("an empty file")
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise ValueError(f"a line of more than {MAX_LINE} bytes")
            yield line


def read_cuts(path: Path | str, stage: int) -> Iterator[MonoCut]:
    """Yield the cuts of a manifest, .jsonl or .jsonl.gz, that stage number `stage` writes.

    Raises:
        UserError: the manifest is missing, damaged or empty, or names something else than local files; run that stage.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing: run stage {stage} first.")
    again = f"run stage {stage} again, with --overwrite"
    number = 0
    try:
        for value in read_lines(path):
            number += 1
            yield parse_cut(value)
    except BadCut as error:
        raise UserError(f"{path} is not a manifest of cuts (line {number}: {error}): {again}.") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a manifest of cuts ({error}): {again}.") from error
    if number == 0:
        raise UserError(f"{path} holds no utterance: {again}.")


def open_recording(path: Path, name: str) -> Recording:
    """Return the Lhotse recording `name` of an audio file; raise what Lhotse and libsndfile do if it is none."""
    set_current_audio_backend(BACKEND)
    return Recording.from_file(path, recording_id=name)


def load_audio(cut: MonoCut | MultiCut) -> np.ndarray:
    """Return the samples (channels, S) float32 of a cut, read from local files by libsndfile.

    Raises:
        BadCut: it names something else, or has an impossible rate.
        Exception: whatever libsndfile and Lhotse's transforms raise for audio that they cannot read.
    """
    recording = cut.recording
    check_sources(recording)
    if problem := rate_problem(recording.sampling_rate):
        raise BadCut(f"its audio {problem}")
    set_current_audio_backend(BACKEND)
    return cut.load_audio()


def load_mono(cut: MonoCut | MultiCut) -> np.ndarray:
    """Return one channel (S,) float32 of a cut, mixed of all that it has; errors as of `load_audio`."""
    samples = load_audio(cut)
    sources = cut.recording.sources
    is_whole = len(sources) == 1 and len(samples) == len(sources[0].channels) > 2
    layout = layout_of(Path(sources[0].source)) if is_whole else 0
    return mix(samples.T, layout) if layout else samples.mean(axis=0)


def check_sources(recording: Recording) -> None:
    """Raise BadCut unless all audio of a recording, that of its transforms included, is in local files."""
    for kind, source in _sources(recording.to_dict()):
        if kind != "file":
            raise BadCut(f"its audio source has type '{kind}', only 'file' is allowed: write the audio to a file")
        if not Path(source).is_file():
            raise BadCut(f"{source} is missing")


def _sources(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield type and source of all audio sources in a serialized recording."""
    if isinstance(value, dict):
        if {"type", "source"} <= value.keys():
            yield value["type"], value["source"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _sources(each)
