"""Word errors with language models, and what these know of the text: weights are chosen on dev, errors counted on test.

    . ./path.sh && python benchmarks/language_models.py --model exp/residual --fbank data/fbank \
        --lm ngram=data/lm/ngram.arpa [NAME=FILE ...] [--dev 140] [--test 566] [--jobs 2] --out docs/results/mini

For each language model `lm_weight`, `token_reward` and `ilm_weight` are chosen one after another, each with the others
as they are, by the fewest word errors on the first --dev utterances: the weight, the reward, the weight of the internal
language model, and the weight again. Without a language model the reward alone is chosen, so that its effect is not
taken for a language model's. The test set is searched once with what was chosen, and once with nothing added.
An interrupted command goes on; --job 1/2 and 2/2 share the work, and the command without it then writes the result.
Utterances are encoded once; times are of the processor. Perplexities are of all texts of both sets.
language_models.json and LANGUAGE_MODELS.md are written to --out.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from language_models_text import render

from residualformer.config.schema import DecodeConfig
from residualformer.data.arrays import load_features
from residualformer.data.manifest import read_cuts
from residualformer.data.splits import cuts_file
from residualformer.data.utterance import target_text
from residualformer.decode.corpus import batches
from residualformer.decode.encode import EncodedFrames
from residualformer.decode.fusion import internal_lm, language_model
from residualformer.decode.recognize import encode_batch, search_encoded
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.journal import Journal, share
from residualformer.lm.loading import load_language_model
from residualformer.lm.perplexity import perplexity
from residualformer.lm.text import count_words
from residualformer.metrics.bootstrap import rate
from residualformer.metrics.wer import ErrorCounts, count_errors
from residualformer.model.checkpoint import Bundle, fingerprint, load_model
from residualformer.parallel import worker_map
from residualformer.provenance import provenance
from residualformer.workflow.options import OptionParser

NONE, INTERNAL = "none", "internal"


@dataclass(frozen=True)
class EncodedSet:
    """A set of utterances: encoded batches with their references, seconds of audio, and of the processor to encode."""

    batches: list[tuple[EncodedFrames, list[str]]]
    audio_s: float
    encode_s: float

    @property
    def references(self) -> list[str]:
        """The references in the order of the batches."""
        return [text for _, texts in self.batches for text in texts]


@dataclass(frozen=True)
class Found:
    """The errors of a search, and the seconds of the processor that it took."""

    counts: ErrorCounts
    search_s: float


@dataclass(frozen=True)
class Job:
    """The measurement of one language model, None for none, in whatever process it is called."""

    args: argparse.Namespace
    name: str
    path: Path | None

    def __call__(self) -> dict[str, Any]:
        """Return the JSON values of a row, with the errors of each utterance."""
        torch.set_num_threads(1)
        args, bundle, started = self.args, loaded(self.args.model), time.monotonic()
        dev = encoded(args.model, args.fbank, "dev", args.dev)
        chosen, tried = self.choose(bundle, dev)
        test = encoded(args.model, args.fbank, args.split, args.test)
        found = searched(bundle, test, chosen)
        row: dict[str, Any] = {"lm": self.name}
        row |= {"lm_weight": chosen.lm_weight, "token_reward": chosen.token_reward, "ilm_weight": chosen.ilm_weight}
        row |= {"dev_wer": min(each["wer"] for each in tried), "tried": tried, "test": as_lists(found.counts)}
        row["rtf"] = (test.encode_s + found.search_s) / test.audio_s
        if self.path is not None:
            row |= {split: self.perplexities(bundle, split) for split in ("dev_perplexity", "test_perplexity")}
            row["bytes"] = self.path.stat().st_size
        return row | {"wall_s": round(time.monotonic() - started)}

    def perplexities(self, bundle: Bundle, key: str) -> dict[str, float]:
        """Return the perplexities of the texts of a whole split."""
        assert self.path is not None
        model = load_language_model(self.path, bundle.tokenizer.pieces)
        split = "dev" if key.startswith("dev") else self.args.split
        return measured(model, bundle, texts(self.args.fbank, split, bundle))

    def choose(self, bundle: Bundle, dev: EncodedSet) -> tuple[DecodeConfig, list[dict[str, float]]]:
        """Return the settings with the fewest word errors on dev, and all that were tried."""
        args = self.args
        decode = plain(bundle, args.beam)
        steps: list[tuple[str, Sequence[float]]] = [("token_reward", [0.0, *args.rewards])]
        if self.path is not None:
            decode = replace(decode, lm=str(self.path))
            steps = [("lm_weight", args.weights), *steps, ("ilm_weight", args.ilm_weights), ("lm_weight", args.weights)]
        best, wers = decode, dict[DecodeKey, float]()
        for key, values in steps:
            ways = [replace(best, **{key: value}) for value in values]
            for way in ways:
                if key_of(way) not in wers:
                    wers[key_of(way)] = searched(bundle, dev, way).counts.rate
                    print(f"{self.name}: {key_of(way)}: {wers[key_of(way)]:.2f}%", flush=True)
            best = min([*([best] if key_of(best) in wers else []), *ways], key=lambda way: wers[key_of(way)])
        names = ("lm_weight", "token_reward", "ilm_weight")
        return best, [dict(zip(names, key, strict=True)) | {"wer": round(wer, 3)} for key, wer in wers.items()]


DecodeKey = tuple[float, float, float]


def key_of(decode: DecodeConfig) -> DecodeKey:
    """Return what is chosen."""
    return decode.lm_weight, decode.token_reward, decode.ilm_weight


def plain(bundle: Bundle, beam: int) -> DecodeConfig:
    """Return the model's search without a language model."""
    return replace(bundle.config.decode, kind="beam", beam=beam, nbest=1, lm=None, ilm_weight=0.0, token_reward=0.0)


@cache
def loaded(model: Path) -> Bundle:
    """Return the model, read once in a process."""
    return load_model(model)


@cache
@torch.no_grad()
def encoded(model: Path, fbank: Path, split: str, limit: int) -> EncodedSet:
    """Encode the first utterances of a split."""
    bundle, started = loaded(model), 0.0
    cuts = list(read_cuts(cuts_file(fbank, split), stage=2))[:limit]
    found, encode_s = [], 0.0
    for group in batches(cuts, bundle.config.decode.max_batch_s):
        features = [load_features(cut) for cut in group]
        started = time.process_time()
        frames = encode_batch(bundle.model, features)
        encode_s += time.process_time() - started
        found.append((frames, [target_text(cut, bundle.config.tokens.target) or "" for cut in group]))
    return EncodedSet(found, sum(cut.duration for cut in cuts), encode_s)


def searched(bundle: Bundle, encoded_set: EncodedSet, decode: DecodeConfig) -> Found:
    """Search a set; return errors and time."""
    context = language_model(bundle, decode)  # read before the time counts
    hypotheses: list[str] = []
    started = time.process_time()
    for frames, references in encoded_set.batches:
        scorers = [context.scorer() for _ in references] if context else ()
        results = search_encoded(bundle.model, decode, frames, scorers)
        hypotheses += [bundle.tokenizer.decode(each.nbest[0].tokens) for each in results]
    return Found(count_errors(encoded_set.references, hypotheses), time.process_time() - started)


def texts(fbank: Path, split: str, bundle: Bundle) -> list[str]:
    """Return the references of a split."""
    cuts = read_cuts(cuts_file(fbank, split), stage=2)
    return [target_text(cut, bundle.config.tokens.target) or "" for cut in cuts]


def measured(model: Any, bundle: Bundle, sentences: Sequence[str]) -> dict[str, float]:
    """Return the perplexities of a language model, a `Context`."""
    found = perplexity(model, [bundle.tokenizer.encode(each) for each in sentences], count_words(sentences))
    return {"token": round(found.per_token, 4), "word": round(found.per_word, 3)}


def as_lists(counts: ErrorCounts) -> dict[str, list[int]]:
    """Return the counts of each utterance as JSON values."""
    return {name: getattr(counts, name).tolist() for name in ("insertions", "deletions", "substitutions", "lengths")}


def run_job(job: Job) -> dict[str, Any]:
    """Call a job: workers take functions of a module."""
    return job()


def plain_row(args: argparse.Namespace) -> dict[str, Any]:
    """Return the row of the search with nothing added, and the perplexities of the internal language model."""
    bundle, started = loaded(args.model), time.monotonic()
    decode = plain(bundle, args.beam)
    test = encoded(args.model, args.fbank, args.split, args.test)
    found = searched(bundle, test, decode)
    row = {
        "lm": NONE,
        "dev_wer": searched(bundle, encoded(args.model, args.fbank, "dev", args.dev), decode).counts.rate,
    }
    row |= {"test": as_lists(found.counts), "rtf": (test.encode_s + found.search_s) / test.audio_s}
    return row | {"wall_s": round(time.monotonic() - started)}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with scores and paired comparisons in the place of the counts of each utterance."""
    measures = []
    for row in rows:
        counts = row.pop("test")
        errors = [sum(each) for each in zip(counts["insertions"], counts["deletions"], counts["substitutions"])]
        measures.append(rate(*(torch.tensor(part).numpy() for part in (errors, counts["lengths"]))))
        score, gap = measures[-1].rounded(), measures[-1].gap(measures[0])
        row["wer"] = [score.value, score.low, score.high]
        row |= {kind: sum(counts[kind]) for kind in ("insertions", "deletions", "substitutions")}
        row["words"] = sum(counts["lengths"])
        row["gap"] = [gap.relative, gap.relative_low, gap.relative_high]
        row["p"] = gap.p_value
    return rows


def main() -> None:
    args = parse_args()
    named = dict(_name(given) for given in args.lm)
    if len(named) < len(args.lm) or {NONE, INTERNAL} & named.keys():
        raise UserError("two language models have the same name, or one of ours: name them, as in --lm a=FILE b=FILE.")
    torch.set_num_threads(1)
    jobs = [Job(args, f"{NONE}, reward", None), *(Job(args, name, path) for name, path in named.items())]
    bundle = loaded(args.model)
    journal = Journal(args.out, work(args, bundle, named), args.job)
    with worker_map(args.jobs) as map_:
        rows = list(journal.run(map_, run_job, jobs))
    if args.job:
        print(f"job {args.job} has measured {len(rows)} of {len(jobs)}; what it found is kept in {args.out}")
        return
    rows = [plain_row(args), *rows]
    own = internal_lm(bundle.model)
    texts_of = {"dev": "dev", "test": args.split}
    found = {
        **provenance(),
        "wall_s": sum(row["wall_s"] for row in rows),
        "model": str(args.model.name),
        "split": args.split,
        "beam": args.beam,
        "dev": sum(len(each) for _, each in encoded(args.model, args.fbank, "dev", args.dev).batches),
        "test": sum(len(each) for _, each in encoded(args.model, args.fbank, args.split, args.test).batches),
        "internal": {key: measured(own, bundle, texts(args.fbank, split, bundle)) for key, split in texts_of.items()},
        "rows": compared(rows),
    }
    text = render(found)
    print(text)
    write_json(args.out / "language_models.json", found)
    write_text(args.out / "LANGUAGE_MODELS.md", text)
    journal.remove()


def work(args: argparse.Namespace, bundle: Bundle, named: Mapping[str, Path]) -> dict[str, Any]:
    """Return all that decides what is measured."""
    names = ("weights", "rewards", "ilm_weights", "dev", "split", "test", "beam")
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items()}
    chosen = {name: getattr(args, name) for name in names}
    return {**chosen, "fbank": str(args.fbank), "files": files, "weights_of": fingerprint(bundle.model.state_dict())}


def _name(given: str) -> tuple[str, Path]:
    """Return name and path of a language model: `NAME=PATH`, or a path whose file names it."""
    name, _, path = given.rpartition("=")
    return name or Path(path).name.partition(".")[0], Path(path)


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run folder")
    add("--fbank", type=Path, required=True, help="folder of cuts_dev and cuts_<split> with features (stage 2)")
    add("--split", default="test", metavar="SET", help="test set (test)")
    add("--lm", nargs="+", required=True, metavar="[NAME=]FILE", help="language models")
    add("--weights", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5], help="values of lm_weight")
    add("--rewards", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="values of token_reward, beside 0")
    add("--ilm-weights", type=float, nargs="+", default=[0.0, 0.1, 0.2], help="values of ilm_weight")
    add("--dev", type=int, default=140, metavar="N", help="utterances to choose by")
    add("--test", type=int, default=100_000, metavar="N", help="utterances to count errors of (default: all)")
    add("--beam", type=int, default=16)
    add("--jobs", type=int, default=1, metavar="N", help="processes, one thread each")
    add("--job", type=share, metavar="I/N", help="measure only the part of job I of N")
    add("--out", type=Path, required=True, help="folder for language_models.json and LANGUAGE_MODELS.md")
    args = parser.parse_args()
    for option in ("dev", "test", "beam", "jobs"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} is {getattr(args, option)}; give 1 or more.")
    return args


if __name__ == "__main__":
    run_main(main)
