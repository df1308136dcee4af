"""The espeak-ng speech engine, through its C library as the `espeakng-loader` wheel carries it: text in, samples out.

The engine keeps what it said last in static variables (phase, flutter, random numbers), and its own restart clears
only some of them. So each utterance here gets a freshly loaded library (about 1.5 ms): its samples depend on the text,
the voice and the seed, never on what was spoken before or in which process.
"""

from __future__ import annotations

import _ctypes
import ctypes
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import espeakng_loader
import numpy as np

from residualformer.errors import UserError

SAMPLING_RATE = 22050  # Hz, of every formant voice
SYNCHRONOUS = 2  # of AUDIO_OUTPUT: samples come to the callback before espeak_Synth returns, nothing is played
RATE, VOLUME, PITCH, RANGE, WORD_GAP = 1, 2, 3, 4, 7  # of espeak_PARAMETER
UTF8, SSML = 0x1, 0x10  # of the text flags
IPA = 2  # of the phoneme trace modes

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_unload = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary


@dataclass(frozen=True)
class Voice:
    """Who speaks and how. `accent` is an espeak-ng language, `variant` one of its voice files ('' is the plain one)."""

    accent: str = "en-us"
    variant: str = ""
    words_per_minute: int = 175
    pitch: int = 50  # 0..100
    pitch_range: int = 50  # 0 (monotone)..100
    word_gap: int = 0  # extra pause between words, in units of 10 ms at 170 words per minute

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


def say_letter(letter: str) -> str:
    """The markup that makes the engine say a letter's name in the voice's accent ('a' is not the article)."""
    return f'<say-as interpret-as="characters">{letter}</say-as>'


def spell_letters(text: str) -> str:
    """`text` as `synthesize` takes it, each single letter to be said by name; lower case, or it may be spelled out."""
    return re.sub(r"(?<!')\b([a-z])\b(?!')", lambda match: say_letter(match[1]), text.lower())


def synthesize(text: str, voice: Voice, seed: int = 0) -> np.ndarray:
    """Speak `text` (SSML): (samples,) int16 at SAMPLING_RATE; the same arguments give the same bits.

    Raises UserError for an unknown voice or when the engine returns nothing.
    """
    with _fresh_engine(voice, seed) as library:
        return _speak(library, text)


def phonemes(text: str, voice: Voice = Voice()) -> str:
    """What `synthesize` says, in IPA; for tests and for whoever adds words."""
    with tempfile.NamedTemporaryFile() as file, _fresh_engine(voice, 0) as library:
        c = ctypes.CDLL(None)
        c.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(c.fopen(file.name.encode(), b"w"))
        library.espeak_SetPhonemeTrace(IPA, stream)
        _speak(library, text)
        c.fclose(stream)
        return " ".join(file.read().decode().split())


def _speak(library: ctypes.CDLL, text: str) -> np.ndarray:
    """(samples,) int16."""
    chunks: list[np.ndarray] = []

    @Callback
    def receive(samples, count: int, events) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # go on

    library.espeak_SetSynthCallback(receive)
    encoded = text.encode() + b"\0"
    status = library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, UTF8 | SSML, None, None)
    if status != 0 or not chunks:
        raise UserError(f"espeak-ng returned no sound for '{text}' (status {status}): reinstall espeakng-loader.")
    return np.concatenate(chunks)


@contextmanager
def _fresh_engine(voice: Voice, seed: int) -> Iterator[ctypes.CDLL]:
    """The library as if just installed, speaking as `voice`; gone afterwards."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        data = espeakng_loader.get_data_path()
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)
        if rate != SAMPLING_RATE:
            raise UserError(f"espeak-ng cannot use its voice data in '{data}' ({rate}): reinstall espeakng-loader.")
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        ctypes.CDLL(None).srand(ctypes.c_uint(seed))  # some voices draw from the C library instead
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
