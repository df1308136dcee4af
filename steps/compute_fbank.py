"""Stage 2: filterbank features of all cuts, speed copies of the training set, global mean and variance.

Reads MANIFESTS/cuts_<split>.jsonl.gz; train must be there. Writes under OUT: cuts_<split>.jsonl.gz with features (train
at every speed of data.speeds), arrays/, cmvn.json (mean and std over the training set) and features.json (the
definition of the features). With data.shard_size the training set becomes a folder of Lhotse Shar, shar_train/.
"""

from __future__ import annotations

import time
from pathlib import Path

from residualformer.config.loading import load_config
from residualformer.data.extract import compute_corpus_features
from residualformer.data.fbank import fbank_options
from residualformer.data.feature_backends import BACKENDS, get_backend
from residualformer.errors import UserError, run_main
from residualformer.workflow.options import OptionParser


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the cuts (stage 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--config", type=Path, required=True, help="experiment YAML: sections features and data")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a config value")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default %(default)s)")
    names = ", ".join([*BACKENDS, "auto"])
    parser.add_argument("--backend", default="knf", help=f"library that computes them: {names} (default %(default)s)")
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; give 1 or more.")

    config = load_config(args.config, args.set)
    fbank_options(config.features)  # refuse an impossible definition before any work
    backend = get_backend(args.backend, config.features).backend
    start = time.time()
    results = compute_corpus_features(args.manifests, args.out, config, args.jobs, backend)
    hours = sum(cut.duration for result in results.values() for cut in result.cuts) / 3600
    counts = ", ".join(f"{split} {len(result.cuts)}" for split, result in results.items())
    skipped = sum(len(result.skipped) for result in results.values())
    print(
        f"features: {counts} utterances ({hours:.2f} h, train at speeds {config.data.speeds}), {skipped} skipped, "
        f"{time.time() - start:.0f} s by {backend} -> {args.out}"
    )


if __name__ == "__main__":
    run_main(main)
