"""Transcription with an exported model, for `residualformer transcribe`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from residualformer.constants import FRAME_SHIFT_S
from residualformer.errors import UserError
from residualformer.runtime.audio import Block
from residualformer.runtime.recognizer import Recognizer


def transcribe(
    recognizer: Recognizer, blocks: Iterable[Block], name: str, partial: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield results as JSON values while audio comes in.

    Without endpoint rules, yield one result at the end: text, score, tokens, times, needed, latencies (see `Result`)
    and duration (s). With rules, yield a result for each segment, with start and end instead of the duration.

    Args:
        recognizer: model, search and endpoint rules.
        blocks: the audio.
        name: the name of the audio in messages.
        partial: also yield `partial` (the text) and `end` (s) whenever the text of the open segment changes.

    Raises:
        UserError: the audio is bad, or too short for a single frame.
    """
    stream, shown = recognizer.create_stream(), ""
    for block in blocks:
        stream.accept_waveform(*block)
        recognizer.decode([stream])
        for segment in stream.pop_segments():
            shown = ""
            yield segment.to_dict()
        if partial and (found := recognizer.partial(stream)).text != shown:
            shown = found.text
            yield {"partial": shown, "end": found.end}
    stream.finish()
    recognizer.decode([stream])
    if stream.received_s < FRAME_SHIFT_S / 2:  # the filterbank rounds: there is no frame
        raise UserError(f"{name} is too short ({stream.received_s * 1000:.0f} ms): give at least 10 ms of audio.")
    segments = stream.pop_segments()
    if recognizer.endpoint_rules:
        yield from (segment.to_dict() for segment in segments)
        return
    result = (segments or [recognizer.partial(stream)])[0].to_dict()
    del result["start"], result["end"]
    yield {**result, "duration": round(stream.received_s, 3)}
