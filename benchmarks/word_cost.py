"""The time that an exported model takes with and without words, in turns, on one thread."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from residualformer.data.audio import read_audio
from residualformer.errors import run_main
from residualformer.runtime import Recognizer, load_exported
from residualformer.workflow.options import OptionParser


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("audio", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="an exported folder")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = load_exported(args.model)
    rate = model.features.sample_rate_hz
    signals = [read_audio(path, rate) for path in args.audio]
    audio_s = sum(map(len, signals)) / rate
    print(
        f"{len(signals)} files, {audio_s:.0f} s; the least of {args.rounds} rounds, seconds of CPU per second of audio"
    )
    for kind in ("greedy", "beam"):
        recognizers = [Recognizer(model, replace(model.decode, kind=kind), words=words) for words in (False, True)]
        spent = [[seconds(each, signals) / audio_s for each in recognizers] for _ in range(args.rounds)]
        without, with_words = (min(column) for column in zip(*spent, strict=True))
        print(f"{kind}: {without:.4f} without words, {with_words:.4f} with: {with_words / without:.3f} times")


def seconds(recognizer: Recognizer, signals: list) -> float:
    """Return the CPU time of recognizing signals one after another."""
    started = time.process_time()
    for samples in signals:
        stream = recognizer.create_stream()
        stream.accept_waveform(samples)
        stream.finish()
        recognizer.decode([stream])
    return time.process_time() - started


if __name__ == "__main__":
    run_main(main)
