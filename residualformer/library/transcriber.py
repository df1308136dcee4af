"""What transcribes: the interface of trained and exported models, and the part that they share, streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from numpy.typing import ArrayLike

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.context.grammar.context import GrammarContext
from residualformer.context.scorer import Context, training_order
from residualformer.context.verdict import SILENCE, Verdict
from residualformer.errors import UserError
from residualformer.library.sound import Audio, Sound
from residualformer.library.transcript import Transcript
from residualformer.runtime.audio import Block
from residualformer.runtime.endpoint import ENDPOINT_RULES
from residualformer.runtime.model import StreamingModel
from residualformer.runtime.recognizer import Recognizer
from residualformer.runtime.stream import Result
from residualformer.words.calibration import UNCALIBRATED
from residualformer.words.words import NO_WORDS

Outcome = Transcript | UserError


class Transcriber(ABC):
    """A model and a search. `residualformer.load` returns one, of a run folder or an exported one.

    Example::

        model = residualformer.load("exp/residual")
        print(model.transcribe("a.wav").text)
        for transcript in model.transcribe_many(["a.wav", "b.mp3"]):
            print(transcript.words)
    """

    def __init__(self, model: StreamingModel, decode: DecodeConfig, words: bool | None) -> None:
        self._model, self.decode = model, decode
        self.words = model.target == "text" if words is None else words  # whether results have timed words
        self._recognizers: dict[bool, Recognizer] = {}  # by whether they have endpoints
        self._recognizer(endpoints=False)  # refuses values that are out of range

    @property
    def sample_rate_hz(self) -> int:
        """The sampling rate of the model; audio of other rates is resampled."""
        return self._model.features.sample_rate_hz

    @property
    def target(self) -> Literal["text", "translation"]:
        """What the model writes."""
        return self._model.target

    @property
    def pieces(self) -> list[str]:
        """The text of each token, in the numbering of training, which contexts take."""
        return training_order(self._model.pieces, self._model.blank)

    def hotwords(self, phrases: Iterable[str]) -> Context:
        """Return the context that favors words and phrases, each "PHRASE" or "PHRASE :SCORE" (docs/context.md).

        Raises:
            UserError: there is no phrase, a score is no number, or the model cannot write a phrase.
        """
        return self._recognizer(endpoints=False).hotwords(phrases)

    def grammar(self, path: str | Path, reject: float | None = None) -> GrammarContext:
        """Return the context in which only what a grammar allows is found, and its slots (docs/grammar.md).

        Args:
            path: sentences, one a line, a grammar in YAML, or a compiled one.
            reject: no match where other speech is likelier by more than so many nats per second; default is what a
                compiled grammar or `decode.reject` says.

        Raises:
            UserError: the file is missing or wrong, or does not fit the model, or the search is greedy.
        """
        return self._recognizer(endpoints=False).grammar(path, reject)

    @property
    def is_calibrated(self) -> bool:
        """Whether confidences and times of words have been calibrated."""
        return self._model.calibration != UNCALIBRATED

    def transcribe(
        self,
        audio: Audio,
        rate: int | None = None,
        *,
        channel: int | None = None,
        context: Context | None = None,
    ) -> Transcript:
        """Transcribe one recording.

        Args:
            audio: the path of a file, or samples (S,), (C, S) or (S, C): floats in [-1, 1], signed integers of 8, 16 or
                32 bits, or unsigned ones of 8.
            rate: sampling rate of samples, in Hz; leave it out for a file, whose header states it.
            channel: the one to transcribe, from 0; None: the average of all.
            context: what adds to the scores of labels: hotwords, language models or grammars.

        Raises:
            UserError: the audio cannot be used; the sentence says why.
        """
        return next(self.transcribe_many([Sound(audio, rate, channel)], context=context))

    @overload
    def transcribe_many(
        self,
        audio: Iterable[Audio | Sound],
        rate: int | None = None,
        *,
        context: Context | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Iterator[Transcript]: ...
    @overload
    def transcribe_many(
        self,
        audio: Iterable[Audio | Sound],
        rate: int | None = None,
        *,
        context: Context | None = None,
        errors: Literal["return"],
    ) -> Iterator[Outcome]: ...

    def transcribe_many(
        self,
        audio: Iterable[Audio | Sound],
        rate: int | None = None,
        *,
        context: Context | None = None,
        errors: str = "raise",
    ) -> Iterator[Any]:
        """Transcribe recordings; yield the results in their order, each as soon as it and those before it are known.

        A trained model takes recordings of similar length together, at most `decode.max_batch_s` seconds with their
        padding; an exported one takes one after another.

        Args:
            audio: paths, samples, or `Sound`s, which have a rate and a channel of their own.
            rate: sampling rate of samples, in Hz.
            context: see `transcribe`; each recording has a scorer of its own.
            errors: what happens with a recording that cannot be used: `raise` its UserError, or `return` that in the
                place of the result.

        Raises:
            UserError: `audio` is a single path, `errors` is something else, or a recording cannot be used.
        """
        if errors not in ("raise", "return"):
            raise UserError(f"errors is '{errors}'; allowed are raise, return.")
        if isinstance(audio, str | Path):
            raise UserError(f"transcribe_many takes a list of recordings, not the single path {audio}: use transcribe.")
        sounds = (each if isinstance(each, Sound) else _sound(each, rate) for each in audio)
        return self._results(sounds, context, errors)

    def _results(self, sounds: Iterable[Sound | UserError], context: Context | None, errors: str) -> Iterator[Outcome]:
        for outcome in self._outcomes(sounds, context):
            if errors == "raise" and isinstance(outcome, UserError):
                raise outcome
            yield outcome

    def stream(self, *, endpoints: bool = False, context: Context | None = None) -> SpeechStream:
        """Start a stream of live audio.

        Args:
            endpoints: close a segment at pauses, and after 20 s at the latest; without, all is one segment.
            context: see `transcribe`.
        """
        return SpeechStream(self._recognizer(endpoints), context)

    @abstractmethod
    def _outcomes(self, sounds: Iterable[Sound | UserError], context: Context | None) -> Iterator[Outcome]:
        """Yield the result of each recording, or the error of one that cannot be used, in their order."""

    def _one_by_one(self, sounds: Iterable[Sound | UserError], context: Context | None) -> Iterator[Outcome]:
        """Run each recording through a stream, block by block."""
        for sound in sounds:
            try:
                yield self._through_stream(sound, context) if isinstance(sound, Sound) else sound
            except (UserError, OSError) as error:
                yield error if isinstance(error, UserError) else UserError(f"the audio cannot be read: {error}")

    def _through_stream(self, sound: Sound, context: Context | None) -> Transcript:
        (heard,) = hear(self.stream(context=context), sound.blocks(), sound.name)
        return heard.transcript

    def _recognizer(self, endpoints: bool) -> Recognizer:
        if endpoints not in self._recognizers:
            rules = ENDPOINT_RULES if endpoints else ()
            self._recognizers[endpoints] = Recognizer(self._model, self.decode, rules, self.words)
        return self._recognizers[endpoints]


class SpeechStream:
    """A stream of live audio: `accept` takes its pieces; iterating over it yields the segments closed so far.

    Example::

        stream = model.stream(endpoints=True)
        for samples in microphone:
            stream.accept(samples, 48000)
            print(stream.partial().text)
            for segment in stream:
                print(segment.text)
        stream.finish()
        print([segment.text for segment in stream])
    """

    def __init__(self, recognizer: Recognizer, context: Context | None = None) -> None:
        self._recognizer, self._stream, self._context = recognizer, recognizer.create_stream(context), context

    @property
    def verdict_on_silence(self) -> Verdict | None:
        """What the context says where nobody speaks."""
        return self._context.judge(SILENCE) if self._context else None

    @property
    def has_endpoints(self) -> bool:
        """Whether pauses close segments."""
        return bool(self._recognizer.endpoint_rules)

    @property
    def has_words(self) -> bool:
        """Whether closed segments have words with times and confidences."""
        return self._recognizer.words

    @property
    def received_s(self) -> float:
        """The seconds of audio accepted so far."""
        return self._stream.received_s

    def accept(self, samples: ArrayLike, rate: int) -> None:
        """Recognize the next samples at `rate` Hz, of any shape and type that `Transcriber.transcribe` takes.

        Raises:
            UserError: they are no audio, or the rate or the number of channels changes.
            ValueError: the stream is finished.
        """
        self._stream.accept_waveform(samples, rate)
        self._recognizer.decode([self._stream])

    def partial(self) -> Transcript:
        """Return the result so far of the open segment."""
        return to_transcript(self._recognizer.partial(self._stream))

    def finish(self) -> None:
        """End the stream: recognize the rest of its audio and close the open segment."""
        self._stream.finish()
        self._recognizer.decode([self._stream])

    def __iter__(self) -> Iterator[Transcript]:
        """Yield the closed segments that have not been yielded before, without those in which nothing was written."""
        for segment in self._stream.pop_segments():
            yield to_transcript(segment)


def to_transcript(result: Result) -> Transcript:
    """Return a result of the runtime as a transcript."""
    return Transcript(
        text=result.text,
        score=result.score,
        tokens=result.tokens,
        times=result.times,
        start=result.start,
        end=result.end,
        timed=result.timed,
        context=round(result.nbest[0].context, 4) if result.nbest else 0.0,
        verdict=result.verdict,
        needed=result.needed,
        latencies=result.latencies,
    )


def check_length(name: str, seconds: float) -> None:
    """Raise UserError if audio is too short for a single feature frame."""
    if seconds < FRAME_SHIFT_S / 2:  # the filterbank rounds
        raise UserError(f"{name} is too short ({seconds * 1000:.0f} ms): give at least 10 ms of audio.")


class Heard(NamedTuple):
    """What `hear` yields."""

    kind: Literal["partial", "segment", "whole"]
    transcript: Transcript


def hear(stream: SpeechStream, blocks: Iterable[Block], name: str, partial: bool = False) -> Iterator[Heard]:
    """Feed blocks to a stream while they come; yield its segments, or the whole if it has no endpoints.

    Args:
        name: of the audio, in messages.
        partial: also yield the open segment whenever its text changes.

    Raises:
        UserError: the audio is bad, or too short for a single frame.
    """
    shown = ""
    for block in blocks:
        stream.accept(*block)
        for segment in stream:
            shown = ""
            yield Heard("segment", segment)
        if partial and (found := stream.partial()).text != shown:
            shown = found.text
            yield Heard("partial", found)
    stream.finish()
    check_length(name, stream.received_s)
    if stream.has_endpoints:
        yield from (Heard("segment", segment) for segment in stream)
        return
    whole = next(iter(stream), None) or _of_silence(stream)
    yield Heard("whole", replace(whole, start=0.0, end=round(stream.received_s, 3)))


def _of_silence(stream: SpeechStream) -> Transcript:
    timed = NO_WORDS if stream.has_words else None
    return replace(stream.partial(), timed=timed, verdict=stream.verdict_on_silence)


def _sound(audio: Audio, rate: int | None) -> Sound | UserError:
    try:
        return Sound(audio, None if isinstance(audio, str | Path) else rate)
    except UserError as error:
        return error
