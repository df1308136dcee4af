"""The whole recipe at toy size, for real: a copy of the repository, and values that make its stages short."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lhotse
import pytest

EXPERIMENTS = ["baseline", "shared", "residual"]
DATA = ["--train-hours", "0.03", "--dev-minutes", "0.5", "--test-minutes", "0.5", "--jobs", "1"]
MODEL = {  # three layers, so that the K = 3 of the experiments is one group
    "tokens.kind": "bpe",
    "tokens.vocab_size": 40,
    "encoder.dropout": 0.1,
    "encoder.num_layers": 3,
    "encoder.dim": 32,
    "encoder.num_heads": 2,
    "encoder.ffn_dim": 64,
    "encoder.conv_channels": 4,
    "predictor.embedding_dim": 8,
    "predictor.hidden_dim": 16,
    "joiner.dim": 16,
}
TRAINING = {
    "data.specaugment.start_step": 2,
    "train.max_steps": 8,
    "train.optimizer.warmup_steps": 2,
    "train.average_last": 2,
    "train.save_every_steps": 4,
    "train.valid_every_steps": 4,
    "train.log_every_steps": 2,
}
SEARCH = {"decode.beam": 4}


def sets(values: dict) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


class Recipe:
    """A copy of the repository; `env` keeps this checkout and the number of cores out of its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.egs = folder / "egs" / "mini"
        kept = os.environ.keys() - {"PYTHONPATH", "RESIDUALFORMER_PYTHON"}
        self.env = {key: os.environ[key] for key in kept} | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def stages(self, *options: str) -> str:
        """What `run.sh` with the toy's values and `options` prints on stdout."""
        chosen = ["--python", sys.executable, "--experiments", " ".join(EXPERIMENTS), *DATA]
        return self.call("./run.sh", *chosen, *sets(MODEL | TRAINING | SEARCH), *options)

    def command(self, *args: object) -> str:
        """What `residualformer` prints."""
        return self.call(sys.executable, "-m", "residualformer", *map(str, args))

    def call(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def results(self, of_split: str = "") -> dict:
        return json.loads((self.egs / "exp" / f"results{of_split}.json").read_text(encoding="utf-8"))

    def hypotheses(self, experiment: str, split: str = "test") -> list[dict]:
        path = self.egs / "exp" / experiment / f"decode_{split}_beam4" / "hyp.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def cuts(self, split: str = "test") -> list[lhotse.MonoCut]:
        return list(lhotse.load_manifest(self.egs / "data" / "manifests" / f"cuts_{split}.jsonl.gz"))


def copy_of(root: Path, folder: Path) -> Path:
    """`folder`, with the repository's files in it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("git does not list the files of the repository here")
    for name in filter(None, listing.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    return folder
