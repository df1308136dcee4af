"""The settings of an exported folder, `model.json`, which `export` writes and this package reads (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.constants import FRAME_SHIFT_MS
from residualformer.data.audio import rate_problem
from residualformer.data.fbank import checked_preset
from residualformer.errors import UserError
from residualformer.files import read_json
from residualformer.records import read_dataclass
from residualformer.words.calibration import UNCALIBRATED, Calibration

SETTINGS_FILE, TOKENS_FILE = "model.json", "tokens.txt"
FORMAT = 1
FINGERPRINT = "fingerprint"  # of the model's weights: a key of the settings and of each ONNX file's metadata
TYPES = ("nemo", "ebranchformer")

Precision = Literal["fp32", "int8"]
Count = Annotated[int, Ge(1)]
Frames = Annotated[int, Ge(1), Le(10_000)]
Milliseconds = Annotated[int, Ge(0), Le(200_000)]
Size = Count | Literal["N"]  # of an axis of a network's input or output; "N" is the batch axis


@dataclass(frozen=True)
class PartFiles:
    """The names of the files of encoder, predictor ("decoder", as sherpa-onnx calls it) and joiner."""

    encoder: str
    decoder: str
    joiner: str


@dataclass(frozen=True)
class StateArray:
    """An array that a network gives as `output` and takes as `input` of the next step; at the start it is zero."""

    input: str
    output: str
    dtype: Literal["float32", "int64"]
    shape: list[Size]


@dataclass(frozen=True)
class StateArrays:
    """The states of encoder and predictor, in the order of the networks' inputs."""

    encoder: list[StateArray]
    decoder: list[StateArray]


@dataclass(frozen=True)
class PredictorSettings:
    """The kind of predictor; `context_size` is the number of labels that a stateless one sees."""

    kind: Literal["lstm", "stateless"]
    context_size: Count | None

    @property
    def num_previous(self) -> int:
        """The number of labels before the newest one that a stateless predictor sees."""
        return (self.context_size or 1) - 1


@dataclass(frozen=True)
class ModelSettings:
    """The content of `model.json`; docs/format.md describes the keys."""

    format: int
    name: str
    type: Literal["nemo", "ebranchformer"]
    weights: str
    files: dict[Precision, PartFiles]
    vocab_size: Count
    blank_id: Annotated[int, Ge(0)]
    unk_id: Annotated[int, Ge(0)]
    features: FeatureConfig
    window: Frames  # feature frames that one step of the encoder reads
    shift: Frames  # feature frames by which it moves on
    subsampling: Frames  # feature frames per encoder frame
    frames_per_step: Frames
    chunk_ms: Milliseconds
    look_ahead_ms: Milliseconds
    tail_padding_ms: Milliseconds
    joint_dim: Count
    encoder: dict[str, Any]  # the section of the model's configuration
    predictor: PredictorSettings
    states: StateArrays
    decode: DecodeConfig  # the search that the model is meant to be used with
    fingerprint: str | None = None
    branches: Count = 1  # of an AmNet's encoder, the slow one first, or depths among which an arbitrator chooses
    branch_delay: Annotated[int, Ge(0), Le(1)] = 0  # frames from a decision to the one that takes its branch
    target: Literal["text", "translation"] = "text"  # what the tokens are of
    calibration: Calibration = UNCALIBRATED  # of words' times and confidences


def is_exported(folder: Path) -> bool:
    """Return whether the folder holds an exported model, rather than a run."""
    return (folder / SETTINGS_FILE).is_file()


def read_settings(folder: Path) -> ModelSettings:
    """Read the settings of an exported folder.

    Raises:
        UserError: there are none, they are of another format or type, a key is missing, or a value has a wrong type, is
            out of bounds or contradicts another one.
    """
    path = folder / SETTINGS_FILE
    content = read_json(path, "give a folder that steps/export.py wrote")
    if content.get("format") != FORMAT or content.get("type") not in TYPES:
        raise UserError(
            f"{path} is of format {content.get('format')} and type '{content.get('type')}'; this version reads format "
            f"{FORMAT} of the types {', '.join(TYPES)}: export the model again."
        )
    try:
        settings = read_dataclass(ModelSettings, content)
        _check(settings)
    except (ValueError, UserError) as error:
        raise damaged(folder, str(error)) from error
    return settings


def damaged(folder: Path, reason: str) -> UserError:
    """Return the error of a folder whose settings are wrong."""
    return UserError(f"{folder / SETTINGS_FILE} is damaged ({reason.rstrip('.')}): export the model again.")


def _check(settings: ModelSettings) -> None:
    """Raise ValueError or UserError when values of the settings contradict each other."""
    checked_preset(settings.features)
    if problem := rate_problem(settings.features.sample_rate_hz):
        raise ValueError(f"features.sample_rate_hz {problem}")
    window, shift, stride = settings.window, settings.shift, settings.subsampling
    if settings.blank_id >= settings.vocab_size:
        raise ValueError(f"blank_id is {settings.blank_id}, but vocab_size {settings.vocab_size}")
    if shift != stride * settings.frames_per_step or window % stride or shift * FRAME_SHIFT_MS != settings.chunk_ms:
        raise ValueError("window, shift, subsampling, frames_per_step and chunk_ms do not fit together")
    if (window - shift) * FRAME_SHIFT_MS != settings.look_ahead_ms:
        raise ValueError("window, shift and look_ahead_ms do not fit together")
    if settings.decode.lm is not None and Path(settings.decode.lm).name != settings.decode.lm:
        raise ValueError(f"decode.lm is '{settings.decode.lm}', which is no name of a file in the folder")
    if settings.predictor.kind == "stateless" and settings.predictor.context_size is None:
        raise ValueError("predictor.context_size must be a number, as predictor.kind is 'stateless'")
