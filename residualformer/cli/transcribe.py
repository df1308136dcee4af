"""`residualformer transcribe`: audio in, text out; with a trained model or, without torch, an exported one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from residualformer.constants import MODEL_FILE
from residualformer.errors import UserError, closest
from residualformer.model.device import add_device_option
from residualformer.runtime.settings import SETTINGS_FILE, is_exported

STDIN, MICROPHONE = Path("-"), Path("microphone")

Results = Callable[[Path], Iterator[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="audio of any rate and number of channels; - standard input"
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="MODEL", help=f"a run folder, a {MODEL_FILE} or an exported folder"
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
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the CPU (default: torch's own number; exported: 1)"
    )
    add_device_option(parser)
    exported = parser.add_argument_group("with an exported folder, which streams without torch")
    exported.add_argument("--int8", action="store_true", help="its int8 files")
    exported.add_argument("--lean", action="store_true", help="the least memory: one group's weights at a time, slower")
    exported.add_argument("--mic", action="store_true", help="the microphone until Ctrl-C (needs sounddevice)")
    exported.add_argument("--partial", action="store_true", help="also the text so far, whenever it changes")
    exported.add_argument(
        "--endpoint",
        action=argparse.BooleanOptionalAction,
        help="a line for each utterance, split at silences (default: for standard input and the microphone)",
    )
    exported.add_argument(
        "--rate",
        type=int,
        metavar="HZ",
        help="rate of the microphone or of raw 16-bit standard input (default: the model's)",
    )


def run(args: argparse.Namespace) -> None:
    """Transcribe `args.files` in their order; print each result as soon as it is known.

    A file that cannot be read is named on stderr, and the exit status is 1.

    Raises:
        UserError: no file can be read, or options contradict each other or the model.
    """
    sources = [*args.files, *([MICROPHONE] if args.mic else [])]
    if not sources:
        raise UserError("there is nothing to transcribe: name audio files, or - for standard input, or give --mic.")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads is {args.threads}; give 1 or more.")
    if not args.model.exists():
        raise UserError(_not_there(args.model))
    results = _exported(args, sources) if is_exported(args.model) else _trained(args)
    failed = 0
    for source in sources:
        try:
            for result in results(source):
                _print(source, result, args.json)
        except BrokenPipeError:  # the reader of the output has exited; the file is not at fault
            raise
        except (UserError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    if failed == len(sources):
        raise UserError("no file could be transcribed (reasons above).")
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


def _not_there(model: Path) -> str:
    """Return the sentence about a path that does not exist, with the closest name where it first goes wrong."""
    missing = model
    while not missing.parent.exists():
        missing = missing.parent
    names = [path.name for path in missing.parent.iterdir()] if missing.parent.is_dir() else []
    where = "" if missing == model else f", because there is no {missing}"
    return f"--model {model} does not exist{where}.{closest(missing.name, names)}"


def _trained(args: argparse.Namespace) -> Results:
    """Load a run folder or model file; return the transcription of a file in PyTorch."""
    _check_trained(args)
    import torch  # which an exported folder does without

    from residualformer.decode.settings import decode_settings
    from residualformer.decode.transcribe import transcribe
    from residualformer.model.checkpoint import load_model
    from residualformer.model.device import find_device

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    bundle = load_model(args.model, find_device(args.device))
    overrides = ["decode.kind=greedy"] if args.greedy or args.streaming else []
    if args.beam is not None:
        overrides = ["decode.kind=beam", f"decode.beam={args.beam}"]
    settings = decode_settings(bundle.config, overrides)
    return lambda path: iter([transcribe(bundle, path, settings, args.streaming)])


def _check_trained(args: argparse.Namespace) -> None:
    """Raise UserError for a path within an exported folder, and for options that only those take."""
    folder = args.model if args.model.is_dir() else args.model.parent
    if any(folder.glob("*.onnx")) and args.model.suffix != ".safetensors":
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
    if args.rate is not None:
        raise UserError(
            f"--rate {args.rate} is the rate of the microphone or of raw standard input, which need an exported "
            "folder; files tell their own rate: leave it out."
        )
    if args.streaming and args.beam is not None:
        raise UserError(f"--beam {args.beam} does not go with --streaming, which searches greedily: leave one out.")


def _exported(args: argparse.Namespace, sources: list[Path]) -> Results:
    """Load an exported folder; return the transcription of a file, standard input or the microphone on onnxruntime."""
    from residualformer.runtime import ENDPOINT_RULES, Recognizer, load_exported
    from residualformer.runtime.audio import file_blocks, microphone_blocks, standard_input_blocks, until_interrupt
    from residualformer.runtime.transcribe import transcribe

    _check_exported(args, any(map(_is_live, sources)))
    model = load_exported(args.model, args.threads or 1, args.int8, args.lean)
    decode, rate = model.decode, args.rate or model.features.sample_rate_hz
    if args.greedy:
        decode = replace(decode, kind="greedy")
    if args.beam is not None:
        decode = replace(decode, kind="beam", beam=args.beam)

    def has_endpoints(source: Path) -> bool:
        return _is_live(source) if args.endpoint is None else args.endpoint

    recognizers = {
        each: Recognizer(model, decode, ENDPOINT_RULES if each else ()) for each in set(map(has_endpoints, sources))
    }

    def results(source: Path) -> Iterator[dict[str, Any]]:
        if source is MICROPHONE:
            blocks = until_interrupt(microphone_blocks(rate))
        else:
            blocks = until_interrupt(standard_input_blocks(rate)) if source == STDIN else file_blocks(source)
        name = "standard input" if source == STDIN else str(source)
        return transcribe(recognizers[has_endpoints(source)], blocks, name, args.partial)

    return results


def _is_live(source: Path) -> bool:
    """Return whether a source is standard input or the microphone, not a file, even one that is named so."""
    return source == STDIN or source is MICROPHONE


def _check_exported(args: argparse.Namespace, live: bool) -> None:
    """Raise UserError for options that an exported folder does not take; `live`: from standard input or microphone."""
    if args.device.startswith("cuda"):
        raise UserError(
            f"--device {args.device}: an exported folder runs on the CPU; leave the option out or give a run folder."
        )
    if args.rate is not None and args.rate < 1:
        raise UserError(f"--rate is {args.rate}; give 1 or more.")
    if args.rate is not None and not live:
        raise UserError(
            f"--rate {args.rate} is the rate of the microphone or of raw standard input; files tell their own: "
            "leave it out, or give - or --mic."
        )
