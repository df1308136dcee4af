"""Calibration: numbers, measured on a development set, that turn alignments and probabilities into times and
confidences.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from residualformer.errors import UserError
from residualformer.files import read_checked_json, write_checked_json
from residualformer.records import read_dataclass
from residualformer.words.confidence import Logistic

CALIBRATION_FILE = "calibration.json"  # beside the model's file


@dataclass(frozen=True)
class SearchCalibration:
    """The weights of confidences for one kind of search."""

    words: Logistic
    tokens: Logistic


_GREEDY = SearchCalibration(Logistic(0, 1, 0), Logistic(0, 1, 0))
_BEAM = SearchCalibration(Logistic(0, 0.5, 0.5), Logistic(0, 0.5, 0.5))


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model; by default none: confidences are plain posteriors, and delays are 0.

    Attributes:
        start_delay_s: from the start of a word to the start of the frame that writes its first token; may be negative.
        end_delay_s: from the end of a word to the end of the frame that writes its last token; may be negative.
        measured_on: the number of words it was measured on; 0: not measured.
        fingerprint: of the weights of the measured model.
    """

    start_delay_s: float = 0.0
    end_delay_s: float = 0.0
    greedy: SearchCalibration = _GREEDY
    beam: SearchCalibration = _BEAM
    measured_on: int = 0
    fingerprint: str | None = None

    def of(self, kind: Literal["greedy", "beam"]) -> SearchCalibration:
        """Return the weights for a kind of search."""
        return self.greedy if kind == "greedy" else self.beam


UNCALIBRATED = Calibration()


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration to a JSON file."""
    write_checked_json(path, asdict(calibration))


def read_calibration(folder: Path, fingerprint: str) -> Calibration:
    """Return the calibration in a model's folder; `UNCALIBRATED` if there is none, or one of other weights.

    Args:
        fingerprint: of the model's weights.

    Raises:
        UserError: the file is damaged.
    """
    path, advice = folder / CALIBRATION_FILE, "remove it, and run steps/calibrate.py"
    if not path.is_file():
        return UNCALIBRATED
    content: Any = read_checked_json(path, advice)
    try:
        found = read_dataclass(Calibration, content)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {advice}.") from error
    return found if found.fingerprint == fingerprint else UNCALIBRATED
