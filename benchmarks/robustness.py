"""Word error rates at other levels, over telephone lines, across pauses and in continuous speech.

    . ./path.sh && python benchmarks/robustness.py --model exp/residual [exp/other/export NAME=exp/third ...] \
        --test data/manifests/cuts_test.jsonl.gz [--utterances 100] [--pairs 50] [--minutes 5] [--groups level pause] \
        [--restart 2 4] [--set decode.kind=greedy] [--out docs/results/mini]

Models are run folders, which are searched in batches, or exported ones, which stream through the runtime, with and
without endpoints. All hear the same audio. Every condition is compared with the same utterances as they are, one by
one: the ratio of the word error rates is paired. Of pairs it is also counted how often the first word of the second
utterance is lost, among those where it is right when the utterance stands alone. `--restart` tries
`decode.restart_s`, after which the predictor starts afresh, on joined utterances. With `--out`, robustness.json and
ROBUSTNESS.md are written there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from robustness_cases import CLEAN, GOALS, GROUPS, PAUSE, Case, cases, read_test_set
from robustness_text import render

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.data.fbank import compute_fbank
from residualformer.decode.recognize import recognize
from residualformer.decode.settings import decode_settings, search_name
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.metrics.bootstrap import rate
from residualformer.metrics.wer import count_errors
from residualformer.model.checkpoint import load_model
from residualformer.provenance import provenance
from residualformer.runtime import ENDPOINT_RULES, Recognizer, load_exported
from residualformer.runtime.settings import is_exported
from residualformer.workflow.options import OptionParser

STREAMS = 16  # of an exported model, decoded together
ENDPOINTS = "endpoints"


@dataclass(frozen=True)
class Model:
    """What turns audio, a list of samples (S,), into texts, with some settings of the search, and maybe endpoints."""

    features: FeatureConfig
    decode: DecodeConfig
    texts: Callable[[Sequence[np.ndarray], DecodeConfig, bool], list[str]]
    has_endpoints: bool

    def variants(self, case: Case, restarts: Sequence[float]) -> list[tuple[str, DecodeConfig, bool]]:
        """Return name, settings and use of endpoints of the ways in which a case is searched."""
        found = [("", self.decode, False)]
        if case.is_joined:
            found += [(f"restart {s:g} s", replace(self.decode, restart_s=s), False) for s in restarts]
            found += [(ENDPOINTS, self.decode, True)] if self.has_endpoints else []
        return found


def open_model(path: Path, overrides: Sequence[str]) -> Model:
    """Load a run folder or an exported folder, whose search `overrides` like 'decode.beam=4' change."""
    if is_exported(path):
        return _exported(path, overrides)
    bundle = load_model(path)
    settings = decode_settings(bundle.config, overrides)

    def texts(audio: Sequence[np.ndarray], decode: DecodeConfig, endpoints: bool) -> list[str]:
        found = [""] * len(audio)
        for batch in _batches([len(x) / bundle.config.features.sample_rate_hz for x in audio], decode.max_batch_s):
            features = [compute_fbank(audio[n], bundle.config.features) for n in batch]
            for n, result in zip(batch, recognize(bundle.model, decode, features), strict=True):
                found[n] = bundle.tokenizer.decode(result.nbest[0].tokens)
        return found

    return Model(bundle.config.features, settings, texts, has_endpoints=False)


def _exported(path: Path, overrides: Sequence[str]) -> Model:
    from residualformer.config.loading import config_from_dict, config_to_dict
    from residualformer.config.schema import Config

    model = load_exported(path)
    whole = config_to_dict(replace(Config(), decode=model.decode))
    settings = config_from_dict(whole, str(path), overrides).decode if overrides else model.decode

    def texts(audio: Sequence[np.ndarray], decode: DecodeConfig, endpoints: bool) -> list[str]:
        recognizer = Recognizer(model, decode, ENDPOINT_RULES if endpoints else ())
        found = [""] * len(audio)
        order = sorted(range(len(audio)), key=lambda n: len(audio[n]))
        for start in range(0, len(order), STREAMS):
            streams = {n: recognizer.create_stream() for n in order[start : start + STREAMS]}
            for n, stream in streams.items():
                stream.accept_waveform(audio[n])
                stream.finish()
            recognizer.decode(list(streams.values()))
            for n, stream in streams.items():
                found[n] = " ".join(segment.text for segment in stream.pop_segments())
        return found

    return Model(model.features, settings, texts, has_endpoints=True)


def _batches(seconds: Sequence[float], most_s: float) -> list[list[int]]:
    """Group numbers of similar length, padding included at most `most_s` long, or a single one."""
    groups: list[list[int]] = []
    for n in sorted(range(len(seconds)), key=lambda n: -seconds[n]):
        if groups and (len(groups[-1]) + 1) * seconds[groups[-1][0]] <= most_s:
            groups[-1].append(n)
        else:
            groups.append([n])
    return groups


def keeps_word(reference: str, hypothesis: str, index: int) -> bool:
    """Return whether the word number `index` of `reference` is right in a minimal alignment with `hypothesis`."""
    chunks = jiwer.process_words(reference, hypothesis).alignments[0]
    return any(c.type == "equal" and c.ref_start_idx <= index < c.ref_end_idx for c in chunks)


def measure(
    model: Model, name: str, all_cases: Sequence[Case], texts: Sequence[str], restarts: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yield a row, JSON values, for each condition and way to search it."""
    alone: list[str] = []
    for case in all_cases:
        for variant, decode, endpoints in model.variants(case, restarts):
            heard = model.texts(case.audio, decode, endpoints)
            alone = alone or heard  # the first case is the utterances as they are
            yield {"model": name, **row(case, variant, heard, alone, texts)}


def row(case: Case, variant: str, heard: list[str], alone: list[str], texts: Sequence[str]) -> dict[str, Any]:
    """Score a case, `heard`, against what was `alone` understood of each of its utterances."""
    said = [" ".join(texts[n] for n in numbers) for numbers in case.members]
    counts = count_errors(said, heard)
    single = count_errors(texts, alone)
    clean = np.array([single.errors[list(numbers)].sum() for numbers in case.members])
    gap = rate(counts.errors, counts.lengths).gap(rate(clean, counts.lengths))
    values: dict[str, Any] = {"group": case.group, "condition": case.name, "variant": variant}
    values |= {"wer": round(counts.rate, 2), "words": int(counts.lengths.sum()), "units": len(said)}
    values |= {"goal": GOALS.get(case.group), "wer_alone": round(100 * clean.sum() / counts.lengths.sum(), 2)}
    for key, percent in (("", gap.relative), ("_low", gap.relative_low), ("_high", gap.relative_high)):
        values[f"ratio{key}"] = None if percent is None else round(1 + percent / 100, 3)
    if case.group == PAUSE:
        known = [i for i, (_, second) in enumerate(case.members) if keeps_word(texts[second], alone[second], 0)]
        place = [len(texts[first].split()) for first, _ in case.members]
        values["lost"] = sum(not keeps_word(said[i], heard[i], place[i]) for i in known)
        values["lost_of"] = len(known)
    return values


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    named = dict(_name(given) for given in args.model)
    if len(named) < len(args.model):
        raise UserError(
            "two models have the same name: name them, as in --model before=exp/a/export after=exp/b/export."
        )
    models = {name: open_model(path, args.overrides) for name, path in named.items()}
    rates = {model.features.sample_rate_hz for model in models.values()}
    if len(rates) > 1:
        raise UserError(f"the models want audio at {sorted(rates)} Hz; compare those of one rate.")
    rate_hz = rates.pop()
    utterances = read_test_set(args.test, rate_hz, args.utterances, np.random.default_rng(args.seed))
    all_cases = list(cases(utterances, rate_hz, args.groups, args.pairs, args.minutes, args.pause_db))
    texts = [each.text for each in utterances]
    rows = []
    for name, model in models.items():
        for each in measure(model, name, all_cases, texts, args.restart):
            lost = f", first word lost {each['lost']} of {each['lost_of']}" if "lost" in each else ""
            ratio = "" if each["ratio"] is None or each["group"] == CLEAN else f" ({each['ratio']:.2f})"
            label = " ".join(filter(None, (each["group"], each["condition"], each["variant"])))
            print(f"{name}: {label}: {each['wer']:.1f}%{ratio}{lost}", flush=True)
            rows.append(each)
    found = {
        **provenance(),
        "test": args.test.name,
        "utterances": len(utterances),
        "pairs": max((len(case.members) for case in all_cases if case.group == PAUSE), default=0),
        "minutes": max((len(case.members) for case in all_cases if case.group == GROUPS[-1]), default=0),
        "seed": args.seed,
        "pause_db": args.pause_db,
        "models": {
            name: {"what": "exported" if model.has_endpoints else "run folder", "search": search_name(model.decode)}
            for name, model in models.items()
        },
        "rows": rows,
    }
    if args.out:
        write_json(args.out / "robustness.json", found)
        write_text(args.out / "ROBUSTNESS.md", render(found))


def _name(given: str) -> tuple[str, Path]:
    """Return name and path of a model: `NAME=PATH`, or a path whose run folder names it."""
    name, _, path = given.rpartition("=")
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"--model {given}: {folder} does not exist; give a run folder or an exported folder.")
    parts = [part for part in folder.resolve().parts if part not in ("export", "model.safetensors")]
    return name or parts[-1], folder


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--model", nargs="+", required=True, metavar="[NAME=]PATH", help="run or exported folders")
    parser.add_argument("--test", type=Path, required=True, help="cuts, or lines FILE<tab>TEXT in a .tsv or .txt")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--restart", nargs="*", type=float, default=[], metavar="S", help="values of decode.restart_s")
    parser.add_argument("--pause-db", type=float, metavar="DB", help="white noise in pauses (default: digital silence)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of the search: decode.beam=4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, help="folder for robustness.json and ROBUSTNESS.md")
    args = parser.parse_args()
    for option in ("utterances", "pairs", "minutes"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} is {getattr(args, option)}; give 1 or more.")
    return args


if __name__ == "__main__":
    run_main(main)
