"""Measure confidences and delays of a model on a development set, and write calibration.json beside the model.

Stage 7 does this by itself; use this step for another set, or with true times of words, as of a forced aligner.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from residualformer.decode.calibrate import UTTERANCES, calibrate
from residualformer.decode.corpus import read_cuts_with_features
from residualformer.decode.settings import decode_settings
from residualformer.decode.words import has_words
from residualformer.errors import UserError, run_main
from residualformer.model.checkpoint import load_model
from residualformer.model.device import add_device_option, find_device
from residualformer.words.calibration import CALIBRATION_FILE, save_calibration
from residualformer.words.formats import read_ctm
from residualformer.workflow.options import OptionParser, positive_whole_number


def main() -> None:
    args = parse_args()
    bundle = load_model(args.model, find_device(args.device))
    if not has_words(bundle):
        raise UserError(f"{args.model} translates, so that its words have no times: give a model that transcribes.")
    cuts = read_cuts_with_features(args.cuts, bundle.config.features)[: args.limit]
    times = None if args.times is None else read_ctm(args.times)
    found = calibrate(bundle, decode_settings(bundle.config, args.set, args.config), cuts, times)
    out = (args.model if args.model.is_dir() else args.model.parent) / CALIBRATION_FILE
    save_calibration(out, found)
    print(
        f"calibrate: words are written {1000 * found.start_delay_s:.0f} ms after their start, to "
        f"{1000 * found.end_delay_s:.0f} ms after their end; measured on {found.measured_on} words -> {out}"
    )


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("model", type=Path, metavar="RUN_OR_MODEL", help="a run folder, or its model.safetensors")
    parser.add_argument("--cuts", type=Path, required=True, help="cuts with features and text, such as those of dev")
    parser.add_argument(
        "--times", type=Path, metavar="CTM", help="true times of words (default: by the speech's energy)"
    )
    parser.add_argument("--config", type=Path, help="experiment whose section decode to take (default: the model's)")
    parser.add_argument("--set", action="append", default=[], metavar="decode.KEY=VALUE", help="override a setting")
    parser.add_argument(
        "--limit", type=positive_whole_number, default=UTTERANCES, metavar="N", help="utterances (default %(default)s)"
    )
    add_device_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
