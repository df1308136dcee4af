"""Grammars as people write them: plain sentences, one a line, or YAML with rules (docs/grammar.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from residualformer.context.grammar.numbers import FORMS, spoken_numbers
from residualformer.context.grammar.syntax import (
    ANY,
    NAME,
    TOO_DEEP,
    Choice,
    Node,
    Numbers,
    Place,
    Reference,
    Repeat,
    Sequence,
    Word,
    parse_sentence,
)
from residualformer.errors import UserError, closest
from residualformer.files import read_text, split_lines

YAML_SUFFIXES = (".yaml", ".yml")
MOST_REPEATS = 1000
MOST_VALUES = 1_000_000  # of a grammar in YAML, where aliases (*) can stand for any number
_KEYS = ("sentences", "rules")
_RANGE_KEYS = ("range", "form", "language")
_REPEAT_KEYS = ("repeat", "min", "max")


@dataclass(frozen=True)
class Source:
    """A grammar as its file describes it: the sentences that may be said, and the rules they refer to."""

    sentences: Choice
    rules: dict[str, Node]


def read_source(path: Path) -> Source:
    """Read a grammar: YAML if the name ends in .yaml or .yml, else one sentence a line.

    Raises:
        UserError: the file is missing or empty, a value is none that a grammar has, or a rule is unknown or refers to
            itself; the message names the line. Or its parts are too many, or too deep within each other.
    """
    text = read_text(path, "give a file of sentences, or a grammar in YAML")
    try:
        source = _Yaml(path).read(text) if path.suffix.lower() in YAML_SUFFIXES else _plain(path, text)
        _check_references(source)
        return _in_one_case(source)
    except RecursionError:
        raise UserError(f"{path}: {TOO_DEEP}") from None


def _check_references(source: Source) -> None:
    """Raise UserError if a rule is unknown or refers to itself."""
    for tree in (source.sentences, *source.rules.values()):
        for node in walk(tree):
            if isinstance(node, Reference) and node.rule != ANY and node.rule not in source.rules:
                raise node.place.error(f"there is no rule '{node.rule}'.{closest(node.rule, [*source.rules, ANY])}")
    _check_recursion(source)


def walk(tree: Node) -> Iterator[Node]:
    """Yield all nodes of a tree as they are written: numbers are one, and references are not followed."""
    yield tree
    if isinstance(tree, Sequence):
        children: tuple[Node, ...] = tree.parts
    elif isinstance(tree, Choice):
        children = tree.options
    else:
        children = (tree.part,) if isinstance(tree, Repeat) else ()
    for child in children:
        yield from walk(child)


def _plain(path: Path, text: str) -> Source:
    """Read sentences, one a line; what follows # is a comment."""
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(split_lines(text), start=1)]
    sentences = tuple(parse_sentence(line, Place(path, number)) for number, line in lines if line)
    if not sentences:
        raise UserError(f"{path} holds no sentence: write one a line.")
    return Source(Choice(sentences), {})


class _Yaml:
    """The reader of a grammar in YAML. All scalars are text, so that `on`, `no` and `8` are words."""

    def __init__(self, path: Path) -> None:
        self.path, self.values = path, 0

    def read(self, text: str) -> Source:
        try:
            root = yaml.compose(text, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}," if mark else ""
            reason = getattr(error, "problem", None) or " ".join(str(error).split())
            advice = "put a sentence that begins with [, { or < in quotes, and one in a list in brackets"
            raise UserError(f"{self.path}{where} is not YAML ({reason}): {advice}.") from error
        if root is None:
            raise UserError(f"{self.path} is empty: give at least the key sentences.")
        keys = self._mapping(root, _KEYS, "a grammar")
        if "sentences" not in keys:
            raise self._place(root).error("the key sentences is missing: it lists what may be said.")
        rules = self._rules(keys["rules"]) if "rules" in keys else {}
        sentences = self._rule(keys["sentences"])
        return Source(sentences if isinstance(sentences, Choice) else Choice((sentences,)), rules)

    def _rules(self, node: yaml.Node) -> dict[str, Node]:
        rules = self._mapping(node, None, "rules")
        for name, value in rules.items():
            if not NAME.fullmatch(name):
                raise self._place(value).error(f"the rule '{name}' has no name of letters, digits and _.")
            if name == ANY:
                raise self._place(value).error(f"the rule '{ANY}' is given, as any one word: take another name.")
        return {name: self._rule(value) for name, value in rules.items()}

    def _rule(self, node: yaml.Node) -> Node:
        """Return the tree of a sentence, a list of alternatives, a range of numbers or a repetition."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise self._place(node).error(f"the grammar has more than {MOST_VALUES} values: use fewer aliases (*).")
        if isinstance(node, yaml.ScalarNode):
            if not node.value.strip():
                raise self._place(node).error("there is no text: an optional part is written [so].")
            return parse_sentence(node.value, self._place(node))
        if isinstance(node, yaml.SequenceNode):
            if not node.value:
                raise self._place(node).error("the list is empty: give at least one alternative.")
            if any(isinstance(each, yaml.SequenceNode) for each in node.value):
                raise self._place(node).error("a list is within a list: write '(this | that)' instead.")
            return Choice(tuple(self._rule(each) for each in node.value))
        if any(key.value == "range" for key, _ in node.value):
            return self._range(node)
        if any(key.value == "repeat" for key, _ in node.value):
            return self._repeat(node)
        given = ", ".join(str(key.value) for key, _ in node.value) or "none"
        advice = "a rule is text, in quotes if it begins with { or [, a list, or has the key range or repeat"
        raise self._place(node).error(f"the keys {given} make no rule: {advice}.")

    def _range(self, node: yaml.Node) -> Numbers:
        keys = self._mapping(node, _RANGE_KEYS, "a range")
        ends = keys["range"]
        if not isinstance(ends, yaml.SequenceNode) or len(ends.value) not in (2, 3):
            raise self._place(ends).error("range has a first and a last number, and a step if not 1: [5, 60, 5].")
        first, last, *step = [self._whole_number(each) for each in ends.value]
        if last < first or step and step[0] < 1:
            raise self._place(ends).error(f"range counts up, from {first} not to {last}: give the smaller one first.")
        form, language = (
            self._scalar(keys[name]) if name in keys else default
            for name, default in (("form", FORMS[0]), ("language", "en"))
        )
        return spoken_numbers(range(first, last + 1, *step), form, language, self._place(node))

    def _repeat(self, node: yaml.Node) -> Repeat:
        keys = self._mapping(node, _REPEAT_KEYS, "a repetition")
        least = self._whole_number(keys["min"]) if "min" in keys else 1
        most = self._whole_number(keys["max"]) if "max" in keys else None
        if not 0 <= least <= MOST_REPEATS or most is not None and not max(least, 1) <= most <= MOST_REPEATS:
            raise self._place(node).error(
                f"min is {least} and max {most}; allowed: 0 <= min <= max <= {MOST_REPEATS}, max 1 or more."
            )
        return Repeat(self._rule(keys["repeat"]), least, most)

    def _mapping(self, node: yaml.Node, allowed: tuple[str, ...] | None, what: str) -> dict[str, yaml.Node]:
        """Return the values of a mapping by their keys, which are among `allowed`."""
        if not isinstance(node, yaml.MappingNode):
            raise self._place(node).error(f"{what} is written as 'name: value', line by line.")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._scalar(key)
            if allowed is not None and name not in allowed:
                advice = closest(name, allowed) or f" There are: {', '.join(allowed)}."
                raise self._place(key).error(f"{what} has no key '{name}'.{advice}")
            if name in found:
                raise self._place(key).error(f"'{name}' is given twice: remove one.")
            found[name] = value
        return found

    def _whole_number(self, node: yaml.Node) -> int:
        text = self._scalar(node)
        try:
            return int(text)
        except ValueError:
            raise self._place(node).error(f"'{text}' is no whole number.") from None

    def _scalar(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._place(node).error("there is a list or a mapping where a single value should be.")
        return str(node.value)

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.path, node.start_mark.line + 1)


def _check_recursion(source: Source) -> None:
    """Raise UserError if a rule refers to itself, directly or through others: such a grammar is not finite-state."""
    done: set[str] = set()

    def visit(rule: str, path: tuple[str, ...]) -> None:
        for node in walk(source.rules[rule]):
            if not isinstance(node, Reference) or node.rule in done or node.rule == ANY:
                continue
            if node.rule in path:
                circle = " -> ".join([*path[path.index(node.rule) :], node.rule])
                raise node.place.error(
                    f"a rule refers to itself ({circle}): repeat a part with the key repeat instead."
                )
            visit(node.rule, (*path, node.rule))
        done.add(rule)

    for rule in source.rules:
        visit(rule, (rule,))


def _in_one_case(source: Source) -> Source:
    """Write the numbers, which come in lower case, in upper case if all else is."""
    trees = (source.sentences, *source.rules.values())
    written = "".join(node.text for tree in trees for node in walk(tree) if isinstance(node, Word))
    if not written.isupper():
        return source
    sentences = Choice(tuple(map(_upper, source.sentences.options)))
    return Source(sentences, {name: _upper(tree) for name, tree in source.rules.items()})


def _upper(tree: Node) -> Node:
    """Return a tree with all words, those of numbers too, in upper case."""
    if isinstance(tree, Word):
        return replace(tree, text=tree.text.upper())
    if isinstance(tree, Sequence):
        return Sequence(tuple(map(_upper, tree.parts)))
    if isinstance(tree, Choice):
        return Choice(tuple(map(_upper, tree.options)))
    if isinstance(tree, Repeat):
        return replace(tree, part=_upper(tree.part))
    if isinstance(tree, Numbers):
        return Numbers({number: _upper(spoken) for number, spoken in tree.spoken.items()})
    return tree
