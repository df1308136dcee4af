"""A small set of cuts with features, as stage 2 leaves it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from lhotse import CutSet, Features, MonoCut, NumpyFilesWriter, SupervisionSegment

from residualformer.config.schema import Config
from residualformer.files import write_checked_json

FRAMES = {"u1": 131, "u2": 40, "u3": 3, "u4": 97}


def features_of(name: str) -> np.ndarray:
    return np.random.default_rng(FRAMES[name]).normal(-8, 3, (FRAMES[name], 80)).astype(np.float32)


def write_cuts(folder: Path, config: Config, translated: bool = False) -> Path:
    """cuts_test.jsonl.gz with stored features and features.json, as stage 2 leaves them."""
    cuts = []
    with NumpyFilesWriter(folder / "arrays") as writer:
        for name, frames in FRAMES.items():
            seconds = frames / 100
            features = Features(
                type="fbank", num_frames=frames, num_features=80, frame_shift=0.01, sampling_rate=16000, start=0,
                duration=seconds, storage_type=writer.name, storage_path=str(folder / "arrays"), channels=0,
                storage_key=writer.write(name, features_of(name)), recording_id=name,
            )  # fmt: skip
            custom = {"translation": "词"} if translated else None
            said = SupervisionSegment(name, name, 0, seconds, text=f"abc {name}", custom=custom)
            cuts.append(MonoCut(name, 0, seconds, 0, [said], features=features))
    CutSet.from_cuts(cuts).to_file(folder / "cuts_test.jsonl.gz")
    write_checked_json(folder / "features.json", asdict(config.features))
    return folder / "cuts_test.jsonl.gz"
