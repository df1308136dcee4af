"""Shallow fusion: a language model's scores, weighted, beside those of a transducer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Context, joint
from residualformer.lm.loading import load_language_model
from residualformer.lm.weighted import Weighted


def fusion(settings: DecodeConfig, pieces: Sequence[str], internal: Callable[[], Context]) -> Context | None:
    """Return the context of the language model that beam search is to use by `settings`; None if there is none.

    With lambda the `lm_weight` and rho the `ilm_weight`, a label adds

        lambda log P_LM(label | labels before) - rho log P_ILM(label | labels before)

    and the end of the utterance lambda log P_LM(end | labels).

    Args:
        pieces: the text of each label, in the numbering of training.
        internal: returns the transducer's internal language model.

    Raises:
        UserError: the language model is missing, damaged or of other tokens.
    """
    if settings.kind != "beam" or settings.lm is None:
        return None
    own = Weighted(internal(), -settings.ilm_weight) if settings.ilm_weight else None
    return joint([Weighted(_loaded(Path(settings.lm), tuple(pieces)), settings.lm_weight), own])


def _loaded(path: Path, pieces: tuple[str, ...]) -> Context:
    """Return the language model of a file, read once in a process unless the file changes."""
    if not path.is_file():
        return load_language_model(path, pieces)  # which tells
    found = path.stat()
    return _read(path.resolve(), found.st_size, found.st_mtime_ns, pieces)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, changed: int, pieces: tuple[str, ...]) -> Context:
    return load_language_model(path, pieces)
