"""Training batches from manifests of millions of cuts: time to open, to the first batch, to go on, and memory.

    . ./path.sh && python benchmarks/manifest_scale.py [--cuts 1000000] [--kind manifest shar] [--folder DIR]

The set is synthetic: a block of cuts of 1 to 20 s with texts of 2.5 words a second and one small array each, repeated
(in a manifest as compressed blocks, in Shar as links to one shard). Lines are as long as LibriSpeech's and are parsed
one by one; ids repeat from block to block, which no step of a plan notices. The files are likely to be in the page
cache, so this measures the program, not a disk. Every measurement runs in a process of its own; memory includes torch
and Lhotse, whose own share is printed first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BLOCK = 1000  # cuts in a block, and in a shard
FRAMES, BINS = 4, 80  # of the arrays; they are shorter than the durations say, so that they cost next to no disk


def write_set(folder: Path, count: int, kind: str) -> Path:
    """Write a training set of about `count` cuts and return its manifest or folder of Shar."""
    import numpy as np
    from lhotse import Features, MonoCut, NumpyFilesWriter, SupervisionSegment

    from residualformer.data.shar import write_shar

    rng, words = random.Random(0), "the of and a to in he was that his it had her with as for at is on be".split()
    writer, cuts = NumpyFilesWriter(str(folder / "arrays")), []
    key = writer.write("shared", np.zeros((FRAMES, BINS), np.float16))
    for number in range(BLOCK):
        duration, name = round(rng.uniform(1, 20), 4), f"1272-128104-{number:010d}"
        text = " ".join(rng.choices(words, k=round(2.5 * duration)))
        supervision = SupervisionSegment(name, name, 0.0, duration, text=text, language="English", speaker="1272")
        features = Features(
            "residualformer-fbank", FRAMES, BINS, 0.01, 16000, 0.0, duration, writer.name, str(writer.storage_path),
            key, recording_id=name, channels=0,
        )  # fmt: skip
        custom = {"utterance": name, "speed": 1.0}
        cuts.append(MonoCut(name, 0.0, duration, 0, [supervision], features, custom=custom))
    blocks = count // BLOCK
    if kind == "manifest":
        lines = "".join(json.dumps(cut.to_dict()) + "\n" for cut in cuts)
        packed = gzip.compress(lines.encode(), compresslevel=6)
        path = folder / "cuts_train.jsonl.gz"
        with open(path, "wb") as file:
            for _ in range(blocks):
                file.write(packed)
        return path
    path = folder / "shar"
    write_shar(cuts, path, BLOCK)
    for number in range(1, blocks):
        for name in ("cuts.%06d.jsonl.gz", "features.%06d.tar"):
            os.link(path / (name % 0), path / (name % number))
    return path


def measure(what: str, path: Path, middle: int) -> dict[str, float]:
    """Return seconds and MB (10^6 bytes) of one measurement, in this process."""
    from process_memory import resident_mb

    from residualformer.config.schema import DataConfig, TokenConfig
    from residualformer.data.batches import Position, TrainBatches
    from residualformer.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz '"], TokenConfig("char"))
    data = DataConfig(speeds=[1.0], max_batch_s=300.0, num_buckets=30)
    imported, started = resident_mb(), time.perf_counter()
    source = TrainBatches(path, data, tokenizer)
    result = {"imported_mb": imported, "open_s": time.perf_counter() - started, "open_mb": resident_mb(peak=True)}
    started = time.perf_counter()
    if what == "first":
        next(source.updates(Position(), 1))
        result["first_s"] = time.perf_counter() - started
    elif what == "middle":
        next(source.updates(Position(0, middle), 1))
        result["middle_s"] = time.perf_counter() - started
    else:
        cuts = batches = 0
        for items in source.plan.epoch(0):
            cuts, batches = cuts + len(items), batches + 1
        spent = time.perf_counter() - started
        result |= {"cuts": cuts, "batches": batches, "epoch_s": spent, "cuts_per_s": cuts / spent}
    return result | {"peak_mb": resident_mb(peak=True)}


def in_new_process(what: str, path: Path, middle: int = 0) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, str(path), str(middle)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def report(kind: str, count: int, path: Path) -> None:
    first, epoch = in_new_process("first", path), in_new_process("epoch", path)
    middle = in_new_process("middle", path, int(epoch["batches"]) // 2)
    print(
        f"{kind}, {count:,} cuts: open {first['open_s']:.2f} s, first batch {first['first_s']:.1f} s later, "
        f"{epoch['cuts_per_s']:,.0f} cuts/s planned ({epoch['epoch_s']:.0f} s an epoch of {epoch['batches']:,.0f} "
        f"batches), first batch from the middle {middle['middle_s']:.0f} s; memory {first['imported_mb']:.0f} MB with "
        f"nothing open, {first['open_mb']:.0f} open, {first['peak_mb']:.0f} at the first batch, "
        f"{epoch['peak_mb']:.0f} at most in an epoch",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, nargs="+", default=[1_000_000], metavar="N", help="(default 1,000,000)")
    parser.add_argument("--kind", nargs="+", default=["manifest", "shar"], choices=["manifest", "shar"])
    parser.add_argument("--folder", type=Path, help="for the sets, which are removed (default: a temporary one)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args: Any = parser.parse_args()
    if args.measure:
        what, path, middle = args.measure
        print(json.dumps(measure(what, Path(path), int(middle))))
        return
    for count in args.cuts:
        for kind in args.kind:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                report(kind, count, write_set(Path(folder), count, kind))


if __name__ == "__main__":
    main()
