"""Transcripts of published corpora in one convention."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.text import normalize

ENGLISH = re.compile(r"[A-Z']+( [A-Z']+)*")
ANY_LETTERS = re.compile(r"\D+")


def as_spoken(
    utterances: Iterable[CorpusUtterance], allowed: re.Pattern[str]
) -> tuple[list[CorpusUtterance], list[str]]:
    """Return utterances in capital letters without punctuation, and "id: reason" for those left out.

    Left out are texts that do not match `allowed` as a whole, such as those with digits: how they were said is not
    known; and those whose id was used before.
    """
    kept, strange = {}, []
    for utterance in utterances:
        text = normalize(utterance.text, "upper", punctuation=False)
        if utterance.id in kept:
            strange.append(f"{utterance.id}: it is there twice")
        elif allowed.fullmatch(text):
            kept[utterance.id] = replace(utterance, text=text)
        else:
            strange.append(f"{utterance.id}: '{utterance.text}' has more than letters")
    return list(kept.values()), strange
