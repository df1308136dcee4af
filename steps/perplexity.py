"""Print the perplexities, per token and per word, of language models on text files, a sentence a line."""

from __future__ import annotations

from pathlib import Path

from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import run_main
from residualformer.lm.loading import load_language_model
from residualformer.lm.perplexity import perplexity
from residualformer.lm.text import count_words, describe, read_sentences, unknown_share
from residualformer.workflow.options import OptionParser


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("models", type=Path, nargs="+", metavar="LM", help="an .arpa, .arpa.gz or .onnx file")
    parser.add_argument("--lang", type=Path, required=True, help="folder of tokenizer.json (stage 3)")
    parser.add_argument("--text", type=Path, required=True, action="append", help="text file; may be repeated")
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.lang / "tokenizer.json")
    texts = {path: read_sentences(path) for path in args.text}
    for path in args.models:
        model = load_language_model(path, tokenizer.pieces)
        for text, sentences in texts.items():
            labels = [tokenizer.encode(sentence) for sentence in sentences]
            measured = perplexity(model, labels, count_words(sentences))
            print(f"{path} on {text}: {describe(measured, unknown_share(tokenizer, labels))}", flush=True)


if __name__ == "__main__":
    run_main(main)
