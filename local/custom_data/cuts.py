"""The layout `cuts`: Lhotse cuts with supervisions."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from local.custom_data.entries import BAD_ROW, EMPTY_TEXT, NO_AUDIO, Data, Entry, by_split, find_audio
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.manifest import BadCut, parse_cut, read_lines
from residualformer.errors import UserError


def find_cuts(source: Path) -> list[tuple[Path, str]]:
    """Return the manifests of cuts in a folder, or the one that is given, each with its split."""
    files = [source] if source.is_file() else sorted([*source.glob("*.jsonl.gz"), *source.glob("*.jsonl")])
    return by_split(path for path in files if path.name.endswith((".jsonl", ".jsonl.gz")) and _holds_cuts(path))


def _holds_cuts(path: Path) -> bool:
    try:
        return str(next(read_lines(path), {}).get("type", "")).endswith("Cut")
    except (OSError, EOFError, ValueError, AttributeError, zlib.error):
        return False


def read_cuts(files: list[tuple[Path, str]]) -> Data:
    """Read manifests of cuts: each supervision becomes an utterance; features are ignored.

    Raises:
        UserError: a manifest is damaged.
    """
    data = Data()
    for path, split in files:
        try:
            for number, value in enumerate(read_lines(path), start=1):
                _read_cut(value, f"{path.name}:{number}", split, path.parent, data)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a valid manifest of cuts ({str(error)[:160]}): write it again.") from error
    return data


def _read_cut(value: Any, place: str, split: str, folder: Path, data: Data) -> None:
    """Add the utterances of a cut, the JSON value in a line of a manifest."""
    if not isinstance(value, dict):
        data.drop(place, BAD_ROW, "it is not a mapping")
        return
    name, kind = str(value.get("id", place)), value.get("type")
    if kind not in ("MonoCut", "MultiCut") or not value.get("recording"):
        data.drop(name, NO_AUDIO, f"it is a {kind}; only a MonoCut or MultiCut with a recording can be read")
        return
    try:
        cut = parse_cut({key: part for key, part in value.items() if key not in ("features", "custom")})
    except BadCut as error:
        data.drop(name, NO_AUDIO if str(error).startswith("recording") else BAD_ROW, str(error))
        return
    if not cut.supervisions:
        data.drop(cut.id, EMPTY_TEXT, "the cut has no supervision")
    cut = fastcopy(cut, recording=_with_sources(cut.recording, folder))
    one = len(cut.supervisions) == 1
    for part in [cut] if one else cut.trim_to_supervisions(keep_overlapping=False):
        supervision = part.supervisions[0]
        files = [source.source for source in part.recording.sources]
        translation = (supervision.custom or {}).get("translation")
        utterance = CorpusUtterance(
            cut.id if one else supervision.id,
            Path(files[0]) if files else None,
            supervision.text or "",
            supervision.speaker or "",
            supervision.language or "",
            translation if isinstance(translation, str) else "",
            start=part.start,
            duration=part.duration,
        )
        data.entries.append(Entry(utterance, split, part))


def _with_sources(recording: Recording, folder: Path) -> Recording:
    """Return the recording with the paths of its files resolved against `folder`."""
    sources = [fastcopy(source, source=str(find_audio(source.source, folder))) for source in recording.sources]
    return fastcopy(recording, sources=sources)


def relabel(cut: Cut, utterance: CorpusUtterance) -> Cut:
    """Return `cut` with the id and the texts of `utterance`, and where they come from, and no other labels."""
    (given,) = cut.supervisions
    custom = {name: value for name in ("origin", "labeled") if (value := (given.custom or {}).get(name))}
    custom |= {"translation": utterance.translation} if utterance.translation else {}
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=cut.recording_id,
        start=given.start,
        duration=given.duration,
        channel=given.channel,
        text=utterance.text,
        speaker=utterance.speaker,
        language=utterance.language,
        custom=custom or None,
    )
    return fastcopy(cut, id=utterance.id, supervisions=[supervision])
