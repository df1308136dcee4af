"""Stage 2: filterbank features of all cuts, speed copies of the training set, global mean and variance.

Reads MANIFESTS/cuts_<split>.jsonl.gz; train must be there. Writes under OUT: cuts_<split>.jsonl.gz with features (train
at every speed of data.speeds), arrays/, cmvn.json (mean and std over the training set) and features.json (the
definition of the features).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut
from tqdm import tqdm

from residualformer.config.loading import load_config
from residualformer.config.schema import Config
from residualformer.data.extract import Extracted, extract_features, with_speeds
from residualformer.data.fbank import fbank_options
from residualformer.data.feature_backends import BACKENDS, get_backend
from residualformer.data.splits import cuts_file, cuts_files
from residualformer.data.validate import read_cuts
from residualformer.errors import UserError, run_main
from residualformer.files import replacing, write_json
from residualformer.parallel import worker_map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the cuts (stage 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--config", type=Path, required=True, help="experiment YAML: sections features and data")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a config value")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default %(default)s)")
    names = ", ".join([*BACKENDS, "auto"])
    parser.add_argument("--backend", default="knf", help=f"who computes them: {names} (default %(default)s)")
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; give 1 or more.")

    config = load_config(args.config, args.set)
    fbank_options(config.features)  # refuse an impossible definition before any work
    backend = get_backend(args.backend, config.features).backend
    cuts = read_splits(args.manifests)
    forget(args.out)
    start = time.time()
    with worker_map(args.jobs, prepare=partial(torch.set_num_threads, 1)) as map_:
        done = {split: compute_split(split, cuts[split], config, args.out, map_, backend) for split in cuts}
    write_json(args.out / "features.json", asdict(config.features))
    write_json(args.out / "cmvn.json", done["train"].sums.cmvn())
    for split, extracted in done.items():
        with replacing(cuts_file(args.out, split)) as path:
            CutSet.from_cuts(extracted.cuts).to_file(path)
    hours = sum(cut.duration for extracted in done.values() for cut in extracted.cuts) / 3600
    counts = ", ".join(f"{split} {len(extracted.cuts)}" for split, extracted in done.items())
    skipped = sum(len(extracted.skipped) for extracted in done.values())
    print(
        f"features: {counts} utterances ({hours:.2f} h, train at speeds {config.data.speeds}), {skipped} skipped, "
        f"{time.time() - start:.0f} s by {backend} -> {args.out}"
    )


def read_splits(manifests: Path) -> dict[str, list[MonoCut]]:
    """The cuts of every split that stage 1 has written, train first."""
    splits = dict.fromkeys(["train", *cuts_files(manifests)])
    return {split: list(read_cuts(cuts_file(manifests, split), stage=1)) for split in splits}


def forget(out: Path) -> None:
    """Remove the results of an earlier run: no later stage may trust cuts whose arrays are being replaced."""
    for path in [*cuts_files(out).values(), out / "cmvn.json", out / "features.json"]:
        path.unlink(missing_ok=True)
    shutil.rmtree(out / "arrays", ignore_errors=True)


def compute_split(
    split: str, cuts: list[MonoCut], config: Config, out: Path, map_: Callable, backend: str
) -> Extracted:
    """Features of one split, with a progress bar; the utterances that were skipped are named on stderr."""
    copies = with_speeds(cuts, config.data.speeds if split == "train" else [1.0])
    # Half precision halves the reading in training, and its error (at most 0.004) is far below any noise; the others
    # keep every bit, so that what they score is what a deployed model sees.
    dtype = np.float16 if split == "train" else np.float32
    total = Extracted()
    with tqdm(total=len(copies), desc=f"fbank {split}", unit="utt", file=sys.stderr) as progress:
        arrays = (out / "arrays" / split).resolve()
        for part in extract_features(copies, config.features, arrays, map_, dtype, backend):
            total.add(part)
            progress.update(len(part.cuts) + len(part.skipped))
    for name in total.skipped:
        print(f"skipped {name}", file=sys.stderr)
    if not total.cuts:
        raise UserError(f"no utterance of {split} gave features ({len(total.skipped)} skipped): see the names above.")
    return total


if __name__ == "__main__":
    run_main(main)
