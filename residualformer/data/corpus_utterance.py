"""What a corpus says of an utterance; importing it needs neither torch nor Lhotse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CorpusUtterance:
    """An utterance as a corpus describes it, not yet validated."""

    id: str
    audio: Path | None  # the recording; None where there is only a transcript
    text: str
    speaker: str
    language: str = "English"
    translation: str = ""
    origin: str = ""  # "" for utterances of the corpus itself, else where they come from, such as "synthetic"
    start: float = 0.0  # where the utterance begins in its recording, in seconds
    duration: float | None = None  # in seconds; None for all the rest of the recording
    channel: int | None = None  # of the recording, from 0; None for the average of all
