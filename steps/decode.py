"""Stage 7: decode a set of cuts and write the transcripts, with n-best lists and timed words, to hyp.jsonl and hyp.ctm.

Each record also holds the transducer loss of its reference. The real-time factor is that of one process and leaves the
time of that loss out. An exported folder hears the audio as a stream, without that loss; its results belong to the run
that it was exported from, so that stage 8 scores them beside those of the run. Interrupted, the same command goes on.
Several machines share the work if each does a part, such as --job 2/8; after them, the command without --job does what
is left and writes hyp.jsonl. With --loops fewer layers are run than the model has; with --branches the frames of an
AmNet go through branches that its arbitrator did not choose.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lhotse.cut import Cut

import residualformer
from residualformer.config.schema import Config, DecodeConfig
from residualformer.constants import MODEL_FILE
from residualformer.context.options import add_context_options, context_of
from residualformer.context.scorer import Context, joint, training_order
from residualformer.data.splits import cuts_file, split_of
from residualformer.decode.calibrate import ensure_calibrated
from residualformer.decode.control import Control, add_control_options, control_of, plan_branches
from residualformer.decode.corpus import (
    Outcome,
    batches,
    check_references,
    gather,
    read_cuts_with_features,
)
from residualformer.decode.fusion import language_model
from residualformer.decode.jobs import BatchDecoder, decoding_processes, loaded
from residualformer.decode.settings import decode_settings, search_name, settings_for
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.journal import Journal, share
from residualformer.library.corpus import ExportedDecoder, loaded_export, read_cuts_with_audio
from residualformer.model.checkpoint import fingerprint
from residualformer.model.device import add_device_option
from residualformer.provenance import provenance
from residualformer.runtime.recognizer import Recognizer
from residualformer.runtime.settings import is_exported, read_settings
from residualformer.words.formats import ctm_lines, words_of
from residualformer.workflow.options import OptionParser, positive_whole_number


class Task(NamedTuple):
    """What is decoded, by what and how.

    Attributes:
        context: what the options describe.
        whole: that and the language model of the settings.
        control: who chooses the branches in the arbitrator's place.
        branches: what it did, as plain values.
        identity: all of the model that decides the result.
        decoder: maps a batch of cuts to the plain values of an `Outcome`.
        source: what it reads of a cut.
        mode: suffix of the output's name.
        run: the run folder that the output belongs to.
    """

    cuts: list[Cut]
    target: str
    settings: DecodeConfig
    context: Context | None
    whole: Context | None
    control: Control | None
    branches: dict[str, Any] | None
    identity: dict[str, Any]
    decoder: Callable[[Sequence[Cut]], dict[str, Any]]
    source: Literal["features", "audio"]
    streaming: bool
    device: str
    mode: str
    run: Path


def main() -> None:
    args = parse_args()
    task = exported_task(args) if is_exported(args.model) else trained_task(args)
    cuts, settings = task.cuts, task.settings
    out = args.out or task.run / folder_name(args, task)
    journal = Journal(out, work(args, task), args.job)
    groups = batches(cuts, settings.max_batch_s)
    started = time.monotonic()
    with decoding_processes(args.jobs) as map_:
        if args.job:
            check_references(cuts, task.target)
            finished = sum(1 for _ in journal.run(map_, task.decoder, groups))
            print(f"decode: job {args.job} has decoded {finished} batches; they are kept in {out}")
            return
        outcomes = (Outcome(**result) for result in journal.run(map_, task.decoder, groups))
        outcome = gather(cuts, task.target, outcomes, task.source)
    wall_s = time.monotonic() - started
    audio_s = sum(record["duration"] for record in outcome.records)
    summary = {
        "cuts": str(args.cuts),
        "target": task.target,
        "search": search_name(settings),
        "streaming": task.streaming,
        "device": task.device,
        "settings": asdict(settings),
        **({"context": task.whole.describe()} if task.whole else {}),
        **({"branches": task.branches} if task.branches else {}),
        **({"loops": args.loops} if args.loops else {}),
        "utterances": len(outcome.records),
        "skipped": outcome.skipped,
        "audio_s": round(audio_s, 2),
        "jobs": args.jobs,
        "wall_s": round(wall_s, 2),
        "rtf": round(outcome.search_s / max(audio_s, 1e-9), 4),
        **provenance(),
    }
    write_json(out / "decode.json", summary)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in outcome.records)
    write_text(out / "hyp.jsonl", "".join(lines))
    if task.target == "text":
        write_text(out / "hyp.ctm", "".join(ctm_lines(each["id"], words_of(each)) for each in outcome.records))
    journal.remove()
    print(
        f"decode: {len(outcome.records)} utterances, {audio_s:.0f} s of audio in {wall_s:.1f} s "
        f"(real-time factor {summary['rtf']}), {len(outcome.skipped)} skipped -> {out / 'hyp.jsonl'}"
    )


def trained_task(args: argparse.Namespace) -> Task:
    """Return the decoding by a run folder or a model file, which reads features."""
    for name in ("int8", "lean"):
        if getattr(args, name):
            raise UserError(f"--{name} needs an exported folder, which {args.model} is not: give RUN/export.")
    bundle = loaded(args.model, args.device, args.loops)
    settings = settings_for(decode_settings(bundle.config, args.set, args.config), split_of(args.cuts))
    cuts = read_cuts_with_features(args.cuts, bundle.config.features)[: args.limit]
    if args.loops is None:  # of lower depths the confidences are those of the full one
        ensure_calibrated(bundle, args.model, settings, cuts_file(args.cuts.parent, "dev"))
    context = context_of(args, bundle.tokenizer.pieces, settings)
    control = control_of(args, args.model, bundle)
    planned = plan_branches(bundle, control, cuts, settings.max_batch_s) if control else None
    plan, told = planned or (None, None)
    return Task(
        cuts=cuts,
        target=bundle.config.tokens.target,
        settings=settings,
        context=context,
        whole=joint([context, language_model(bundle, settings)]),
        control=control,
        branches=told,
        identity={"weights": fingerprint(bundle.model.state_dict()), "calibration": asdict(bundle.calibration)},
        decoder=BatchDecoder(args.model, args.device, settings, args.streaming, context, plan, args.loops),
        source="features",
        streaming=args.streaming,
        device=bundle.device.type,
        mode=("_streaming" if args.streaming else "") + (f"_loops{args.loops}" if args.loops else ""),
        run=args.model if args.model.is_dir() else args.model.parent,
    )


def exported_task(args: argparse.Namespace) -> Task:
    """Return the decoding by an exported folder, which hears the audio as a stream."""
    if args.device.startswith("cuda"):
        raise UserError(f"--device {args.device}: an exported folder runs on the CPU; leave it out.")
    for name in ("branches", "slow_share", "branch_seed", "oracle", "loops"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: an exported folder asks its arbitrator and has one depth; give the run.")
    folder = args.model.resolve()
    model, exported = loaded_export(folder, args.int8, args.lean), read_settings(folder)
    config = replace(Config(), decode=model.decode)
    settings = settings_for(decode_settings(config, args.set, args.config), split_of(args.cuts))
    context = context_of(args, training_order(model.pieces, model.blank), settings)
    files = ("_int8" if args.int8 else "") + ("_lean" if args.lean else "")
    return Task(
        cuts=read_cuts_with_audio(args.cuts)[: args.limit],
        target=model.target,
        settings=settings,
        context=context,
        whole=Recognizer(model, settings).with_language_model(context),
        control=None,
        branches=None,
        identity={"exported": asdict(exported), "files": files},
        decoder=ExportedDecoder(folder, args.int8, args.lean, settings, context),
        source="audio",
        streaming=True,
        device="cpu",
        mode=f"_exported{files}{depth_mark(folder)}",
        run=folder.parent if (folder.parent / MODEL_FILE).is_file() else folder,
    )


def depth_mark(folder: Path) -> str:
    """Return what distinguishes the results of an export at a lower depth, as `steps/export.py` names its folder."""
    match = re.fullmatch(r"export(_loops\d+)", folder.name)
    return match[1] if match else ""


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("model", type=Path, help="a run folder, its model.safetensors, or an exported folder")
    parser.add_argument(
        "--cuts",
        type=Path,
        required=True,
        help="cuts_<split>.jsonl.gz with features (stage 2), for an exported folder with audio (stage 1 or 2)",
    )
    parser.add_argument("--out", type=Path, help="output folder (default: RUN/decode_<split>_<search>[_exported])")
    parser.add_argument("--int8", action="store_true", help="the int8 files of an exported folder")
    parser.add_argument("--lean", action="store_true", help="the lean runner of an exported folder")
    parser.add_argument("--config", type=Path, help="experiment whose section decode to take (default: the model's)")
    parser.add_argument("--set", action="append", default=[], metavar="decode.KEY=VALUE", help="override a setting")
    parser.add_argument("--streaming", action="store_true", help="encode chunk by chunk, not by the masked full pass")
    parser.add_argument("--limit", type=int, help="decode only the first so many utterances")
    parser.add_argument("--jobs", type=positive_whole_number, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--job", type=share, metavar="I/N", help="do only the part of job I of N")
    parser.add_argument(
        "--loops", type=positive_whole_number, metavar="N", help="run the first N layers of each group (docs/depth.md)"
    )
    add_device_option(parser)
    add_context_options(parser)
    add_control_options(parser)
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: give 1 or more")
    return args


def work(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Return all that decides what is decoded, and with what result."""
    return {
        "cuts": hashlib.sha256(args.cuts.read_bytes()).hexdigest(),
        "limit": args.limit,
        **task.identity,
        "settings": asdict(task.settings),
        **({"context": task.whole.describe()} if task.whole else {}),
        **({"branches": task.branches} if task.branches else {}),
        "streaming": task.streaming,
        "device": task.device,
        "version": residualformer.__version__,
    }


def folder_name(args: argparse.Namespace, task: Task) -> str:
    """Return decode_<split>_<search>, with suffixes for mode, kinds of context, a part of the split, and a control."""
    part = f"_first{args.limit}" if args.limit else ""
    added = "".join(f"_{kind}" for kind in task.context.describe()) if task.context else ""
    control = f"_{task.control.name}" if task.control else ""
    return f"decode_{split_of(args.cuts)}_{search_name(task.settings)}{task.mode}{added}{part}{control}"


if __name__ == "__main__":
    run_main(main)
