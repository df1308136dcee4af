"""Whisper models, in faster-whisper. Recordings that are shorter than Whisper's window of 30 s take less time here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residualformer.errors import UserError
from residualformer.optional import optional

if TYPE_CHECKING:  # options are declared without NumPy
    import numpy as np

RATE_HZ = 16000
BEAM = 5
HOP = 160  # samples to a frame of the features
WINDOW = 3000  # frames, 30 s
SILENCE = 500  # frames after a recording: with fewer, Whisper repeats itself more often
AGAIN = 4  # words, at most: a text that starts over with these may be one sentence that Whisper repeats


@dataclass(frozen=True)
class Whisper:
    """A Whisper model. It decodes English without sampling, so that a text can be had again."""

    model: str
    name: str

    def load(self) -> None:
        """Load the model; raise UserError if there is none."""
        _loaded(self.model)

    def hear(self, audio: Path) -> str:
        """Return the text of a recording, from a window as long as needed if that is clearly enough."""
        from residualformer.data.audio import read_audio

        samples = read_audio(audio, RATE_HZ)
        text = _short_window(self.model, samples)
        return _whole_window(self.model, samples) if text is None or is_doubtful(text) else text


def is_doubtful(text: str) -> bool:
    """Return whether a text is empty or starts over: its first words, at most `AGAIN` and half of all, come again."""
    words = "".join(each for each in text.lower() if each.isalnum() or each.isspace()).split()
    first = words[: min(AGAIN, (len(words) + 1) // 2)]
    return any(words[start : start + len(first)] == first for start in range(1, len(words))) or not words


def _whole_window(model: str, samples: np.ndarray) -> str:
    segments, _ = _loaded(model).transcribe(
        samples, language="en", temperature=0.0, beam_size=BEAM, condition_on_previous_text=False
    )
    return " ".join(segment.text.strip() for segment in segments)


def _short_window(model: str, samples: np.ndarray) -> str | None:
    """Return the text with the encoder on the recording and `SILENCE` alone; None if that fills the window."""
    import numpy as np

    whisper = _loaded(model)
    frames = len(samples) // HOP + SILENCE
    if frames >= WINDOW:
        return None
    tokenizer = _tokenizer(model)
    padded = np.concatenate([samples, np.zeros(SILENCE * HOP, np.float32)])
    features = whisper.feature_extractor(padded, padding=0)[:, : frames - frames % 2]  # the encoder halves their number
    prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    (found,) = whisper.model.generate(whisper.encode(features), [prompt], beam_size=BEAM)
    return str(tokenizer.decode(found.sequences_ids[0])).strip()


@lru_cache(2)
def _loaded(model: str) -> Any:
    try:
        return optional("faster_whisper").WhisperModel(model, device="auto", compute_type="int8")
    except (ValueError, RuntimeError, OSError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"faster-whisper cannot load '{model}' ({why[:160]}): give the name of a model, or the folder of one."
        ) from error


@lru_cache(2)
def _tokenizer(model: str) -> Any:
    from faster_whisper.tokenizer import Tokenizer

    whisper = _loaded(model)
    return Tokenizer(whisper.hf_tokenizer, whisper.model.is_multilingual, task="transcribe", language="en")
