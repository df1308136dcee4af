"""Stage 9: export a trained run to a folder that sherpa-onnx runs, checked and scored beside PyTorch.

The check is that all programs write the same tokens. The scores are error rates of each precision; a line on stderr
warns of one that loses more than 5%.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

from residualformer.config.schema import Config
from residualformer.decode.settings import decode_settings
from residualformer.errors import run_main
from residualformer.export.audio import dev_cuts, noise, utterances_of_cuts, utterances_of_files
from residualformer.export.card import CARD_FILE, agreement, megabytes, model_card, scores_of
from residualformer.export.check import CheckAudio, check_folder
from residualformer.export.contracts import CONTRACTS
from residualformer.export.folder import WEIGHTS, choose_contract, encoder_graph, replacing_folder, write_folder
from residualformer.export.rates import measure_rates, rate_lines, rate_warnings
from residualformer.files import write_json, write_text
from residualformer.model.adapter import load_adapted
from residualformer.optional import OPTIONAL, is_installed
from residualformer.provenance import provenance
from residualformer.runtime.settings import ModelSettings
from residualformer.workflow.options import OptionParser, positive_whole_number


def main() -> None:
    args = parse_args()
    bundle = load_adapted(args.run, None, loops=args.loops)
    decode = decode_settings(bundle.config, args.set, args.config)
    bundle = replace(bundle, config=replace(bundle.config, decode=decode))
    run = args.run if args.run.is_dir() else args.run.resolve().parent
    out = args.out or run / (f"export_loops{args.loops}" if args.loops else "export")
    kind = choose_contract(bundle.config, args.type)
    checked_on, audio, scored = load_audio(args, run, bundle.config)
    contract = kind(bundle.model, encoder_graph(bundle.model, args.weights == "merged"))
    with replacing_folder(out) as folder:
        settings = write_folder(folder, run.resolve().name, bundle, contract, args.weights, args.int8)
        report = check_folder(folder, settings, bundle, contract, audio)
        rates = measure_rates(folder, settings, bundle, scored)
        found = {**asdict(report), "rates": asdict(rates), "audio": checked_on, **provenance()}
        write_json(folder / "check.json", found)
        scores = scores_of(run, args.loops)
        card = model_card(folder, settings, bundle.config, bundle.info, scores, report, rates, checked_on)
        write_text(folder / CARD_FILE, card)
    if not is_installed("sherpa_onnx"):
        print(f"export: sherpa-onnx took no part in the check; to install it: {OPTIONAL['sherpa_onnx'].install}")
    if report.tokens == 0:
        print("export: no tokens were recognized, so the check shows little; give speech with --check-cuts")
    print(f"export: {agreement(report)}, on {report.size} ({checked_on})")
    for line in rate_lines(rates):
        print(f"export: {line}")
    for warning in rate_warnings(rates):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"export: type {settings.type}, {args.weights}, encoder {sizes(out, settings)} -> {out}")


def load_audio(args: argparse.Namespace, run: Path, config: Config) -> tuple[str, list[CheckAudio], list[CheckAudio]]:
    """Load the given audio, the dev set, or noise; return its description, what to check on, and what to score."""
    rate = config.features.sample_rate_hz
    if args.check_audio:
        return "given files", utterances_of_files(args.check_audio, rate), []
    if args.check_cuts or dev_cuts(run).is_file():
        cuts, target = args.check_cuts or dev_cuts(run), config.tokens.target
        checked, scored = (utterances_of_cuts(cuts, n, rate, target) for n in (args.num_check, args.num_scored))
        return str(cuts), checked, scored
    return "noise, as no development set was found", noise(rate), []


def sizes(out: Path, settings: ModelSettings) -> str:
    """Return the sizes of the encoder's files in words."""
    return ", ".join(f"{megabytes(out / files.encoder)} ({precision})" for precision, files in settings.files.items())


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_OR_MODEL", help="a run folder, or its model.safetensors")
    parser.add_argument("--out", type=Path, help="the folder to write (default: RUN/export[_loopsN])")
    parser.add_argument(
        "--loops", type=positive_whole_number, metavar="N", help="one depth, the first N layers of each group"
    )
    parser.add_argument("--type", metavar="|".join(CONTRACTS), help="kind of model (default: what the model fits)")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=WEIGHTS[0],
        help="factored (default): shared and own parts apart, the smallest file; merged: one matrix for each layer",
    )
    parser.add_argument("--config", type=Path, help="experiment whose section decode to take (default: the model's)")
    parser.add_argument("--set", action="append", default=[], metavar="decode.KEY=VALUE", help="override a setting")
    parser.add_argument("--int8", action="store_true", help="also write files with weights of 8 bits")
    audio = parser.add_mutually_exclusive_group()
    audio.add_argument(
        "--check-cuts", type=Path, metavar="CUTS", help="cuts to check and score on (default: the run's dev set)"
    )
    audio.add_argument("--check-audio", type=Path, nargs="+", metavar="FILE", help="audio files to check on")
    parser.add_argument(
        "--num-check", type=positive_whole_number, default=10, metavar="N", help="cuts to check on (default: 10)"
    )
    parser.add_argument(
        "--num-scored", type=positive_whole_number, default=200, metavar="N", help="cuts to score on (default: 200)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
