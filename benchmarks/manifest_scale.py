"""Training batches from manifests of millions of cuts: time to open, to the first batch, to go on, and memory.

    . ./path.sh && python benchmarks/manifest_scale.py [--cuts 1000000] [--kind manifest shar] [--folder DIR]

The set is synthetic: a block of cuts of 1 to 20 s with texts of 2.5 words a second and one small array each, repeated
(in a manifest as compressed blocks, in Shar as links to one shard). A line has 780 bytes (mini's have 1,100) and is
parsed each time; ids repeat from block to block, which no step of a plan notices. The files are likely to be in the
page cache, so this measures the program, not a disk. Every measurement runs in a process of its own; memory includes
torch and Lhotse, whose own share is printed first.
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

from residualformer.errors import run_main
from residualformer.workflow.options import OptionParser

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
    imported, watch = resident_mb(), Watch()
    source = TrainBatches(path, data, tokenizer)
    values = watch.read("open") | {"imported_mb": imported, "open_mb": resident_mb(peak=True)}
    if what == "epoch":
        cuts = batches = 0
        for (items,) in source.plan.epoch(0):
            cuts, batches = cuts + len(items), batches + 1
        values |= {"cuts": cuts, "batches": batches}
    else:
        next(source.updates(Position(0, middle), 1))
    return values | watch.read(what) | {"peak_mb": resident_mb(peak=True)}


class Watch:
    """Seconds since the last reading, by the clock and of the processor."""

    def __init__(self) -> None:
        self.last = time.perf_counter(), time.process_time()

    def read(self, name: str) -> dict[str, float]:
        now = time.perf_counter(), time.process_time()
        spent = {f"{name}_s": now[0] - self.last[0], f"{name}_cpu_s": now[1] - self.last[1]}
        self.last = now
        return spent


def in_new_process(what: str, path: Path, middle: int = 0) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, str(path), str(middle)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def report(kind: str, count: int, path: Path, whole: bool) -> None:
    """Measure one set and print what comes out, line by line."""

    def seconds(name: str, values: dict[str, float]) -> str:
        return f"{values[f'{name}_s']:.2f} s ({values[f'{name}_cpu_s']:.2f} s of processor time)"

    first = in_new_process("first", path)
    print(
        f"{kind}, {count:,} cuts: open in {seconds('open', first)}, first batch {seconds('first', first)} later; "
        f"memory {first['imported_mb']:.0f} MB before, {first['open_mb']:.0f} open, "
        f"{first['peak_mb']:.0f} at the first batch",
        flush=True,
    )
    if not whole:
        return
    epoch = in_new_process("epoch", path)
    print(
        f"  an epoch of {epoch['batches']:,.0f} batches planned in {seconds('epoch', epoch)}, "
        f"{epoch['cuts'] / epoch['epoch_s']:,.0f} cuts/s ({epoch['cuts'] / epoch['epoch_cpu_s']:,.0f} of processor "
        f"time); memory {epoch['peak_mb']:.0f} MB at most",
        flush=True,
    )
    middle = in_new_process("middle", path, int(epoch["batches"]) // 2)
    print(f"  first batch from the middle in {seconds('middle', middle)}", flush=True)


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--cuts", type=int, nargs="+", default=[1_000_000], metavar="N", help="(default 1,000,000)")
    parser.add_argument("--kind", nargs="+", default=["manifest", "shar"], choices=["manifest", "shar"])
    parser.add_argument("--start-only", action="store_true", help="only open the sets and make the first batch")
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
                report(kind, count, write_set(Path(folder), count, kind), not args.start_only)


if __name__ == "__main__":
    run_main(main)
