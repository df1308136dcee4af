"""Transcripts of published corpora in one convention."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.text import spoken


def as_spoken(
    utterances: Iterable[CorpusUtterance], allowed: re.Pattern[str]
) -> tuple[list[CorpusUtterance], list[str]]:
    """Return utterances whose texts are `spoken`, and "id: reason" for those left out.

    Left out are texts that do not match `allowed`, and utterances whose id was used before.
    """
    kept, strange = {}, []
    for utterance in utterances:
        text = spoken(utterance.text, allowed)
        if utterance.id in kept:
            strange.append(f"{utterance.id}: it is there twice")
        elif text is not None:
            kept[utterance.id] = replace(utterance, text=text)
        else:
            strange.append(f"{utterance.id}: '{utterance.text}' has more than letters")
    return list(kept.values()), strange
