"""What a search takes beside the model: hotwords, grammars, language models, and the texts these are trained on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mutated_common import Loader

from residualformer.config.language_model import LanguageModelConfig
from residualformer.config.schema import TokenConfig
from residualformer.context.grammar.compiled import compile_network, load_grammar
from residualformer.context.grammar.context import GrammarContext
from residualformer.context.grammar.network import build, count_sentences
from residualformer.context.grammar.source import read_source
from residualformer.context.grammar.tuning import tune
from residualformer.context.hotwords import Hotwords, read_phrases
from residualformer.context.scorer import Context
from residualformer.data.tokenizer import train_tokenizer
from residualformer.export.language_model import language_model_graph
from residualformer.files import write_json
from residualformer.lm.arpa import write_arpa
from residualformer.lm.estimate import estimate
from residualformer.lm.loading import load_language_model
from residualformer.lm.perplexity import perplexity
from residualformer.lm.text import read_sentences
from residualformer.nn.language_model import LanguageModel
from residualformer.train.language_model import train_language_model

TOKENS = train_tokenizer(["the quick brown fox jumps over the lazy dog"], TokenConfig("char"))  # all letters
SENTENCES = ["turn on the lamp", "set the lamp to five", "call ann"]
SPOKEN = [TOKENS.encode(sentence) for sentence in SENTENCES]
SMALL = LanguageModelConfig(kind="lstm", embedding_dim=4, hidden_dim=4, max_epochs=1)
PLAIN = """# sentences
[please] turn (on | off) the lamp
call {name=any}
"""
RULES = """
sentences:
  - "[please] turn {state} the {device}"
  - set the {device} to {level}
  - "code {code} of {from=device}"
rules:
  state: [on, off]
  device: lamp | big lamp
  level: {range: [5, 20, 5], form: cardinal, language: en}
  digit: [one, two]
  code: {repeat: <digit>, min: 1, max: 3}
"""


def use(context: Context) -> None:
    """Ask a context all that a search asks, on the way of each sentence."""
    json.dumps(context.describe())
    for labels in SPOKEN:
        scorer = context.scorer()
        states = np.array([scorer.start()])
        for label in labels:
            scorer.scores(states)
            states = scorer.advance(states, np.array([label]))
            scorer.keep(states)
        scorer.final(states)


def write_grammar(folder: Path) -> None:
    (folder / "grammar.yaml").write_text(RULES)
    compile_network(build(read_source(folder / "grammar.yaml")), TOKENS.pieces).save(folder / "grammar.json")
    grammar = load_grammar(folder / "grammar.json", TOKENS.pieces)
    records = [{"ref": text, "distance": 0.1 * n} for n, text in enumerate(SENTENCES)]
    (folder / "hyp.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_json(folder / "decode.json", {"context": GrammarContext(grammar, 0.5).describe()})


def read_grammar(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        grammar = load_grammar(folder / name, TOKENS.pieces)
        use(GrammarContext(grammar, 0.5))
        count_sentences(grammar.network)
        for text in (*SENTENCES, *grammar.network.samples(3, 1)):
            json.dumps(grammar.network.slots_of(text))

    return read


def read_tuned(folder: Path) -> None:
    tune(load_grammar(folder / "grammar.json", TOKENS.pieces), folder / "hyp.jsonl", 0.02)


def read_hotwords(folder: Path) -> None:
    use(Hotwords(read_phrases(folder / "hotwords.txt"), TOKENS.pieces, 0.5))


def write_ngram(unit: str, name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        spelled = [[TOKENS.pieces[label] for label in labels] for labels in SPOKEN]
        texts = spelled if unit == "token" else [sentence.split() for sentence in SENTENCES]
        write_arpa(folder / "lm.arpa", estimate(texts, 3))
        if name.endswith(".gz"):
            (folder / name).write_bytes(gzip.compress((folder / "lm.arpa").read_bytes()))
            (folder / "lm.arpa").unlink()

    return write


def write_lstm(folder: Path) -> None:
    graph = language_model_graph(LanguageModel(TOKENS.vocab_size, SMALL).eval(), TOKENS.pieces)
    (folder / "lm.onnx").write_bytes(graph.SerializeToString())


def read_language_model(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        model = load_language_model(folder / name, TOKENS.pieces)
        perplexity(model, SPOKEN, 12)
        use(model)

    return read


def read_texts(folder: Path) -> None:
    sentences = read_sentences(folder / "more.txt")
    write_arpa(folder / "lm.arpa", estimate([sentence.split() for sentence in sentences], 3))
    labels = [TOKENS.encode(sentence) for sentence in sentences]
    perplexity(load_language_model(folder / "lm.arpa", TOKENS.pieces), labels, 12)


def train_lstm(folder: Path) -> None:
    train_language_model(SPOKEN, SPOKEN, TOKENS.vocab_size, SMALL, 1, folder / "state.safetensors")


LOADERS: dict[str, Loader] = {
    "grammar, plain": Loader(lambda folder: (folder / "g.txt").write_text(PLAIN), read_grammar("g.txt")),
    "grammar, YAML": Loader(lambda folder: (folder / "g.yaml").write_text(RULES), read_grammar("g.yaml")),
    "grammar, compiled": Loader(write_grammar, read_grammar("grammar.json"), "grammar.json"),
    "grammar, dev set": Loader(write_grammar, read_tuned, "[hd]*"),
    "hotwords": Loader(
        lambda folder: (folder / "hotwords.txt").write_text("call ann\nlamp :1.5\n\nturn on the lamp :0.2\n"),
        read_hotwords,
    ),
    "ARPA, tokens": Loader(write_ngram("token", "lm.arpa"), read_language_model("lm.arpa")),
    "ARPA, words, gzipped": Loader(write_ngram("word", "lm.arpa.gz"), read_language_model("lm.arpa.gz")),
    "LSTM": Loader(write_lstm, read_language_model("lm.onnx")),
    "texts": Loader(lambda folder: (folder / "more.txt").write_text("\n".join(SENTENCES)), read_texts),
    "LSTM, state": Loader(train_lstm, train_lstm),
}
