"""How far the confidences of a model's words can be trusted: calibration, reliability, and what rejecting words gains.

For each search: the expected calibration error (ECE) without and with the model's calibration, the area under the
ROC curve of right against wrong words, and the error rates when the least certain tenth of the words is rejected. A
table, its numbers and a reliability picture are written as CONFIDENCE.md and confidence.{json,png}.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from published import Publication

from residualformer.decode.calibrate import SEARCHES, Observed, observe
from residualformer.decode.corpus import read_cuts_with_features
from residualformer.errors import UserError, run_main
from residualformer.files import replacing
from residualformer.model.checkpoint import load_model
from residualformer.words.calibration import UNCALIBRATED
from residualformer.words.confidence import Logistic, calibration_error, reliability
from residualformer.workflow.options import OptionParser

matplotlib.use("Agg")
import matplotlib.pyplot as plt

REJECTED = 0.1


def main() -> None:
    args = parse_args()
    publication = Publication(args.out, "confidence", "confidence.py")
    bundle = load_model(args.model)
    if bundle.calibration == UNCALIBRATED:
        raise UserError(f"{args.model} is not calibrated: run steps/calibrate.py first.")
    cuts = read_cuts_with_features(args.cuts, bundle.config.features)[: args.limit]
    results: dict[str, Any] = {}
    for kind in SEARCHES:
        seen = observe(bundle, replace(bundle.config.decode, kind=kind), cuts)
        results[kind] = measure(seen, UNCALIBRATED.of(kind).words, bundle.calibration.of(kind).words)
    summary = {"model": bundle.config.description, "cuts": str(args.cuts), "utterances": len(cuts)}
    body = [
        f"`{bundle.config.description}`, {len(cuts)} utterances of `{args.cuts.name}`; calibrated on dev. ECE: "
        "expected calibration error; AUC: the chance that a right word has a higher confidence than a wrong one.",
        "",
        *table(results),
        "",
        "![reliability](confidence.png)",
    ]
    publication.write("Confidence of words", body, {**summary, **results})
    picture(results, args.out / "confidence.png")


def measure(seen: Observed, plain: Logistic, calibrated: Logistic) -> dict[str, Any]:
    """Return the measures of one search as JSON values; shares are in percent."""
    inputs = np.stack([row for row, _ in seen.words])
    right = np.array([ok for _, ok in seen.words])
    before, after = (
        1 / (1 + np.exp(-inputs @ [each.bias, each.label, each.agreement])) for each in (plain, calibrated)
    )
    order = np.argsort(after, kind="stable")
    rejected = np.zeros(len(right), bool)
    rejected[order[: round(REJECTED * len(right))]] = True
    return {
        "words": len(right),
        "reference_words": seen.reference_words,
        "wrong": percent(~right),
        "wrong_of_kept": percent(~right[~rejected]),
        "wrong_of_rejected": percent(~right[rejected]),
        "ece_plain": round(100 * calibration_error(before, right), 2),
        "ece": round(100 * calibration_error(after, right), 2),
        "auc": round(area(after, right), 4),
        "reliability": [[count, round(c, 4), round(a, 4)] for count, c, a in reliability(after, right)],
        "weights": [calibrated.bias, calibrated.label, calibrated.agreement],
    }


def percent(flags: np.ndarray) -> float:
    """Return the share of true `flags` in percent."""
    return round(100 * float(flags.mean()), 2)


def area(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the chance that a right word has a higher confidence than a wrong one, ties counting half."""
    ordered = np.sort(scores)
    ranks = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right") - 1) / 2
    count = int(right.sum())
    return float((ranks[right].sum() - count * (count - 1) / 2) / max(count * (len(right) - count), 1))


def table(results: dict[str, Any]) -> list[str]:
    """Return the measures as a Markdown table."""
    lines = [
        "| search | words | wrong words | wrong of the surest 90% | wrong of the rest | ECE | ECE uncalibrated | AUC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, each in results.items():
        lines.append(
            f"| {kind} | {each['words']} | {each['wrong']}% | {each['wrong_of_kept']}% | "
            f"{each['wrong_of_rejected']}% | {each['ece']}% | {each['ece_plain']}% | {each['auc']:.3f} |"
        )
    return lines


def picture(results: dict[str, Any], path: Path) -> None:
    """Draw the share of right words over confidence."""
    figure, axes = plt.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="as promised")
    for kind, each in results.items():
        counts, confidences, accuracies = zip(*each["reliability"], strict=True)
        axes.plot(confidences, accuracies, linewidth=1, label=f"{kind}, ECE {each['ece']}%")
        axes.scatter(confidences, accuracies, s=[10 + 200 * count / max(counts) for count in counts], alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share of words that are right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight", format="png")
    plt.close(figure)


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("model", type=Path, metavar="RUN", help="a calibrated run folder")
    parser.add_argument("--cuts", type=Path, required=True, help="cuts with features, not those of the calibration")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first so many utterances")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
