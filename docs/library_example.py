"""The library in one program: python docs/library_example.py MODEL AUDIO...

MODEL is a run folder or an exported folder. Each step prints what it finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import residualformer
from residualformer.data.audio import read_audio
from residualformer.errors import UserError


def main(folder: str, files: list[str]) -> None:
    model = residualformer.load(folder)
    rate = model.sample_rate_hz

    print("# Recordings, in batches where the model allows it; one that cannot be read does not stop the others")
    for path, found in zip(files, model.transcribe_many(files, errors="return"), strict=True):
        print(f"{path}: {found if isinstance(found, UserError) else found.text}")

    print("# Words, with start, end and confidence")
    readable = next(path for path in files if Path(path).is_file())
    for word in model.transcribe(readable).words:
        print(f"{word.start:6.2f} {word.end:6.2f} {word.confidence:4.2f} {word.word}")

    print("# Samples instead of a file: any orientation and type")
    samples = read_audio(readable, rate)
    print(model.transcribe(samples[None], rate).text)  # (1, S)
    print(model.transcribe((samples * 32767).astype("int16"), rate).text)

    print("# A stream: the text so far, whenever it changes, then the segments that pauses close")
    stream, shown = model.stream(endpoints=True), ""
    for start in range(0, len(samples), rate // 10):
        stream.accept(samples[start : start + rate // 10], rate)
        if (text := stream.partial().text) != shown:
            print(f"{stream.received_s:6.2f} s ... {text}")
            shown = text
    stream.finish()
    for segment in stream:
        print(f"{segment.start:6.2f} - {segment.end:.2f} s {segment.text}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
