"""The result of a recognition, the same whatever ran it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from residualformer.context.verdict import SlotValue, Verdict
from residualformer.words.words import Timed, Word


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording, or of a segment of it. Times are seconds from the start of the audio."""

    text: str
    score: float | None  # natural log-probability; None if the context allows no text here, so that it is empty
    tokens: list[str]  # as text
    times: list[float]  # of each token, the start of the encoder frame that wrote it
    start: float
    end: float
    timed: Timed | None = None  # words with times and confidences, if they are wanted; partial results have none
    context: float = 0.0  # what the context added in the search, in nats
    verdict: Verdict | None = None  # of a grammar; partial results have none
    needed: list[float] | None = None  # of each token, the end of the audio that it needed; None without a stream
    latencies: list[float] | None = None  # of each token, real seconds between the arrival of that audio and the token

    @property
    def words(self) -> list[Word]:
        """The words, with start, end and confidence."""
        return self.timed.words if self.timed else []

    @property
    def confidence(self) -> float | None:
        """The mean confidence of the words, from 0 to 1; None without words."""
        return self.timed.confidence if self.timed else None

    @property
    def slots(self) -> Mapping[str, SlotValue | Sequence[SlotValue]]:
        """What fills the slots of a grammar, by their names; empty without one, or where nothing matches."""
        return self.verdict.slots if self.verdict else {}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; latencies, words and the verdict of a grammar only where they are known."""
        values: dict[str, Any] = {"text": self.text, "score": self.score}
        if self.context:
            values["context"] = self.context
        values |= self.verdict.to_dict() if self.verdict else {}
        values |= {"tokens": self.tokens, "times": self.times}
        if self.needed is not None and self.latencies is not None:
            values |= {"needed": self.needed, "latencies": self.latencies}
        return values | (self.timed.to_dict() if self.timed else {}) | {"start": self.start, "end": self.end}
