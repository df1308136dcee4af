"""Witten-Bell estimation of n-gram models.

With c(h, w) the count of w after the history h, T(h) the number of different words seen after it, and h' the history
without its oldest word (Witten and Bell, 1991; interpolated as in Chen and Goodman, 1999, section 2.6):

    P(w | h) = (c(h, w) + T(h) P(w | h')) / (c(h) + T(h))

and uniform over all words below the unigrams. It holds for the smallest texts, on which the discounts of Kneser-Ney
cannot be estimated. As a back-off model, T(h) / (c(h) + T(h)) is the weight of h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from residualformer.errors import UserError
from residualformer.lm.ngram import END, NEVER, START, UNKNOWN, Array, NGramModel


def estimate(
    sentences: Iterable[Sequence[str]], order: int, vocabulary: Sequence[str] | None = None, min_count: int = 1
) -> NGramModel:
    """Estimate an n-gram model of `sentences`, each a sequence of words (or tokens) without `<s>` and `</s>`.

    Args:
        order: the longest n-grams.
        vocabulary: words that get a probability, seen or not; None: those of the sentences. All others are `<unk>`.
        min_count: n-grams of two words and more that are seen less often are left out.

    Raises:
        UserError: there is no sentence.
    """
    texts = [list(sentence) for sentence in sentences]
    if not texts:
        raise UserError("there is no text to estimate a language model from.")
    found = vocabulary if vocabulary is not None else sorted({word for text in texts for word in text})
    special = (START, END, UNKNOWN)
    model = NGramModel([*special, *(word for word in dict.fromkeys(found) if word not in special)])
    known = {word: number for word, number in model.ids.items() if word not in special}
    ids = [[model.start, *(known.get(word, model.unknown) for word in text), model.end] for text in texts]
    words = np.array([word for text in ids for word in text], np.int64)
    position = np.concatenate([np.arange(len(text)) for text in ids])  # in the sentence; 0 is <s>
    _add_unigrams(model, words[position > 0])
    nodes = words + 1  # at each position, of the n-gram that ends there; 0 where it is left out
    for length in range(2, order + 1):
        nodes = _add_longer(model, words, np.where(position >= length - 1, np.roll(nodes, 1), 0), min_count)
    return model


def _add_unigrams(model: NGramModel, words: Array) -> None:
    """Add all words of a model, with their probabilities in the text `words`; `<s>` is never predicted."""
    num_words = len(model.words)
    counts = np.bincount(words, minlength=num_words)
    different = np.count_nonzero(counts)
    logp = np.log((counts + different / (num_words - 1)) / (counts.sum() + different))
    logp[model.start] = NEVER
    model.add_level(np.zeros(num_words, np.int64), np.arange(num_words), logp, np.zeros(num_words))


def _add_longer(model: NGramModel, words: Array, histories: Array, min_count: int) -> Array:
    """Add the n-grams of `histories` (nodes, 0 for none) followed by `words`; return their nodes, or 0."""
    used = np.flatnonzero(histories)
    keys, index, counts = np.unique(
        histories[used] * len(model.words) + words[used], return_inverse=True, return_counts=True
    )
    kept = counts >= min_count
    parents, last = np.divmod(keys[kept], len(model.words))
    total = np.bincount(parents, counts[kept], minlength=len(model.logp))
    different = np.bincount(parents, minlength=len(model.logp))
    lower = np.exp(model.log_probabilities(model.suffixes[parents], last))
    logp = np.log((counts[kept] + different[parents] * lower) / (total[parents] + different[parents]))
    seen = different > 0
    model.backoff[seen] = np.log(different[seen] / (total[seen] + different[seen]))
    nodes = np.zeros(len(keys), np.int64)
    nodes[kept] = model.add_level(parents, last, logp, np.zeros(len(parents)))
    ending = np.zeros(len(words), np.int64)
    ending[used] = nodes[index]
    return ending
