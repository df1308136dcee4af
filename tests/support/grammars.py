"""Small grammars, and the sentences of a syntax tree by plain enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path

from residualformer.context.grammar.source import Source, read_source
from residualformer.context.grammar.syntax import Choice, Node, Numbers, Reference, Repeat, Sequence, Word

LIGHTS = """\
sentences:
  - "[please] turn {state} the {device} [in the {room}]"
  - "dim {device} | (make | keep) {device} (dark | very dark)"
  - set it to {level}
  - spell {name}
  - from {from=room} to {to=room}
rules:
  state: [on, off]
  device: [lamp, big lamp]
  room: kitchen | "living room" | hall
  level: {range: [1, 3]}
  letter: [a, b]
  name: {repeat: <letter>, min: 2, max: 3}
""".replace('"living room"', "living room")


def write_grammar(folder: Path, text: str, name: str = "grammar.yaml") -> Path:
    """Write a grammar and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def sentences(source: Source) -> set[str]:
    """All sentences of a grammar without endless repeats, enumerated from its tree."""

    def each(node: Node) -> set[tuple[str, ...]]:
        if isinstance(node, Word):
            return {(node.text,)}
        if isinstance(node, Reference):
            return each(source.rules[node.rule])
        if isinstance(node, Choice):
            return set().union(*map(each, node.options))
        if isinstance(node, Numbers):
            return set().union(*map(each, node.spoken.values()))
        if isinstance(node, Repeat):
            assert node.most is not None
            part = each(node.part)
            counts = range(node.least, node.most + 1)
            return {sum(parts, ()) for count in counts for parts in itertools.product(part, repeat=count)}
        assert isinstance(node, Sequence)
        return {sum(parts, ()) for parts in itertools.product(*map(each, node.parts))}

    return {" ".join(words) for words in each(source.sentences)}


def sentences_of(folder: Path, text: str) -> set[str]:
    """All sentences of a grammar in YAML."""
    return sentences(read_source(write_grammar(folder, text)))
