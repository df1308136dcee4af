"""One hour of audio through one stream of an exported model: memory, and the text against utterance by utterance.

    . ./path.sh && python benchmarks/long_stream.py --model exp/residual/export [--hours 1] [--pause 1.5]
        [--search greedy|beam] [--int8] [--lean] [--check-every 10] [--json FILE] AUDIO...

The audio files are said one after the other, again and again, with a pause after each, in pieces of 100 ms, with
endpoints. Every `--check-every`th segment that an endpoint closes is cut out of the audio and recognized alone; the
text must be the same. Memory is that of the whole process; warm is the state after a twelfth of the audio.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from process_memory import resident_mb

from residualformer.data.audio import read_audio
from residualformer.errors import UserError, run_main
from residualformer.files import write_json
from residualformer.runtime import ENDPOINT_RULES, Recognizer, Result, load_exported
from residualformer.workflow.options import OptionParser

PIECE_S, REPORTS = 0.1, 12


@dataclass
class Found:
    """At one place of the stream; `growth_mb` since the first report, `differing` of the `checked` segments."""

    audio_s: float
    resident_mb: float
    growth_mb: float
    segments: int
    checked: int
    differing: int
    rtf: float


class Speech:
    """The files again and again in pieces, of which what was not yet forgotten can be cut out."""

    def __init__(self, files: list[Path], rate: int, pause_s: float):
        self.files, self.rate, self.pause = files, rate, np.zeros(round(pause_s * rate), np.float32)
        self.held, self.first = np.empty(0, np.float32), 0  # samples, and the number of the first one

    def pieces(self) -> Iterator[np.ndarray]:
        size = round(PIECE_S * self.rate)
        for file in itertools.cycle(self.files):
            samples = np.concatenate([read_audio(file, self.rate), self.pause])
            for start in range(0, len(samples), size):
                self.held = np.concatenate([self.held, samples[start : start + size]])
                yield samples[start : start + size]

    def cut(self, start_s: float, end_s: float) -> np.ndarray:
        """The samples from `start_s` to `end_s`; those before `end_s` are forgotten."""
        start, end = (round(second * self.rate) - self.first for second in (start_s, end_s))
        found, self.held, self.first = self.held[start:end], self.held[end:].copy(), self.first + end
        return found


def alone(recognizer: Recognizer, samples: np.ndarray) -> str:
    """The text of samples that are a whole stream."""
    stream = recognizer.create_stream()
    stream.accept_waveform(samples)
    stream.finish()
    recognizer.decode([stream])
    return " ".join(segment.text for segment in stream.pop_segments())


def run(args: argparse.Namespace) -> list[Found]:
    """Reports over the audio, printed as they are made."""
    model = load_exported(args.model, int8=args.int8, lean=args.lean)
    decode = replace(model.decode, kind=args.search)
    recognizer, whole = Recognizer(model, decode, ENDPOINT_RULES), Recognizer(model, decode)
    speech, stream, total = Speech(args.audio, model.features.sample_rate_hz, args.pause), recognizer.create_stream(), 0
    reports: list[Found] = []
    segments, checked, differing, seconds, started = 0, 0, 0, 0.0, time.process_time()
    print("audio s  memory MB  since warm  segments  checked  differ     RTF")
    for piece in speech.pieces():
        stream.accept_waveform(piece)
        recognizer.decode([stream])
        total += len(piece)
        for segment in stream.pop_segments():
            segments, samples = segments + 1, speech.cut(segment.start, segment.end)
            if segments % args.check_every == 0:
                begin = time.process_time()
                checked, differing = checked + 1, differing + (not same(segment, alone(whole, samples)))
                seconds += time.process_time() - begin
        audio_s = total / speech.rate
        if audio_s >= (len(reports) + 1) * 3600 * args.hours / REPORTS:
            now, rtf = resident_mb(), (time.process_time() - started - seconds) / audio_s
            warm = reports[0].resident_mb if reports else now
            reports.append(Found(audio_s, now, now - warm, segments, checked, differing, rtf))
            numbers = f"{now:9.1f}  {now - warm:10.1f}  {segments:8}  {checked:7}  {differing:6}  {rtf:6.4f}"
            print(f"{audio_s:7.0f}  {numbers}", flush=True)
        if len(reports) == REPORTS:
            return reports
    raise AssertionError("speech has no end")


def same(segment: Result, text: str) -> bool:
    if segment.text != text:
        print(f"at {segment.start:.2f} s: '{segment.text}', alone '{text}'")
    return segment.text == text


def main() -> None:
    args = parse_args()
    if args.hours <= 0 or args.check_every < 1:
        raise UserError(f"--hours is {args.hours} and --check-every {args.check_every}; both must be above 0.")
    reports = run(args)
    if args.json:
        write_json(args.json, {"reports": [asdict(report) for report in reports], "search": args.search})


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="an exported folder")
    parser.add_argument("audio", type=Path, nargs="+", help="audio files")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--pause", type=float, default=1.5, help="seconds of silence after each file")
    parser.add_argument("--search", choices=("greedy", "beam"), default="greedy")
    parser.add_argument("--check-every", type=int, default=10, metavar="N")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--lean", action="store_true")
    parser.add_argument("--json", type=Path, help="write the reports to this file as well")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
