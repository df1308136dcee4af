"""ARPA files of n-gram models, as SRILM, KenLM and `steps/train_lm.py` write them, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from residualformer.errors import UserError
from residualformer.files import replacing
from residualformer.lm.ngram import END, MISSING, NEVER, START, UNKNOWN, NGramModel

LN10 = math.log(10)
MAX_LINE = 1 << 20  # bytes; a small compressed file may hold one that fills all memory
ADVICE = "give a language model in ARPA format"
_COUNT = re.compile(r"ngram (\d+) *= *(\d+)")


class _Level(NamedTuple):
    """The n-grams of one length: words of each, and natural logarithms."""

    words: list[list[str]]
    logp: list[float]
    backoff: list[float]


def read_arpa(path: Path) -> NGramModel:
    """Read an ARPA file.

    A model without `<unk>` gives unknown words 1e-100, as in KenLM; one without `<s>` starts with the empty history.

    Raises:
        UserError: the file is missing, is no ARPA file, or an n-gram has another number of words or values, is given
            twice, or begins with words that are no n-gram themselves.
    """
    try:
        lines = _lines(path)
        counts = _read_counts(lines)
        model = _unigrams(_read_level(lines, 1, counts[0], len(counts)))
        for order, count in enumerate(counts[1:], start=2):
            _add(model, _read_level(lines, order, count, len(counts)), order)
        if next(lines, (0, ""))[1] != "\\end\\":
            raise ValueError("it does not end in \\end\\ after as many n-grams as it announces")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {ADVICE}.") from None
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no ARPA file, or is damaged ({error}): {ADVICE}.") from error
    return model


def write_arpa(path: Path, model: NGramModel) -> None:
    """Write a model as an ARPA file, atomically."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(_text(model))


def _text(model: NGramModel) -> Iterator[str]:
    yield "\\data\\\n"
    for order in range(1, model.order + 1):
        yield f"ngram {order}={model.ends[order] - model.ends[order - 1]}\n"
    texts = [""]
    for order in range(1, model.order + 1):
        yield f"\n\\{order}-grams:\n"
        nodes = np.arange(model.ends[order - 1] + 1, model.ends[order] + 1)
        parents, words = np.divmod(model.keys[nodes - 1], len(model.words))
        base = model.ends[order - 2] if order > 1 else 0
        new = []
        for node, parent, word in zip(nodes.tolist(), parents.tolist(), words.tolist(), strict=True):
            text = f"{texts[parent - base - 1]} {model.words[word]}" if order > 1 else model.words[word]
            new.append(text)
            backoff = f"\t{model.backoff[node] / LN10:.8g}" if order < model.order else ""
            yield f"{model.logp[node] / LN10:.8g}\t{text}{backoff}\n"
        texts = new
    yield "\n\\end\\\n"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not empty."""
    opened: Any = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115 (closed below)
    with opened as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
            if len(line) == MAX_LINE:
                raise ValueError(f"line {number} has more than {MAX_LINE} bytes")
            text = line.decode("utf-8").strip(" \t\r\n")
            if text:
                yield number, text


def _read_counts(lines: Iterator[tuple[int, str]]) -> list[int]:
    """Read the header up to the heading of the unigrams; return the number of n-grams of each length."""
    counts: list[int] = []
    if not any(text == "\\data\\" for _, text in lines):
        raise ValueError("there is no line \\data\\")
    for number, text in lines:
        found = _COUNT.fullmatch(text)
        if found is None:
            if text != "\\1-grams:" or not counts:
                raise ValueError(f"line {number} is '{text:.40}' instead of \\1-grams:")
            return counts
        if int(found[1]) != len(counts) + 1:
            raise ValueError(f"line {number}: the counts are not those of 1, 2, 3 ... words")
        counts.append(int(found[2]))
    raise ValueError("it ends before its n-grams")


def _read_level(lines: Iterator[tuple[int, str]], order: int, count: int, highest: int) -> _Level:
    level = _Level([], [], [])
    if order > 1 and next(lines, (0, ""))[1] != f"\\{order}-grams:":
        raise ValueError(f"it has more n-grams of {order - 1} words than it announces, or none of {order}")
    for _ in range(count):
        number, text = next(lines, (0, "\\"))
        values = re.split(r"[ \t]+", text)
        if text.startswith("\\") and len(values) == 1:
            raise ValueError(f"it announces {count} n-grams of {order} words, but has fewer")
        if not order + 1 <= len(values) <= order + 2 or (order == highest and len(values) == order + 2):
            raise ValueError(f"line {number} has {len(values)} values, no n-gram of {order} words")
        logp, backoff = float(values[0]), float(values[order + 1]) if len(values) == order + 2 else 0.0
        if not (math.isfinite(logp) and math.isfinite(backoff)) or logp > 1e-4:
            raise ValueError(f"line {number} has a number that is no logarithm of a probability")
        level.words.append(values[1 : order + 1])
        level.logp.append(logp * LN10)
        level.backoff.append(backoff * LN10)
    return level


def _unigrams(level: _Level) -> NGramModel:
    """Return a model of the unigrams, and of `<s>`, `</s>`, `<unk>` where they are missing."""
    words = {word: None for [word] in level.words}
    if len(words) < len(level.words):
        raise ValueError("a word is given twice")
    extra = {START: NEVER, END: NEVER, UNKNOWN: MISSING}
    aliases = {"<UNK>"} & words.keys() if UNKNOWN not in words else set()
    names = [UNKNOWN if word in aliases else word for word in words]
    added = [word for word in extra if word not in names]
    model = NGramModel([*names, *added])
    logp = np.array([*level.logp, *(extra[word] for word in added)])
    backoff = np.array([*level.backoff, *(0.0 for _ in added)])
    model.add_level(np.zeros(len(logp), np.int64), np.arange(len(logp)), logp, backoff)
    model.ids.update(dict.fromkeys(aliases, model.unknown))
    return model


def _add(model: NGramModel, level: _Level, order: int) -> None:
    """Add the n-grams of a length to those of all shorter ones."""
    words = np.array([[_known(model, word) for word in words] for words in level.words], np.int64).reshape(-1, order)
    parents = np.zeros(len(words), np.int64)
    for column in range(order - 1):
        parents = model.find(parents, words[:, column])
        if len(parents) and not parents.all():
            lost = " ".join(level.words[int(np.flatnonzero(parents == 0)[0])])
            raise ValueError(f"it has the n-gram '{lost:.80}', but not its first {column + 1} words")
    model.add_level(parents, words[:, -1], np.array(level.logp), np.array(level.backoff))


def _known(model: NGramModel, word: str) -> int:
    if word not in model.ids:
        raise ValueError(f"its word '{word:.40}' is no unigram")
    return model.ids[word]
