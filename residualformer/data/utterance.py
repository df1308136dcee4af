"""Utterances as models see them: features on disk, the target text and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse import Features
from lhotse.cut import Cut

from residualformer.data.arrays import CHECKSUM, BadArray, load_array
from residualformer.data.manifest import read_cuts
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError


@dataclass(frozen=True)
class Utterance:
    """A cut with features; they are read from disk only when a batch is built."""

    id: str
    source: str  # the id of the utterance that this is a speed copy of
    speed: float  # 1.0 for the recording as it is
    duration: float  # in seconds
    text: str  # the target text
    tokens: list[int]  # of `text`
    transcript: str  # the words spoken
    features: Features  # where the features are stored
    checksum: str | None  # of the features
    origin: str  # "" for utterances of the corpus itself, else where they come from, such as "synthetic"

    def load(self) -> np.ndarray:
        """Load the features (T, F), in the precision in which they are stored; UserError if missing or damaged."""
        try:
            return load_array(self.features, self.checksum)
        except (OSError, BadArray) as error:
            raise UserError(
                f"the features of {self.id} cannot be read ({error}): run stage 2 again, with --overwrite."
            ) from error


def target_text(cut: Cut, target: str) -> str:
    """Return the single-spaced text that a model learns to write for `cut`; "" if it has none.

    Args:
        target: `text` (the transcript) or `translation`.
    """
    if not cut.supervisions:
        return ""
    supervision = cut.supervisions[0]
    text = supervision.text if target == "text" else (supervision.custom or {}).get("translation")
    return " ".join((text or "").split())


def read_utterances(cuts_path: Path | str, tokenizer: Tokenizer, target: str) -> list[Utterance]:
    """Read all cuts of a manifest of stage 2, in its order.

    Raises:
        UserError: `target` is not one of `target_text`'s, or the manifest is missing, damaged or has no features.
    """
    if target not in ("text", "translation"):
        raise UserError(f"tokens.target is '{target}'; allowed are text, translation.")
    tokens: dict[str, list[int]] = {}  # speed copies have the same text
    utterances = []
    for cut in read_cuts(cuts_path, stage=2):
        if not cut.has_features:
            raise UserError(f"{cuts_path}: cut {cut.id} has no features: give the cuts that stage 2 wrote.")
        text = target_text(cut, target)
        if text not in tokens:
            tokens[text] = tokenizer.encode(text)
        custom = cut.custom or {}
        supervision = cut.supervisions[0] if cut.supervisions else None
        utterances.append(
            Utterance(
                id=cut.id,
                source=custom.get("utterance", cut.id),
                speed=custom.get("speed", 1.0),
                duration=cut.duration,
                text=text,
                tokens=tokens[text],
                transcript=text if target == "text" else target_text(cut, "text"),
                features=cut.features,
                checksum=custom.get(CHECKSUM),
                origin=(supervision.custom or {}).get("origin", "") if supervision else "",
            )
        )
    return utterances
