"""The references of beam search: all alignments enumerated, and a plain search with dictionaries."""

from __future__ import annotations

import itertools
import math

from support.scorers import HashScorer
from support.transducers import BLANK, Oracle


def add(table: dict[tuple[int, ...], float], key, value: float) -> None:
    high, low = max(table.get(key, value), value), min(table.get(key, -math.inf), value)
    table[key] = high + math.log1p(math.exp(low - high))


def ranked(table: dict[tuple[int, ...], float]) -> list[tuple[tuple[int, ...], float]]:
    return sorted(table.items(), key=lambda item: -item[1])


def all_alignments(oracle: Oracle, vocab_size: int, max_symbols: int) -> list[tuple[tuple[int, ...], float]]:
    """log P of every label sequence, summed over all alignments with at most `max_symbols` labels at each frame."""
    labels = range(1, vocab_size)
    pieces = [p for n in range(max_symbols + 1) for p in itertools.product(labels, repeat=n)]
    table: dict[tuple[int, ...], float] = {}
    for alignment in itertools.product(pieces, repeat=oracle.num_frames):
        history: tuple[int, ...] = ()
        score = 0.0
        for frame, piece in enumerate(alignment):
            for label in piece:
                score += oracle.logp(history, frame)[label]
                history += (label,)
            score += oracle.logp(history, frame)[BLANK]
        add(table, history, score)
    return ranked(table)


def plain_search(
    oracle: Oracle, vocab_size: int, beam: int, max_symbols: int, reward: float = 0.0, scorer: HashScorer | None = None
) -> list[tuple[tuple[int, ...], float]]:
    """The search that `decode/beam.py` describes, one utterance and one hypothesis at a time.

    Scores hold the rewards and what the scorer added, the end of the utterance aside.
    """
    alive: dict[tuple[int, ...], float] = {(): 0.0}
    for frame in range(oracle.num_frames):
        done: dict[tuple[int, ...], float] = {}
        for symbols in range(max_symbols + 1):
            for labels, score in alive.items():
                add(done, labels, score + oracle.logp(labels, frame)[BLANK])
            if symbols == max_symbols:
                break
            longer = {
                (*labels, k): score
                + oracle.logp(labels, frame)[k]
                + reward
                + (scorer.added(labels, k) if scorer else 0)
                for labels, score in alive.items()
                for k in range(1, vocab_size)
            }
            worst = ranked(done)[beam - 1][1] if len(done) >= beam else -math.inf
            alive = {labels: score for labels, score in ranked(longer)[:beam] if score > worst}
        alive = dict(ranked(done)[:beam])
    return ranked(alive)


def put(table: dict, key, value: tuple[float, int]) -> None:
    """Add a path, (score, frame of its last label), to those of the same key."""
    score, last = table.get(key, (-math.inf, -1))
    sums = {0: score}
    add(sums, 0, value[0])
    table[key] = sums[0], value[1] if value[0] > score else last


def plain_search_with_pauses(oracle: Oracle, vocab_size: int, beam: int, max_symbols: int, pause: int) -> list:
    """`plain_search`, whose predictor forgets after `pause` frames without a label.

    A hypothesis is (labels, after how many of them the predictor forgot, each time), with its score and the frame of
    its last label.
    """
    alive: dict = {((), (0,)): (0.0, -1)}
    for frame in range(oracle.num_frames):
        before, alive = alive, {}
        for (y, cuts), value in sorted(
            before.items(), key=lambda item: item[0][1][-1] < len(item[0][0])
        ):  # fresh first
            is_due = cuts[-1] < len(y) and frame - value[1] - 1 >= pause
            put(alive, (y, (*cuts, len(y)) if is_due else cuts), value)
        done: dict = {}
        for symbols in range(max_symbols + 1):
            for key, (score, last) in alive.items():
                put(done, key, (score + oracle.logp(key[0][key[1][-1] :], frame)[BLANK], last))
            if symbols == max_symbols:
                break
            longer = {
                ((*y, k), cuts): (score + oracle.logp(y[cuts[-1] :], frame)[k], frame)
                for (y, cuts), (score, _) in alive.items()
                for k in range(1, vocab_size)
            }
            worst = sorted(done.values(), reverse=True)[beam - 1][0] if len(done) >= beam else -math.inf
            best = sorted(longer.items(), key=lambda item: -item[1][0])[:beam]
            alive = {key: value for key, value in best if value[0] > worst}
        alive = dict(sorted(done.items(), key=lambda item: -item[1][0])[:beam])
    return [(labels, score) for (labels, _), (score, _) in alive.items()]
