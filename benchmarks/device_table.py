"""The cost of models on a device: file size, load time, peak memory, real-time factor on one thread; in one run.

    . ./path.sh && python benchmarks/device_table.py [--config conf/paper_asr.yaml] [--models K=1 K=3 K=3,R=2 K=3,R=16]
        [--seconds 10] [--json FILE]

Models have random weights (size and speed do not depend on them) and the shape of `--config`, with layers shared by K
and residuals of rank R with a diagonal. Each is exported in fp32 and int8, factored and, if it has residuals, merged;
each row is a process of its own that imports no torch and streams noise in pieces of 100 ms, greedily. `lean` is the
memory-lean runner. Memory is the whole process, Python and libraries included; times are processor time. Rows take
turns `--rounds` times, and the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from process_memory import resident_mb

from residualformer.errors import UserError, run_main
from residualformer.files import write_json
from residualformer.workflow.options import OptionParser

if TYPE_CHECKING:
    from residualformer.config.schema import Config
    from residualformer.model.checkpoint import Bundle

RATE, PIECE = 16000, 1600
COLUMNS = {"encoder_mb": 1, "files_mb": 1, "load_s": 2, "peak_mb": 0, "rtf": 3}  # and how many decimals
MODELS = ["K=1", "K=3", "K=3,R=2", "K=3,R=16"]


def random_bundle(config: Config) -> Bundle:
    """A model with random weights, and as many tokens as `config` has."""
    import torch

    from residualformer.data.tokenizer import Tokenizer
    from residualformer.model.checkpoint import Bundle
    from residualformer.nn.transducer import build_model

    torch.manual_seed(1)
    pieces = ["<blk>", "<unk>", *(chr(0x4E00 + index) for index in range(config.tokens.vocab_size - 2))]
    bundle = Bundle(build_model(config, len(pieces)).eval(), config, Tokenizer(pieces), {})
    with torch.no_grad():
        bundle.model.encoder.mean.fill_(-8)  # of log power, or the network is saturated
        bundle.model.encoder.std.fill_(3)
        bundle.model.joiner.vocabulary.bias[0] += 3  # writes now and then
    return bundle


def export(name: str, args: argparse.Namespace, out: Path) -> None:
    """Write a random model of the name `K=...[,R=...]` as folders `out`/factored and, if it has residuals, `merged`."""
    from residualformer.config.loading import load_config
    from residualformer.config.schema import ResidualConfig
    from residualformer.export.folder import choose_contract, encoder_graph, write_folder

    try:
        numbers = {key: int(value) for key, value in (part.split("=") for part in name.split(","))}
        sharing, rank = numbers.pop("K"), numbers.pop("R", 0)
    except (ValueError, KeyError):
        raise UserError(f"--models {name}: write K=3 or K=3,R=2.") from None
    config = load_config(args.config)
    encoder = replace(config.encoder, sharing=sharing, residual=ResidualConfig(rank, rank > 0))
    bundle = random_bundle(replace(config, encoder=encoder))
    for weights in ("factored", "merged") if rank else ("factored",):
        (out / weights).mkdir(parents=True)
        contract = choose_contract(bundle.config)(bundle.model, encoder_graph(bundle.model, weights == "merged"))
        write_folder(out / weights, name, bundle, contract, weights, int8=True)


def work(folder: Path, int8: bool, lean: bool, seconds: float) -> dict[str, float]:
    """Measure one row of the table in this process."""
    from residualformer.runtime import Recognizer, load_exported

    before, start = resident_mb(), time.process_time()
    model = load_exported(folder, int8=int8, lean=lean)
    recognizer = Recognizer(model, replace(model.decode, kind="greedy"))
    loading = time.process_time() - start
    stream, rng = recognizer.create_stream(), np.random.default_rng(1)
    pieces = [rng.normal(0, 0.05, PIECE).astype(np.float32) for _ in range(round(seconds * RATE / PIECE))]
    for piece in pieces[:10]:  # warm-up
        stream.accept_waveform(piece)
        recognizer.decode([stream])
    start = time.process_time()
    for piece in pieces:
        stream.accept_waveform(piece)
        recognizer.decode([stream])
    rtf = (time.process_time() - start) / seconds
    return {"python_mb": before, "load_s": loading, "peak_mb": resident_mb(peak=True), "rtf": rtf}


def measured(folder: Path, int8: bool, lean: bool, seconds: float) -> dict[str, float]:
    """`work` in a process of its own."""
    command = [sys.executable, __file__, "--work", json.dumps([str(folder), int8, lean, seconds])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"{folder} does not run: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def table(args: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """All rows, measured in turns."""
    rows = []
    for number, name in enumerate(args.models):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--export", name, str(root / str(number))], check=True)
        for folder in sorted((root / str(number)).iterdir()):
            for lean in (False, True):
                for int8 in (False, True):
                    row = {"model": name, "weights": folder.name, "type": "int8" if int8 else "fp32"}
                    rows.append(row | {"runner": "lean" if lean else "onnxruntime", "folder": folder})
    for row in rows:
        ending = ".int8.onnx" if row["type"] == "int8" else ".onnx"
        sizes = [(row["folder"] / f"{part}{ending}").stat().st_size / 1e6 for part in ("encoder", "decoder", "joiner")]
        row |= {"encoder_mb": sizes[0], "files_mb": sum(sizes)}
    found = [
        [measured(row["folder"], row["type"] == "int8", row["runner"] == "lean", args.seconds) for row in rows]
        for _ in range(args.rounds)
    ]
    for row, results in zip(rows, zip(*found, strict=True), strict=True):
        del row["folder"]
        row |= {key: statistics.median(result[key] for result in results) for key in results[0]}
    return rows


def main() -> None:
    args = parse_args()
    if args.work:
        folder, *rest = json.loads(args.work)
        print(json.dumps(work(Path(folder), *rest)))
    elif args.export:
        export(args.export[0], args, Path(args.export[1]))
    else:
        with tempfile.TemporaryDirectory() as root:
            rows = table(args, Path(root))
        print("| model | weights | precision | runner | encoder MB | all MB | load s | peak MB | RTF |")
        print("|---|---|---|---|---:|---:|---:|---:|---:|")
        for row in rows:
            cells = [f"{row[key]:.{digits}f}" for key, digits in COLUMNS.items()]
            print(f"| {row['model']} | {row['weights']} | {row['type']} | {row['runner']} | {' | '.join(cells)} |")
        print(f"\nPython with its libraries, before a model is loaded: {rows[0]['python_mb']:.0f} MB")
        if args.json:
            write_json(args.json, {"rows": rows, "seconds": args.seconds, "config": str(args.config)})


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--config", type=Path, default=Path("conf/paper_asr.yaml"))
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="K=..,R=..")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio in a row")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
