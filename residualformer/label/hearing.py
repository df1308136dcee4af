"""What recognizers hear in recordings, kept in a file: an interrupted run goes on, and nothing is heard twice."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from residualformer.data.audio import audio_length_s, read_audio
from residualformer.errors import UserError
from residualformer.files import read_log
from residualformer.label.recognizers import Recognizer
from residualformer.parallel import worker_map
from residualformer.records import read_dataclass

HEARD_FILE = "heard.jsonl"
RATE_HZ = 16000  # at which recordings are read whose headers do not tell how long they are


@dataclass(frozen=True)
class Limits:
    """The lengths that recordings may have, in seconds."""

    min_s: float
    max_s: float


@dataclass(frozen=True)
class Heard:
    """What a recognizer heard in a recording.

    Attributes:
        recognizer: its name.
        id: the recording; size: of its file, in bytes; seconds: its length.
        day: as 2026-11-30.
    """

    recognizer: str
    id: str
    size: int
    seconds: float
    text: str
    day: str


@dataclass(frozen=True)
class Unheard:
    """A recording in which nothing was heard, and why; its length where that is known."""

    reason: str
    detail: str
    seconds: float = 0.0


UNREADABLE, TOO_SHORT, TOO_LONG = "unreadable or not recognized", "too short", "too long"


class HeardFile:
    """The file in a folder that keeps what recognizers heard, a line for each recording and recognizer."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / HEARD_FILE

    def read(self, recognizer: str, files: Mapping[str, Path]) -> dict[str, Heard]:
        """Return what a recognizer heard in the files, by id, as far as it has heard them as they are."""
        found = {}
        for line in read_log(self.path) if self.path.exists() else []:
            try:
                heard = read_dataclass(Heard, line)
            except ValueError:  # of another version
                continue
            if heard.recognizer == recognizer and heard.id in files and heard.size == os.stat(files[heard.id]).st_size:
                found[heard.id] = heard
        return found

    def append(self, heard: Heard) -> None:
        """Add a line, which is whole or, after a crash, passed over by `read`."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(asdict(heard))}")  # the newline ends a line that was cut off


def hear_all(
    recognizer: Recognizer, files: Mapping[str, Path], kept: HeardFile, limits: Limits, jobs: int = 1
) -> dict[str, Heard | Unheard]:
    """Let a recognizer hear the files that it has not heard yet; print how fast it was. Return all outcomes by id.

    Args:
        jobs: processes, each of which loads the recognizer.

    Raises:
        UserError: the recognizer cannot be used at all.
    """
    outcomes: dict[str, Heard | Unheard] = {**kept.read(recognizer.name, files)}
    new = [(name, path) for name, path in files.items() if name not in outcomes]
    if not new:
        return outcomes
    started, seconds = time.monotonic(), 0.0
    with worker_map(min(jobs, len(new))) as map_:
        results = map_(partial(_hear, recognizer, limits), new)
        for (name, _), outcome in tqdm(zip(new, results), recognizer.name[:40], len(new), unit="file", leave=False):
            outcomes[name] = outcome
            if isinstance(outcome, Heard):
                kept.append(outcome)
                seconds += outcome.seconds
    taken = time.monotonic() - started
    speed = f", real-time factor {taken / seconds:.2f}" if seconds else ""
    print(f"label: {recognizer.name} heard {len(new)} recordings, {seconds / 3600:.3g} h, in {taken:.0f} s{speed}")
    return outcomes


def _hear(recognizer: Recognizer, limits: Limits, item: tuple[str, Path]) -> Heard | Unheard:
    name, path = item
    recognizer.load()
    try:
        size = path.stat().st_size
        seconds = audio_length_s(path) or len(read_audio(path, RATE_HZ)) / RATE_HZ
        if seconds < limits.min_s:
            return Unheard(TOO_SHORT, f"{seconds:.2f} s", seconds)
        if seconds > limits.max_s:
            return Unheard(TOO_LONG, f"{seconds:.2f} s", seconds)
        text = recognizer.hear(path)
    except (UserError, OSError) as error:
        return Unheard(UNREADABLE, str(error))
    return Heard(recognizer.name, name, size, round(seconds, 3), text, datetime.date.today().isoformat())
