"""Adapt a trained model to another corpus in several ways of equal updates, and to single speakers of its test set.

    python benchmarks/adaptation.py RUN --data egs/an4_own/data --config conf/an4_own/adapt.yaml --out DIR

RUN is a run folder; DATA holds fbank/ and lang/ of the other corpus. Ways: from random weights; all weights; predictor
and joiner alone (the encoder frozen); residuals and norms alone; of residuals D alone. The model of --base-way is then
adapted to each of --speakers N speakers in the two last ways, with half of their test utterances, and measured on the
other half. A way that OUT already holds is not trained again. `--report DIR` writes ADAPTATION.md and adaptation.json.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from published import Publication

from residualformer.config.schema import Config
from residualformer.constants import MODEL_FILE
from residualformer.data.arrays import load_features
from residualformer.data.batches import EvalBatches
from residualformer.data.splits import cuts_file
from residualformer.decode.corpus import batches, read_cuts_with_features
from residualformer.decode.recognize import recognize
from residualformer.errors import run_main
from residualformer.metrics.bootstrap import NO_GAP, Gap, Measure, Score, rate
from residualformer.metrics.wer import count_errors
from residualformer.model.adapter import write_adapter
from residualformer.model.checkpoint import load_model, read_run
from residualformer.report.format import NOTHING, markdown_table, show_ends, show_score
from residualformer.train.phases import build_phases
from residualformer.train.ranks import Ranks
from residualformer.train.validation import validate
from residualformer.workflow.options import OptionParser
from residualformer.workflow.start_from import architecture

REST = ["predictor.*", "joiner.*", "training_only.*"]
RESIDUALS = ["encoder.subsampling.*", "encoder.bank.*", *REST]
SMALL = {"residuals, norms": RESIDUALS, "D, norms": [*RESIDUALS, "*.A", "*.B"]}
WAYS = {"random weights": [], "all weights": [], "encoder frozen": ["encoder.*"], **SMALL}


def main() -> None:
    args = parse_arguments()
    publication = Publication(args.report, "adaptation", "adaptation.py")
    test = cuts_file(args.data / "fbank", "test")
    base = Measured.of(args.run, test)
    found = {"nothing": {"numbers": 0, "adapter": "", **base.values()}}
    everything: Measured | None = None
    for way, freeze in WAYS.items():
        run = args.out / folder_name(way)
        train(args, args.data, run, None if way == "random weights" else args.run, freeze, args.updates)
        measured = Measured.of(run, test)
        everything = measured if way == "all weights" else everything
        gap = measured.rate.gap(everything.rate) if everything and everything is not measured else NO_GAP
        adapter = adapter_kb(args.run, run)
        found[way] = {"numbers": learned(run, freeze), "adapter": adapter, **measured.values(), "gap": asdict(gap)}
        print(f"{way}: {measured.rate.value:.1f}%", flush=True)
    speakers = {way: adapt_speakers(args, way) for way in SMALL if args.speakers}
    about = (
        f"Base: {load_model(args.run).config.description}, `{args.run.name}`; {args.updates} updates of each way, "
        f"seed 1; {len(base.rate.parts[0])} utterances of the test set, greedy search. In brackets: 95% intervals of "
        "the paired bootstrap over utterances. *Encoder frozen* learns about as many numbers as *residuals, norms*."
    )
    body = [about, "", *table_of_ways(found)]
    for way, each in speakers.items():
        body += table_of_speakers(args, way, each)
    publication.write("Adaptation", body, {"about": about, "ways": found, "speakers": speakers})


def folder_name(way: str) -> str:
    return way.replace(",", "").replace(" ", "_")


@dataclass(frozen=True)
class Measured:
    """A model on a set of cuts: word errors of greedy search, and nats per token."""

    rate: Measure
    nats: float

    @classmethod
    @torch.no_grad()
    def of(cls, run: Path, cuts: Path) -> Measured:
        """Measure the model of a run folder."""
        bundle = load_model(run)
        config: Config = bundle.config
        loss = validate(
            build_phases(config, bundle.model),
            EvalBatches(cuts, config.data.max_batch_s, bundle.tokenizer, config.tokens.target),
            bundle.tokenizer,
            0,
            Ranks(),
        )
        references, hypotheses = [], []
        for batch in batches(read_cuts_with_features(cuts, config.features), config.decode.max_batch_s):
            heard = recognize(bundle.model, replace(config.decode, kind="greedy"), list(map(load_features, batch)))
            references += [cut.supervisions[0].text for cut in batch]
            hypotheses += [bundle.tokenizer.decode(each.nbest[0].tokens) for each in heard]
        counts = count_errors(references, hypotheses)
        return cls(rate(counts.errors, counts.lengths), loss["transducer_per_token"])

    def values(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"wer": asdict(self.rate.rounded()), "nats": round(self.nats, 4)}


def table_of_ways(found: dict[str, Any]) -> list[str]:
    """Return the ways as a Markdown table."""
    header = ["learned", "numbers", "adapter", "WER % [95%]", "vs all weights", "p", "nats/token"]
    rows = []
    for way, each in found.items():
        gap = Gap(**each["gap"]) if "gap" in each else NO_GAP
        cells = [way, f"{each['numbers']:,}", each["adapter"], show_score(Score(**each["wer"])), *show_gap(gap)]
        rows.append([*cells, f"{each['nats']:.3f}"])
    return markdown_table(header, rows)


def table_of_speakers(args: argparse.Namespace, way: str, found: dict[str, Any]) -> list[str]:
    """Return what speakers gain from what learns in a way, as a Markdown section."""
    header = ["speaker", "utterances", "base, WER %", "adapted, WER %", "vs base", "p", "base, nats/token", "adapted"]
    rows = []
    for speaker, each in found.items():
        scores = (show_score(Score(**each[name]["wer"])) for name in ("base", "adapted"))
        nats = (f"{each[name]['nats']:.3f}" for name in ("base", "adapted"))
        rows.append([speaker, str(each["utterances"]), *scores, *show_gap(Gap(**each["gap"])), *nats, each["adapter"]])
    text = (
        f"The model of *{args.base_way}*, adapted to single speakers of the test set by {args.speaker_updates} updates "
        f"of {way.replace(', ', ' and ')} on half of their utterances, measured on the other half."
    )
    return ["", f"## Speakers: {way}", "", text, "", *markdown_table([*header, "adapter"], rows)]


def show_gap(gap: Gap) -> list[str]:
    """Return a relative difference with its interval, and its p."""
    if gap.relative is None:
        return [NOTHING, NOTHING]
    return [f"{gap.relative:+.1f}% {show_ends(gap.relative_low, gap.relative_high)}", f"{gap.p_value:.3f}"]


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, help="run folder of the base")
    parser.add_argument("--data", type=Path, required=True, help="folder with fbank/ and lang/ of the other corpus")
    parser.add_argument("--config", type=Path, required=True, help="experiment, whose train.freeze is replaced")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--updates", type=int, default=300, help="of each way (%(default)s)")
    parser.add_argument("--speakers", type=int, default=0, help="of the test set, to be adapted to (%(default)s)")
    parser.add_argument("--speaker-updates", type=int, default=40, help="for each (%(default)s)")
    parser.add_argument("--base-way", choices=WAYS, default="all weights", help="base of speakers (%(default)s)")
    parser.add_argument("--nproc", type=int, default=1, help="processes of each training (%(default)s)")
    parser.add_argument("--report", type=Path, help="folder for ADAPTATION.md and adaptation.json")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="other values; repeatable")
    return parser.parse_args()


def train(
    args: argparse.Namespace,
    data: Path,
    run: Path,
    source: Path | None,
    freeze: list[str],
    updates: int,
    further: Sequence[str] = (),
) -> None:
    """Train in `run`, unless its model is there."""
    if (run / MODEL_FILE).is_file():
        return
    every = max(updates // 4, 1)
    sets = [*architecture(args.run), f"train.freeze={freeze}", f"train.max_steps={updates}"]
    sets += [f"train.valid_every_steps={every}", f"train.save_every_steps={max(every // 2, 1)}", *args.set, *further]
    command = [sys.executable, "steps/train.py", "--config", str(args.config), "--data", str(data), "--exp", str(run)]
    command += ["--nproc", str(args.nproc), *(["--warm-start", str(source)] if source else [])]
    command += [word for each in sets for word in ("--set", each)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{run}: {done.stderr.splitlines()[-1]}")


def learned(run: Path, freeze: list[str]) -> int:
    """Return how many numbers of a model are not frozen by these patterns."""
    named = load_model(run).model.named_parameters()
    return sum(p.numel() for name, p in named if not any(fnmatchcase(name, pattern) for pattern in freeze))


def adapter_kb(base: Path, run: Path) -> str:
    """Write the adapter of a run and return its size; nothing if the run writes other tokens."""
    source, adapted = read_run(base), read_run(run)
    if source.tokenizer.fingerprint != adapted.tokenizer.fingerprint:
        return "other tokens"
    write_adapter(run / "adapter", source, adapted)
    return f"{(run / 'adapter').stat().st_size / 1000:.0f} kB"


def adapt_speakers(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Adapt a model to speakers in a way; return what each gains, and all together."""
    base = args.out / folder_name(args.base_way)
    found: dict[str, Any] = {}
    cuts = CutSet.from_file(cuts_file(args.data / "fbank", "test")).to_eager()
    counts = Counter(cut.supervisions[0].speaker for cut in cuts)
    measured: dict[str, list[Measured]] = {"base": [], "adapted": []}
    for speaker, count in counts.most_common(args.speakers):
        data = args.out / f"speaker_{speaker}" / "data"
        speaker_data(args.data, data, [cut for cut in cuts if cut.supervisions[0].speaker == speaker])
        run, held_out = data.parent / folder_name(way), cuts_file(data / "fbank", "test")
        train(args, data, run, base, SMALL[way], args.speaker_updates, ["data.speeds=[1.0]"])
        for name, model in (("base", base), ("adapted", run)):
            measured[name].append(Measured.of(model, held_out))
        found[str(speaker)] = both(count, *(each[-1] for each in measured.values())) | {
            "adapter": adapter_kb(base, run)
        }
    together = [pooled(each) for each in measured.values()]
    return {**found, "together": both(sum(each["utterances"] for each in found.values()), *together) | {"adapter": ""}}


def pooled(parts: Sequence[Measured]) -> Measured:
    """Return the measures over all utterances of several sets; nats are the mean over sets."""
    errors, lengths = np.concatenate([each.rate.parts[0] for each in parts]).T
    return Measured(rate(errors, lengths), float(np.mean([each.nats for each in parts])))


def both(utterances: int, base: Measured, adapted: Measured) -> dict[str, Any]:
    """Return JSON values of a model before and after its adaptation."""
    gap = asdict(adapted.rate.gap(base.rate))
    return {"utterances": utterances, "base": base.values(), "adapted": adapted.values(), "gap": gap}


def speaker_data(data: Path, out: Path, cuts: list[Any]) -> None:
    """Write data of one speaker: every other utterance to train (and validate), the others to test."""
    (out / "fbank").mkdir(parents=True, exist_ok=True)
    for file in (data / "fbank").glob("*.json"):
        shutil.copy(file, out / "fbank")
    shutil.copytree(data / "lang", out / "lang", dirs_exist_ok=True)
    for name, part in (("train", cuts[::2]), ("dev", cuts[::2]), ("test", cuts[1::2])):
        CutSet.from_cuts(part).to_file(cuts_file(out / "fbank", name))


if __name__ == "__main__":
    run_main(main)
