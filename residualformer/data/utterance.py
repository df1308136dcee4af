"""Utterances as models see them: features on disk, and the target text."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
from lhotse.cut import Cut
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from residualformer.data.arrays import BadArray, read_array
from residualformer.data.manifest import in_words, raw_lines
from residualformer.data.shar import ARRAY_SUFFIX, Shard, read_member
from residualformer.data.summary import ADVICE
from residualformer.errors import UserError

TARGETS = ("text", "translation")


class Utterance(NamedTuple):
    """A cut with features, which are read from disk only when a batch is built.

    Training buffers many of them: one takes 0.8 KB, 2 with its line, a Lhotse cut 3.8.
    """

    id: str
    source: str  # the id of the utterance that this is a speed copy of
    speed: float  # 1.0 for the recording as it is
    duration: float  # in seconds
    text: str  # the target text
    transcript: str  # the words spoken
    origin: str  # "" for utterances of the corpus itself, else where they come from, such as "synthetic"
    shape: tuple[int, int]  # of the features, (T, F)
    checksum: str | None  # of the features
    file: str  # the array of the features, or the archive that holds it
    member: str  # the array's name in an archive, else ""
    line: bytes = b""  # of the manifest, if it was asked for

    def load(self) -> np.ndarray:
        """Load the features (T, F), in the precision in which they are stored; UserError if missing or damaged."""
        try:
            if self.member:
                return read_array(io.BytesIO(read_member(self.file, self.member)), self.shape, self.checksum)
            with open(self.file, "rb") as file:
                return read_array(file, self.shape, self.checksum)
        except (OSError, BadArray, KeyError, tarfile.TarError) as error:
            raise UserError(f"the features of {self.id} in {self.file} cannot be read ({error}): {ADVICE}.") from error


def target_text(cut: Cut, target: str) -> str:
    """Return the single-spaced text that a model learns to write for `cut`; "" if it has none.

    Args:
        target: `text` (the transcript) or `translation`.
    """
    if not cut.supervisions:
        return ""
    supervision = cut.supervisions[0]
    return _spaced(supervision.text if target == "text" else (supervision.custom or {}).get("translation"))


def read_utterances(shard: Shard, target: str, with_lines: bool = False) -> Iterator[Utterance]:
    """Yield the utterances of a manifest of stage 2, or of a shard, in order; one line is in memory at a time.

    Args:
        with_lines: whether they keep their lines of the manifest, from which their audio is found.

    Raises:
        UserError: `target` is not one of `target_text`'s, or the manifest is missing, damaged or has no features.
    """
    if target not in TARGETS:
        raise UserError(f"tokens.target is '{target}'; allowed are {', '.join(TARGETS)}.")
    if not shard.cuts.is_file():
        raise UserError(f"{shard.cuts} is missing: run stage 2 first.")
    number = 0
    try:
        for line in raw_lines(shard.cuts):
            number += 1
            utterance = _utterance(_Cut.model_validate_json(line), shard, target)
            yield utterance._replace(line=line) if with_lines else utterance
    except ValidationError as error:
        reason = f"line {number}: {in_words(error)}"
        raise UserError(f"{shard.cuts} is not a manifest of cuts with features ({reason}): {ADVICE}.") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shard.cuts} is not a manifest of cuts ({error}): {ADVICE}.") from error
    if number == 0:
        raise UserError(f"{shard.cuts} holds no utterance: {ADVICE}.")


class _Part(BaseModel):
    """What training needs of a mapping in a manifest: parsed and checked at once, in a third of the time of a cut."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Features(_Part):
    num_frames: Annotated[int, Field(ge=1)]
    num_features: Annotated[int, Field(ge=1)]
    storage_type: Literal["numpy_files", "shar"]
    storage_path: str
    storage_key: str


class _Custom(_Part):
    utterance: str | None = None
    speed: Annotated[float, Field(gt=0)] = 1.0
    checksum: str | None = None


class _Texts(_Part):
    translation: str | None = None
    origin: str = ""


class _Supervision(_Part):
    text: str | None = None
    custom: _Texts | None = None


class _Cut(_Part):
    id: str
    duration: Annotated[float, Field(gt=0)]
    features: _Features
    supervisions: list[_Supervision] = []
    custom: _Custom | None = None


def _utterance(cut: _Cut, shard: Shard, target: str) -> Utterance:
    custom, features = cut.custom or _Custom(), cut.features
    supervision = cut.supervisions[0] if cut.supervisions else _Supervision()
    texts = supervision.custom or _Texts()
    transcript = _spaced(supervision.text)
    if shard.archive is None:
        file, member = os.path.join(features.storage_path, features.storage_key), ""
    else:
        file, member = str(shard.archive), cut.id + ARRAY_SUFFIX
    return Utterance(
        id=cut.id,
        source=cut.id if custom.utterance in (None, cut.id) else custom.utterance,
        speed=custom.speed,
        duration=cut.duration,
        text=transcript if target == "text" else _spaced(texts.translation),
        transcript=transcript,
        origin=texts.origin,
        shape=(features.num_frames, features.num_features),
        checksum=custom.checksum,
        file=file,
        member=member,
    )


def _spaced(text: str | None) -> str:
    return " ".join((text or "").split())
