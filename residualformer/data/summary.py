"""How much speech a training set holds, counted where its features are written, so that no training counts it again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from lhotse import MonoCut

from residualformer.data.splits import summary_file
from residualformer.errors import UserError
from residualformer.files import read_json, write_json
from residualformer.records import read_dataclass

ADVICE = "run stage 2 again, with --overwrite"


@dataclass(frozen=True)
class Speech:
    """An amount of speech."""

    utterances: Annotated[int, Ge(0)]
    hours: Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Summary:
    """The content of a summary file."""

    shards: Annotated[int, Ge(1)]
    origins: dict[str, Speech]


def write_summary(cuts: Iterable[MonoCut], source: Path, shards: int = 1) -> None:
    """Write, beside a manifest or a folder of Lhotse Shar, the utterances of each origin and their hours.

    Of the copies of an utterance at several speeds, the first counts, with its length as recorded.
    """
    utterances: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    seen: set[str] = set()
    for cut in cuts:
        custom = cut.custom or {}
        source_id = custom.get("utterance", cut.id)
        if source_id not in seen:
            seen.add(source_id)
            origin = (cut.supervisions[0].custom or {}).get("origin", "") if cut.supervisions else ""
            utterances[origin] += 1
            seconds[origin] += cut.duration * custom.get("speed", 1.0)
    origins = {name: Speech(utterances[name], seconds[name] / 3600) for name in sorted(utterances)}
    write_json(summary_file(source), asdict(Summary(shards, origins)))


def _read_summary(path: Path) -> Summary:
    try:
        return read_dataclass(Summary, read_json(path, ADVICE))
    except ValueError as error:
        raise UserError(f"{path} does not hold counts of utterances ({error}): {ADVICE}.") from error


def stated_shards(source: Path) -> int:
    """Return the number of shards that a folder of Lhotse Shar was written with; 0 where nothing states it."""
    path = summary_file(source)
    return _read_summary(path).shards if path.is_file() else 0


def describe(sources: Sequence[Path]) -> str:
    """Return the utterances and hours of a training set by origin, in words."""
    utterances: Counter[str] = Counter()
    hours: defaultdict[str, float] = defaultdict(float)
    for source in sources:
        path = summary_file(source)
        if not path.is_file():
            return f"{', '.join(map(str, sources))} (not counted)"
        for origin, speech in _read_summary(path).origins.items():
            utterances[origin] += speech.utterances
            hours[origin] += speech.hours
    parts = (f"{utterances[name]} {name or 'corpus'} utterances ({hours[name]:.2f} h)" for name in sorted(utterances))
    return " + ".join(parts)
