"""Results of a recognition as text, JSON, CTM, SubRip (SRT) and WebVTT.

A result is a mapping as `transcribe` yields it. Subtitles are cut at pauses, and where their lines are full.
"""

from __future__ import annotations

import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from residualformer.errors import UserError
from residualformer.files import read_text, split_lines
from residualformer.words.words import Word, is_unspaced

PAUSE_S = 0.7  # between words of different subtitles
LONGEST_S = 7.0  # of a subtitle
COLUMNS, LINES = 42, 2  # of a subtitle; characters of East Asian width take two columns

Result = Mapping[str, Any]


class Writer(ABC):
    """A format: text to be printed for each result; `needs_words` when those are what it is made of."""

    needs_words = True
    header = ""

    @abstractmethod
    def write(self, name: str, result: Result) -> str:
        """Return the lines, each with its end, of the next result of the audio `name`."""


class TextWriter(Writer):
    """A line for each result: name, with the channel if only one was heard, start and end if known, text; with tabs."""

    needs_words = False

    def write(self, name: str, result: Result) -> str:
        name += f"[{result['channel']}]" if "channel" in result else ""
        if "partial" in result:
            return f"{name}\t... {result['end']:.2f}\t{result['partial']}\n"
        text = result["text"] if result.get("match", True) else "no match"
        if "start" in result:
            return f"{name}\t{result['start']:.2f}-{result['end']:.2f}\t{text}\n"
        return f"{name}\t{text}\n"


class JsonWriter(Writer):
    """A JSON object in a line for each result."""

    def write(self, name: str, result: Result) -> str:
        return json.dumps({"file": name, **result}, ensure_ascii=False) + "\n"


class CtmWriter(Writer):
    """NIST's CTM: name, channel (from 1), start and duration in seconds, word and confidence of each word.

    Fields are separated by spaces, so those in the name become underscores.
    """

    def write(self, name: str, result: Result) -> str:
        channel = result.get("channel", 0) + 1  # NIST counts from 1
        return ctm_lines("_".join(name.split()), words_of(result), str(channel))


class SubtitleWriter(Writer):
    """The common part of SRT and WebVTT."""

    mark: str  # before the milliseconds of a time

    def __init__(self) -> None:
        self.count = 0

    def write(self, name: str, result: Result) -> str:
        return "".join(map(self._cue, cues(words_of(result))))

    def _cue(self, words: Sequence[Word]) -> str:
        self.count += 1
        start = round(words[0].start * 1000)
        end = max(round(words[-1].end * 1000), start + 1)
        text = "\n".join(self._escape(line) for line in lines([each.word for each in words]))
        return f"{self.count}\n{timestamp(start, self.mark)} --> {timestamp(end, self.mark)}\n{text}\n\n"

    @abstractmethod
    def _escape(self, line: str) -> str:
        """Return a line of text as the format writes it."""


class SrtWriter(SubtitleWriter):
    """SubRip; it has no escapes, so an arrow of its own becomes one of Unicode."""

    mark = ","

    def _escape(self, line: str) -> str:
        return line.replace("-->", "\u2192")


class VttWriter(SubtitleWriter):
    """WebVTT (W3C); the confidence of words has no place in it."""

    mark = "."
    header = "WEBVTT\n\n"

    def _escape(self, line: str) -> str:
        return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


WRITERS: dict[str, type[Writer]] = {
    "text": TextWriter,
    "json": JsonWriter,
    "ctm": CtmWriter,
    "srt": SrtWriter,
    "vtt": VttWriter,
}


def words_of(result: Result) -> list[Word]:
    """Return the words of a result."""
    return [Word(**each) for each in result["words"]]


def ctm_lines(name: str, words: Sequence[Word], channel: str = "1") -> str:
    """Return the lines of a CTM for the words of an utterance whose name has no spaces."""
    rows = (f"{w.start:.2f} {max(w.end - w.start, 0):.2f} {w.word} {w.confidence:.4f}" for w in words)
    return "".join(f"{name} {channel} {row}\n" for row in rows)


def cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words of each subtitle."""
    cue: list[Word] = []
    for word in words:
        if cue and _is_full(cue, word):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _is_full(cue: Sequence[Word], word: Word) -> bool:
    """Return whether the next word belongs to another subtitle."""
    if word.start - cue[-1].end >= PAUSE_S or word.end - cue[0].start > LONGEST_S:
        return True
    return len(lines([each.word for each in [*cue, word]])) > LINES


def lines(words: Sequence[str]) -> list[str]:
    """Return the text of words in lines of at most `COLUMNS`; a longer word has a line of its own."""
    found: list[str] = []
    for word in words:
        if found and columns(longer := join(found[-1], word)) <= COLUMNS:
            found[-1] = longer
        else:
            found.append(word)
    return found


def join(text: str, word: str) -> str:
    """Return the text followed by the word, with a space where the script has spaces."""
    return f"{text}{word}" if is_unspaced(text[-1]) and is_unspaced(word[0]) else f"{text} {word}"


def columns(text: str) -> int:
    """Return the width of a text in a font of fixed width."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def timestamp(milliseconds: int, mark: str) -> str:
    """Return HH:MM:SS,mmm with `mark` for the comma; hours have two digits or more."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{rest:03d}"


def read_ctm(path: Path) -> dict[str, list[Word]]:
    """Return the words of each recording in a CTM; UserError for a line that is none."""
    found: dict[str, list[Word]] = {}
    for number, line in enumerate(split_lines(read_text(path, "give a CTM")), start=1):
        fields = line.split()
        try:
            name, _, start, duration, word, *rest = fields
            times = float(start), float(start) + float(duration)
            found.setdefault(name, []).append(Word(word, *times, float(rest[0]) if rest else 1.0))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no line of a CTM: name channel start duration word.") from error
    return found
