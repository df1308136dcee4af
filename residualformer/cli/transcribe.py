"""`residualformer transcribe`: audio in, text out; with a trained model or, without torch, an exported one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from residualformer.context.options import add_context_options, context_of
from residualformer.context.scorer import Context
from residualformer.errors import UserError
from residualformer.library.arguments import add_load_options, load_as_asked
from residualformer.words.formats import WRITERS, Writer

if TYPE_CHECKING:
    from residualformer.library.transcriber import Heard, Transcriber
    from residualformer.library.transcript import Transcript

STDIN, MICROPHONE = Path("-"), Path("microphone")
EACH = "each"

Outcome = dict[str, Any] | UserError  # JSON values, or why there are none


class Source(NamedTuple):
    """A file, standard input or the microphone, and the channel to hear, if it is one."""

    path: Path
    channel: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it is standard input or the microphone, not a file, even one that is named so."""
        return self.path == STDIN or self.path is MICROPHONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add(
        "files", nargs="*", type=Path, metavar="FILE", help="audio of any rate and number of channels; - standard input"
    )
    add(
        "--format",
        choices=WRITERS,
        help="text (default); json, an object per file with its words, their start, end (s) and confidence; ctm, srt, "
        "vtt",
    )
    add("--json", action="store_const", const="json", dest="format", help="short for --format json")
    add(
        "--channel",
        type=_channel,
        metavar="N|each",
        help="the only channel to hear, from 0, or each by itself, as the sides of a call (default: their mix)",
    )
    add("--mic", action="store_true", help="the microphone until Ctrl-C (needs sounddevice)")
    add("--partial", action="store_true", help="also the text so far, whenever it changes")
    add(
        "--endpoint",
        action=argparse.BooleanOptionalAction,
        help="a line for each utterance, split at silences (default: for standard input and the microphone)",
    )
    add(
        "--rate",
        type=int,
        metavar="HZ",
        help="rate of the microphone or of raw 16-bit standard input (default: the model's)",
    )
    add_load_options(parser)
    add_context_options(parser)


def _channel(text: str) -> int | str:
    if text == EACH or text.isdecimal():
        return text if text == EACH else int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no channel: give a number from 0, or {EACH}")


def run(args: argparse.Namespace) -> None:
    """Transcribe `args.files` in their order; print each result as soon as it and those before it are known.

    A file that cannot be read is named on stderr, and the exit status is 1.

    Raises:
        UserError: no file can be read, or options contradict each other or the model.
    """
    sources = [Source(path) for path in [*args.files, *([MICROPHONE] if args.mic else [])]]
    _check(args, sources)
    model = load_as_asked(args, words=None if WRITERS[args.format or "text"].needs_words else False)
    _check_words(args, model)
    context = context_of(args, model.pieces, model.decode)
    sources = [part for source in sources for part in _channels(source, args.channel)]
    writer = _writer(args, sources)
    print(writer.header, end="", flush=True)
    failed: set[Source] = set()
    for source, outcome in _outcomes(model, args, sources, context):
        if isinstance(outcome, UserError):
            failed.add(source)
            print(f"error: {outcome}", file=sys.stderr)
        else:
            channel = {} if source.channel is None else {"channel": source.channel}
            print(writer.write(str(source.path), channel | outcome), end="", flush=True)
    if failed == set(sources):
        raise UserError("no file could be transcribed (reasons above).")
    if failed:
        sys.exit(1)


def _check(args: argparse.Namespace, sources: list[Source]) -> None:
    """Raise UserError for options that contradict each other."""
    live = any(source.is_live for source in sources)
    if not sources:
        raise UserError("there is nothing to transcribe: name audio files, or - for standard input, or give --mic.")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads is {args.threads}; give 1 or more.")
    if args.rate is not None and args.rate < 1:
        raise UserError(f"--rate is {args.rate}; give 1 or more.")
    if args.rate is not None and not live:
        raise UserError(
            f"--rate {args.rate} is the rate of the microphone or of raw standard input; files tell their own: "
            "leave it out, or give - or --mic."
        )
    if args.channel is not None and args.mic:
        raise UserError(f"--channel {args.channel}: the microphone has one channel; leave it out.")
    if args.channel == EACH and live:
        raise UserError(f"--channel {EACH} reads a file once for each channel, which standard input cannot: give one.")


def _writer(args: argparse.Namespace, sources: list[Source]) -> Writer:
    """Return the writer of `--format`; UserError where other options do not go with it."""
    kind = args.format or "text"
    if kind in ("ctm", "srt", "vtt") and args.partial:
        raise UserError(f"--partial does not go with --format {kind}, which has final words only: leave one out.")
    if kind in ("srt", "vtt") and len(sources) > 1:
        raise UserError(f"--format {kind} is of one recording, and {len(sources)} are given: transcribe one at a time.")
    return WRITERS[kind]()


def _check_words(args: argparse.Namespace, model: Transcriber) -> None:
    """Raise UserError where a format is made of words of a translation; print a note if they are not calibrated."""
    kind = args.format or "text"
    if WRITERS[kind].needs_words and kind != "json" and not model.words:
        raise UserError(
            f"--format {kind} needs times of words, and those of a translation have none: give text or json."
        )
    if model.words and not model.is_calibrated:
        print(
            f"note: {args.model} is not calibrated (steps/calibrate.py): confidences are plain posteriors, and words "
            "are as late as the model writes them.",
            file=sys.stderr,
        )


def _channels(source: Source, channel: int | str | None) -> list[Source]:
    """Return a source for each channel that is to be heard by itself."""
    if not isinstance(channel, str):
        return [Source(source.path, channel)]
    from residualformer.data.audio import num_channels

    try:
        return [Source(source.path, each) for each in range(num_channels(source.path))]
    except (UserError, OSError):
        return [source]  # transcribing it will tell


def _outcomes(
    model: Transcriber, args: argparse.Namespace, sources: list[Source], context: Context | None
) -> Iterator[tuple[Source, Outcome]]:
    """Yield results and errors in the order of the sources; files that need no partial results go in batches."""
    from residualformer.library.sound import Sound

    for in_pieces, group in groupby(sources, lambda source: source.is_live or args.partial or bool(args.endpoint)):
        if in_pieces:
            yield from ((source, outcome) for source in group for outcome in _heard(model, args, source, context))
            continue
        files = list(group)
        sounds = [Sound(source.path, channel=source.channel) for source in files]
        for source, transcript in zip(
            files, model.transcribe_many(sounds, context=context, errors="return"), strict=True
        ):
            yield source, transcript if isinstance(transcript, UserError) else _whole(transcript)


def _heard(model: Transcriber, args: argparse.Namespace, source: Source, context: Context | None) -> Iterator[Outcome]:
    """Yield the results of audio that comes in pieces, or the error that ends them."""
    from residualformer.library.transcriber import hear
    from residualformer.runtime.audio import file_blocks, microphone_blocks, standard_input_blocks, until_interrupt

    rate = args.rate or model.sample_rate_hz
    if source.path is MICROPHONE:
        blocks = until_interrupt(microphone_blocks(rate))
    elif source.path == STDIN:
        blocks = until_interrupt(standard_input_blocks(rate, channel=source.channel))
    else:
        blocks = file_blocks(source.path, channel=source.channel)
    name = "standard input" if source.path == STDIN else str(source.path)
    endpoints = source.is_live if args.endpoint is None else args.endpoint
    try:
        for heard in hear(model.stream(endpoints=endpoints, context=context), blocks, name, args.partial):
            yield _values(heard)
    except UserError as error:
        yield error
    except OSError as error:
        yield UserError(f"{name} cannot be read: {error}.")


def _values(heard: Heard) -> dict[str, Any]:
    """Return the JSON values of what was heard."""
    if heard.kind == "partial":
        return {"partial": heard.transcript.text, "end": heard.transcript.end}
    return _whole(heard.transcript) if heard.kind == "whole" else heard.transcript.to_dict()


def _whole(transcript: Transcript) -> dict[str, Any]:
    """Return the JSON values of all of a recording, which tell how long it is."""
    values = transcript.to_dict()
    del values["start"]
    return {**values, "duration": values.pop("end")}
