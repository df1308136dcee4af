"""Stage 3: learn the output units from the training texts (or translations). Writes OUT/tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from residualformer.config.loading import load_config
from residualformer.data.manifest import read_cuts
from residualformer.data.splits import cuts_file
from residualformer.data.tokenizer import Tokenizer, train_tokenizer
from residualformer.data.utterance import target_text
from residualformer.errors import run_main
from residualformer.model.checkpoint import read_run
from residualformer.workflow.options import OptionParser


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the cuts (stage 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json")
    parser.add_argument("--config", type=Path, required=True, help="experiment YAML: section tokens")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a config value")
    source = "run folder or model file whose tokens are taken, if they suffice for the text"
    parser.add_argument("--start-from", type=Path, metavar="RUN", help=source)
    args = parser.parse_args()

    config = load_config(args.config, args.set).tokens
    cuts = read_cuts(cuts_file(args.manifests, "train"), stage=1)
    texts = [target_text(cut, config.target) for cut in cuts]
    tokenizer = tokens_of(args.start_from, texts) if args.start_from else None
    tokenizer = tokenizer or train_tokenizer(texts, config)
    tokenizer.save(args.out / "tokenizer.json")
    lengths = [len(tokenizer.encode(text)) for text in texts]
    print(
        f"tokens: {tokenizer.kind}, {tokenizer.vocab_size} ids ({tokenizer.fingerprint}) from {len(texts)} "
        f"{config.target}s, {sum(lengths) / len(lengths):.1f} tokens each -> {args.out / 'tokenizer.json'}"
    )


def tokens_of(run: Path, texts: list[str]) -> Tokenizer | None:
    """Return the tokens of a trained model, None after a message if they lack a character of `texts`."""
    tokenizer = read_run(run).tokenizer
    unknown = tokenizer.unknown_characters(texts)
    if unknown:
        print(f"tokens: those of {run} lack {' '.join(unknown[:20])}; new ones are learned, and share what fits")
    return None if unknown else tokenizer


if __name__ == "__main__":
    run_main(main)
