"""`residualformer transcribe`: audio in, text out; with a trained model or, without torch, an exported one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from residualformer.errors import UserError
from residualformer.model.device import add_device_option
from residualformer.runtime.settings import SETTINGS_FILE, is_exported

STDIN, MICROPHONE = Path("-"), Path("microphone")

Results = Callable[[Path], Iterator[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="audio of any rate and number of channels; - standard input"
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="MODEL", help="a run folder, a model.pt or an exported folder"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per file: text, tokens, times (s), score")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--beam", type=int, metavar="N", help="beam search with N hypotheses (default: as in the model)")
    kind.add_argument("--greedy", action="store_true", help="greedy search")
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="chunk by chunk, as live speech would be decoded; greedy search (exported: always, either search)",
    )
    add_device_option(parser)
    exported = parser.add_argument_group("with an exported folder, which streams without torch")
    exported.add_argument("--int8", action="store_true", help="its int8 files")
    exported.add_argument("--lean", action="store_true", help="the least memory: one group's weights at a time, slower")
    exported.add_argument("--mic", action="store_true", help="the microphone until Ctrl-C (needs sounddevice)")
    exported.add_argument("--partial", action="store_true", help="also what is recognised so far, whenever it changes")
    exported.add_argument(
        "--endpoint",
        action=argparse.BooleanOptionalAction,
        help="a line for each utterance, as silences part them (default: for standard input and the microphone)",
    )
    exported.add_argument("--rate", type=int, metavar="HZ", help="rate of raw 16-bit standard input (default: model's)")
    exported.add_argument("--threads", type=int, default=1, metavar="N", help="threads of onnxruntime (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Transcribe `args.files` in their order, a line for each as soon as it is known.

    A file that cannot be read is named on stderr, and the exit status is 1. UserError when none can be read, and for
    options that contradict each other.
    """
    sources = [*args.files, *([MICROPHONE] if args.mic else [])]
    if not sources:
        raise UserError("there is nothing to transcribe: name audio files, or - for standard input, or give --mic.")
    results = _exported(args, sources) if is_exported(args.model) else _trained(args)
    failed = 0
    for source in sources:
        try:
            for result in results(source):
                _print(source, result, args.json)
        except BrokenPipeError:  # nobody reads any more, which is no fault of the file
            raise
        except (UserError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    if failed == len(sources):
        raise UserError(f"none of the {failed} files could be transcribed (reasons above).")
    if failed:
        sys.exit(1)


def _print(source: Path, result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        line = json.dumps({"file": str(source), **result}, ensure_ascii=False)
    elif "partial" in result:
        line = f"{source}\t... {result['end']:.2f}\t{result['partial']}"
    elif "start" in result:
        line = f"{source}\t{result['start']:.2f}-{result['end']:.2f}\t{result['text']}"
    else:
        line = f"{source}\t{result['text']}"
    print(line, flush=True)


def _trained(args: argparse.Namespace) -> Results:
    """Files through a run folder or model.pt, in PyTorch."""
    folder = args.model if args.model.is_dir() else args.model.parent
    if any(folder.glob("*.onnx")):
        raise UserError(
            f"--model {args.model} is no exported folder: give the whole folder that steps/export.py wrote, with its "
            f"{SETTINGS_FILE}."
        )
    given = ["-"] if STDIN in args.files else []
    given += [f"--{name}" for name in ("mic", "partial", "int8", "lean", "endpoint") if getattr(args, name)]
    if given:
        raise UserError(
            f"{given[0]} needs an exported folder, which {args.model} is not: run steps/export.py and give its export/."
        )
    if args.streaming and args.beam is not None:
        raise UserError(f"--beam {args.beam} does not go with --streaming, which searches greedily: leave one out.")
    from residualformer.decode.settings import decode_settings  # torch, which an exported folder need not wait for
    from residualformer.decode.transcribe import transcribe
    from residualformer.model.checkpoint import load_model
    from residualformer.model.device import find_device

    bundle = load_model(args.model, find_device(args.device))
    overrides = ["decode.kind=greedy"] if args.greedy or args.streaming else []
    if args.beam is not None:
        overrides = ["decode.kind=beam", f"decode.beam={args.beam}"]
    settings = decode_settings(bundle.config, overrides)
    return lambda path: iter([transcribe(bundle, path, settings, args.streaming)])


def _exported(args: argparse.Namespace, sources: list[Path]) -> Results:
    """Files, standard input or the microphone through an exported folder, on onnxruntime."""
    from residualformer.runtime import ENDPOINT_RULES, Recognizer, load_exported
    from residualformer.runtime.audio import file_blocks, microphone_blocks, standard_input_blocks, until_interrupt
    from residualformer.runtime.transcribe import transcribe

    if args.threads < 1 or args.rate is not None and args.rate < 1:
        raise UserError(f"--threads is {args.threads} and --rate {args.rate}; both must be 1 or more.")
    model = load_exported(args.model, args.threads, args.int8, args.lean)
    decode, rate = model.decode, args.rate or model.features.sample_rate_hz
    if args.greedy:
        decode = replace(decode, kind="greedy")
    if args.beam is not None:
        decode = replace(decode, kind="beam", beam=args.beam)

    def has_endpoints(source: Path) -> bool:
        return (source == STDIN or source is MICROPHONE) if args.endpoint is None else args.endpoint

    rules = {False: (), True: ENDPOINT_RULES}
    recognizers = {each: Recognizer(model, decode, rules[each]) for each in set(map(has_endpoints, sources))}

    def results(source: Path) -> Iterator[dict[str, Any]]:
        if source is MICROPHONE:
            blocks = until_interrupt(microphone_blocks(rate))
        else:
            blocks = until_interrupt(standard_input_blocks(rate)) if source == STDIN else file_blocks(source)
        name = "standard input" if source == STDIN else str(source)
        return transcribe(recognizers[has_endpoints(source)], blocks, name, args.partial)

    return results
