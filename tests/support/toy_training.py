"""A toy corpus with features on disk, a small model, and its trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import CutSet, Features, MonoCut, NumpyFilesWriter, SupervisionSegment

from residualformer.config.loading import config_to_dict
from residualformer.config.schema import (
    Config,
    DataConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    LossConfig,
    PredictorConfig,
    SpecAugmentConfig,
    TokenConfig,
    TrainConfig,
)
from residualformer.config.training import OptimizerConfig
from residualformer.data.batches import EvalBatches
from residualformer.data.collate import Batch
from residualformer.data.features import Statistics, write_feature_files
from residualformer.data.splits import cuts_file
from residualformer.data.tokenizer import train_tokenizer
from residualformer.hypothesis import Hypothesis
from residualformer.train import validation
from residualformer.train.loop import Trainer
from residualformer.train.signals import Interrupted

F = 4
TEXTS = [f"{a} {b}" for a in ("GO", "STOP", "HOME", "ENTER") for b in ("ONE", "TWO", "SIX", "NINE", "TEN")]
TOKENIZER = train_tokenizer(TEXTS, TokenConfig("char"))
CONFIG = Config(
    features=FeatureConfig(num_mel_bins=F),
    encoder=EncoderConfig(
        num_layers=2, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=2, dropout=0.0, left_context_ms=None
    ),
    predictor=PredictorConfig(embedding_dim=8, hidden_dim=16, num_layers=1, dropout=0.0),
    joiner=JoinerConfig(dim=16),
    loss=LossConfig(ctc_scale=0.3),
    data=DataConfig(
        speeds=[1.0],
        max_batch_s=12.0,
        max_utterance_s=12.0,
        num_buckets=2,
        specaugment=SpecAugmentConfig(max_freq_bins=2),
    ),
    train=TrainConfig(
        max_steps=6,
        precision="fp32",
        average_last=2,
        save_every_steps=2,
        valid_every_steps=100,
        log_every_steps=2,
        optimizer=OptimizerConfig(kind="muon", lr=3e-3, muon_lr=3e-3, warmup_steps=2),
    ),
)


def make_cut(folder: Path, name: str, num_frames: int, text: str, value: float, **custom: Any) -> MonoCut:
    """Write the features of a cut, `value` except for one quiet frame at the front, and return the cut."""
    array = np.full((num_frames, F), value, dtype=np.float16)
    array[0] = -15
    writer = NumpyFilesWriter(str(folder / "arrays"))
    duration = num_frames * 0.01
    translation = {"translation": "".join(chr(ord(c) + 0x4E00) for c in text if c != " ")} if text else None
    features = Features(
        "residualformer-fbank", num_frames, F, 0.01, 16000, 0.0, duration, "numpy_files", writer.storage_path,
        writer.write(name, array), recording_id=name, channels=0,
    )  # fmt: skip
    supervision = SupervisionSegment(name, name, 0.0, duration, text=text, custom=translation)
    return MonoCut(name, 0.0, duration, 0, [supervision], features, custom=custom)


def write_toy_cuts(folder: Path) -> dict[str, Path]:
    """Write an utterance for each of TEXTS; the training and the dev set are the same."""
    made = [make_cut(folder, f"u{i}", 40 + 9 * i, text, i) for i, text in enumerate(TEXTS)]
    CutSet.from_cuts(made).to_file(folder / "cuts.jsonl.gz")
    return {"train": folder / "cuts.jsonl.gz", "dev": folder / "cuts.jsonl.gz"}


def make_trainer(cuts: dict[str, Path], folder: Path, config: Config = CONFIG, **options: Any) -> Trainer:
    """Return a trainer of `config` in a new folder; further options are the trainer's."""
    cmvn = torch.full((F,), 9.0), torch.full((F,), 6.0)
    folder.mkdir(exist_ok=True, parents=True)
    return Trainer(config, TOKENIZER, cuts, cmvn, folder, {"config": config_to_dict(config)}, **options)


def changed(section: str, config: Config = CONFIG, **values: Any) -> Config:
    """Return `config` with other values in one of its sections."""
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def stop_at(trainer: Trainer, step: int, run: Callable[[], Any] | None = None) -> None:
    """Train to `step` and stop there, as SIGTERM would; `run` trains, if not `trainer.run`."""
    update = trainer.update

    def update_and_stop(batches: Any) -> Any:
        if trainer.step == step - 1:
            trainer.request_stop()
        return update(batches)

    trainer.update = update_and_stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        (run or trainer.run)()


def learned(trainer: Trainer, batch: Batch) -> set[str]:
    """Make an update, and return the names of the parameters that it changed."""
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    trainer.update([(0, batch)])
    trainer.step += 1
    return {name for name, tensor in trainer.model.named_parameters() if not torch.equal(tensor, before[name])}


@contextmanager
def no_transcripts() -> Iterator[None]:
    """Let validation find no words: toy models write five labels a frame, which takes a minute and tells nothing."""
    with pytest.MonkeyPatch.context() as patch:
        nothing = Hypothesis([], [], 0.0)
        patch.setattr(validation, "greedy_search", lambda model, encoded, lengths, **_: [nothing] * len(lengths))
        yield


def one_batch(cuts: dict[str, Path]) -> Batch:
    """Return the first batch of the dev set."""
    return next(iter(EvalBatches(cuts["dev"], 30.0, TOKENIZER)))


def write_toy_data(folder: Path) -> Path:
    """Write what stages 2 and 3 leave of the toy corpus to a new folder, for steps/train.py; return the folder."""
    fbank = folder / "fbank"
    fbank.mkdir(parents=True)
    for name, path in write_toy_cuts(fbank).items():
        cuts_file(fbank, name).write_bytes(path.read_bytes())
    write_feature_files(fbank, CONFIG.features, Statistics([9.0] * F, [6.0] * F, frames=1000))
    TOKENIZER.save(folder / "lang" / "tokenizer.json")
    return folder
