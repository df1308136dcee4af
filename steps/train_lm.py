"""Stage 3, where lm.kind says so: a language model of text alone, for the search by decode.lm.

Writes OUT/ngram.arpa or OUT/lstm.onnx, and OUT/lm.json with its perplexities on the texts of the dev set. It is trained
on the texts of the training set, the files of lm.text, a sentence a line in the form of the transcripts, or both. An
interrupted training of an LSTM goes on after its last epoch.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from residualformer.config.language_model import LanguageModelConfig
from residualformer.config.loading import load_config
from residualformer.data.manifest import read_cuts
from residualformer.data.splits import cuts_file
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.utterance import target_text
from residualformer.errors import UserError, run_main
from residualformer.files import replacing, write_json
from residualformer.lm.arpa import write_arpa
from residualformer.lm.estimate import estimate
from residualformer.lm.loading import load_language_model
from residualformer.lm.perplexity import perplexity
from residualformer.lm.text import count_words, describe, read_sentences, unknown_share
from residualformer.provenance import provenance
from residualformer.workflow.options import OptionParser

log = logging.getLogger("residualformer")


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(args.config, args.set)
    tokenizer = Tokenizer.load(args.lang / "tokenizer.json")
    if config.lm.kind == "none":
        raise UserError("lm.kind is 'none', so there is no language model to train: take ngram or lstm.")
    train = texts(args.manifests, "train", config.tokens.target) if config.lm.transcripts else []
    train += [line for path in config.lm.text for line in read_sentences(Path(path))]
    dev = texts(args.manifests, "dev", config.tokens.target)
    if not dev:
        raise UserError(f"{cuts_file(args.manifests, 'dev')} has no {config.tokens.target} to measure a model on.")
    if config.lm.kind == "ngram":
        path = train_ngram(train, tokenizer, config.lm, args.out)
    else:
        path = train_lstm(train, dev, tokenizer, config.lm, config.train.seed, args.out)
    labels = [tokenizer.encode(text) for text in dev]
    measured = perplexity(load_language_model(path, tokenizer.pieces), labels, count_words(dev))
    result = {"file": path.name, "sentences": len(train), "words": count_words(train), "config": asdict(config.lm)}
    figures = {"per_token": round(measured.per_token, 4), "per_word": round(measured.per_word, 4)}
    write_json(args.out / "lm.json", {**result, "dev_perplexity": figures, **provenance()})
    print(f"language model: {config.lm.kind} of {len(train)} sentences, {count_words(train)} words -> {path}")
    print(f"dev: {describe(measured, unknown_share(tokenizer, labels))}")


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the cuts (stage 1)")
    parser.add_argument("--lang", type=Path, required=True, help="folder of tokenizer.json (stage 3)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the language model")
    parser.add_argument("--config", type=Path, required=True, help="experiment YAML: sections lm and tokens")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a config value")
    return parser.parse_args()


def texts(manifests: Path, split: str, target: str) -> list[str]:
    """Return the texts of a split that are not empty."""
    found = (target_text(cut, target) for cut in read_cuts(cuts_file(manifests, split), stage=1))
    return [text for text in found if text]


def train_ngram(train: list[str], tokenizer: Tokenizer, config: LanguageModelConfig, out: Path) -> Path:
    """Estimate n-grams of tokens or words and write OUT/ngram.arpa."""
    if config.unit == "word":
        sentences, vocabulary = [text.split() for text in train], None
    else:
        sentences = [[tokenizer.pieces[label] for label in tokenizer.encode(text)] for text in train]
        vocabulary = tokenizer.pieces[1:]  # without the blank
    model = estimate(sentences, config.order, vocabulary, config.min_count)
    path = out / "ngram.arpa"
    write_arpa(path, model)
    counts = [last - first for first, last in zip(model.ends, model.ends[1:], strict=False)]
    log.info("n-grams of 1, 2, ... %ss: %s", config.unit, " ".join(map(str, counts)))
    return path


def train_lstm(
    train: list[str], dev: list[str], tokenizer: Tokenizer, config: LanguageModelConfig, seed: int, out: Path
) -> Path:
    """Train an LSTM over tokens and write OUT/lstm.onnx."""
    from residualformer.export.language_model import language_model_graph  # torch takes seconds
    from residualformer.train.language_model import train_language_model

    labels = [[tokenizer.encode(text) for text in each] for each in (train, dev)]
    state = out / "state.safetensors"
    model = train_language_model(*labels, tokenizer.vocab_size, config, seed, state)
    path = out / "lstm.onnx"
    with replacing(path) as temporary:
        temporary.write_bytes(language_model_graph(model, tokenizer.pieces).SerializeToString())
    state.unlink()
    return path


if __name__ == "__main__":
    run_main(main)
