"""Speech synthesis with the C library of espeak-ng, as packaged in the `espeakng-loader` wheel.

The engine keeps state (phase, flutter, random numbers) in static variables, and re-initializing it clears only some of
them. Therefore each utterance loads the library afresh (about 1.5 ms): its samples depend on the text, the voice and
the seed, but not on earlier utterances or on the process.
"""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import espeakng_loader
import numpy as np

from residualformer.errors import UserError

SAMPLING_RATE = 22050  # Hz, of every formant voice
SYNCHRONOUS = 2  # AUDIO_OUTPUT: the callback gets the samples before espeak_Synth returns, nothing is played
RATE, VOLUME, PITCH, RANGE, WORD_GAP = 1, 2, 3, 4, 7  # espeak_PARAMETER
UTF8, SSML = 0x1, 0x10  # text flags
IPA = 2  # phoneme trace mode
PHONEME_EVENTS = 1  # option of espeak_Initialize; the samples are the same
END_OF_LIST, WORD, PHONEME = 0, 1, 7  # espeak_EVENT_TYPE
PAUSE = b"_"  # starts the names of pauses among the phonemes


class Event(ctypes.Structure):
    """An espeak_EVENT."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),  # the name of a phoneme
    ]


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
_unload = getattr(_ctypes, "dlclose" if os.name == "posix" else "FreeLibrary")


@dataclass(frozen=True)
class Voice:
    """A voice of the engine and its settings."""

    accent: str = "en-us"  # a language of espeak-ng
    variant: str = ""  # one of its voice files; "" is the default voice
    words_per_minute: int = 175
    pitch: int = 50  # 0..100
    pitch_range: int = 50  # 0 (monotone)..100
    word_gap: int = 0  # extra pause between words, in units of 10 ms at 170 words per minute

    @property
    def name(self) -> str:
        """Return the name that the engine knows the voice by."""
        return f"{self.accent}+{self.variant}" if self.variant else self.accent

    def speak(self, written: str, seed: int) -> tuple[np.ndarray, int]:
        """Return the samples of an SSML text, int16 of shape (samples,), and their rate in Hz."""
        return synthesize(written, self, seed), SAMPLING_RATE


def say_letter(letter: str) -> str:
    """Return the SSML that makes the engine say the name of a letter in the accent of the voice."""
    return f'<say-as interpret-as="characters">{letter}</say-as>'


def spell_letters(text: str) -> str:
    """Return SSML for a text in which single letters are said by name; lower case, as it may spell capitals."""
    return re.sub(r"(?<!')\b([a-z])\b(?!')", lambda match: say_letter(match[1]), text.lower())


def synthesize(text: str, voice: Voice, seed: int = 0) -> np.ndarray:
    """Synthesize an SSML text; the same arguments give the same bits.

    Returns:
        int16 of shape (samples,), at SAMPLING_RATE.

    Raises:
        UserError: the voice is unknown, or the engine returns no samples.
    """
    with _fresh_engine(voice, seed) as library:
        return _speak(library, text)[0]


@dataclass(frozen=True)
class SpokenWord:
    """A word by its `place` among the characters of the text, and the samples from `start` to `end` that speak it."""

    place: int
    start: int
    end: int


def synthesize_words(text: str, voice: Voice, seed: int = 0) -> tuple[np.ndarray, list[SpokenWord]]:
    """Return the samples that `synthesize` does, and when each word is spoken; pauses belong to none."""
    with _fresh_engine(voice, seed, PHONEME_EVENTS) as library:
        samples, events = _speak(library, text)
    words: list[SpokenWord] = []
    paused = False
    for kind, place, sample, name in [*events, (WORD, 0, len(samples), b"")]:
        if kind not in (WORD, PHONEME):
            continue
        pause = kind == PHONEME and name.startswith(PAUSE)
        if words and not paused and (pause or kind == WORD):
            words[-1] = SpokenWord(words[-1].place, words[-1].start, sample)
        paused = pause
        if kind == WORD:
            words.append(SpokenWord(place - 1, sample, sample))
    return samples, words[:-1]


def phonemes(text: str, voice: Voice = Voice()) -> str:
    """Return the phonemes of an SSML text in IPA, to test pronunciations."""
    with tempfile.NamedTemporaryFile() as file, _fresh_engine(voice, 0) as library:
        c = ctypes.CDLL(None)
        c.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(c.fopen(file.name.encode(), b"w"))
        library.espeak_SetPhonemeTrace(IPA, stream)
        _speak(library, text)
        c.fclose(stream)
        return " ".join(file.read().decode().split())


def _speak(library: ctypes.CDLL, text: str) -> tuple[np.ndarray, list[tuple[int, int, int, bytes]]]:
    """Return the samples (S,) int16 of an SSML text, and type, place in the text, sample and name of each event."""
    chunks: list[np.ndarray] = []
    found: list[tuple[int, int, int, bytes]] = []

    @Callback
    def receive(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        for event in itertools.takewhile(lambda event: event.type != END_OF_LIST, events):
            found.append((event.type, event.text_position, event.sample, event.id))
        return 0  # continue

    library.espeak_SetSynthCallback(receive)
    encoded = text.encode() + b"\0"
    status = library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, UTF8 | SSML, None, None)
    if status != 0 or not chunks:
        raise UserError(f"espeak-ng returned no samples for '{text}' (status {status}): reinstall espeakng-loader.")
    return np.concatenate(chunks), found


@contextmanager
def _fresh_engine(voice: Voice, seed: int, options: int = 0) -> Iterator[ctypes.CDLL]:
    """Load and initialize the library with a voice and options of espeak_Initialize, and unload it at the end."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        data = espeakng_loader.get_data_path()
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), options)
        if rate != SAMPLING_RATE:
            raise UserError(f"espeak-ng cannot use its voice data in '{data}' ({rate}): reinstall espeakng-loader.")
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        ctypes.CDLL(None).srand(ctypes.c_uint(seed))  # some voices draw from the C library
        if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise UserError(f"espeak-ng has no voice '{voice.name}': see lang/gmw and voices/!v in '{data}'.")
        for parameter, value in (
            (RATE, voice.words_per_minute),
            (VOLUME, 100),
            (PITCH, voice.pitch),
            (RANGE, voice.pitch_range),
            (WORD_GAP, voice.word_gap),
        ):
            library.espeak_SetParameter(parameter, value, 0)
        yield library
    finally:
        library.espeak_Terminate()
        _unload(library._handle)
