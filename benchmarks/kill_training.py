"""Kill tiny trainings by SIGKILL, again and again, and compare what they end with: one line a training.

    . ./path.sh && python benchmarks/kill_training.py [--trainings 20] [--kills 2] [--ranks 1] [--seed 1]

Every third kill waits for the middle of a write (of a checkpoint or the model), every third for the last update (after
it come validation, averaging and the model); the others come after a random time. Exit status 1 if the weights of any
training are not, bit for bit, those of one that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from residualformer.config.schema import (
    Config,
    DataConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    PredictorConfig,
    TokenConfig,
    TrainConfig,
)
from residualformer.constants import MODEL_FILE
from residualformer.data.extract import compute_corpus_features
from residualformer.data.tokenizer import train_tokenizer
from residualformer.errors import run_main
from residualformer.model.checkpoint import fingerprint, read_model
from residualformer.train.ranks import joined_ranks
from residualformer.train.setup import make_trainer
from residualformer.workflow.options import OptionParser

CONFIG = Config(
    features=FeatureConfig(num_mel_bins=40),
    tokens=TokenConfig("char"),
    encoder=EncoderConfig(num_layers=2, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=2),
    predictor=PredictorConfig(embedding_dim=8, hidden_dim=16, num_layers=1),
    joiner=JoinerConfig(dim=16),
    data=DataConfig(speeds=[1.0], max_batch_s=4.0, num_buckets=2),
    train=TrainConfig(
        max_steps=30, average_last=3, save_every_steps=4, valid_every_steps=11, log_every_steps=5, batches_per_update=2
    ),
)
WORDS = "GO STOP HOME ENTER ONE TWO SIX NINE".split()
POLL_S = 0.0005


def write_corpus(folder: Path) -> None:
    """Write a corpus of noise with its features and tokens, as stages 1 to 3 do."""
    draw, cuts = np.random.default_rng(1), []
    (folder / "manifests").mkdir(parents=True)
    for n, word in enumerate(WORDS * 2):
        path = folder / f"u{n}.wav"
        soundfile.write(path, 0.1 * draw.standard_normal(16000 + 800 * n), 16000)
        recording = Recording.from_file(path, recording_id=f"u{n}")
        said = SupervisionSegment(f"u{n}", f"u{n}", 0.0, recording.duration, text=word)
        cuts.append(MonoCut(f"u{n}", 0.0, recording.duration, 0, [said], recording=recording))
    for name, part in (("train", cuts), ("dev", cuts[:1])):  # random models write many labels, so dev is short
        CutSet.from_cuts(part).to_file(folder / "manifests" / f"cuts_{name}.jsonl.gz")
    compute_corpus_features(folder / "manifests", folder / "fbank", CONFIG)
    train_tokenizer(WORDS, CONFIG.tokens).save(folder / "lang" / "tokenizer.json")


def start(data: Path, run: Path, world: int) -> list[int]:
    """Start the ranks of a training, which goes on where it was; return their process ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world):
        process = os.fork()  # of a process that has computed nothing, so that it has no threads
        if process == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            _train(data, run)
        processes.append(process)
    return processes


def _train(data: Path, run: Path) -> None:
    """Train in this process and end it."""
    try:
        os.dup2(os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        torch.set_num_threads(1)
        with joined_ranks() as ranks:
            trainer = make_trainer(CONFIG, data, run, None, "", ranks)
            if trainer:
                trainer.run()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def end(processes: list[int]) -> list[int]:
    """Wait for all processes; return their exit statuses, negative for signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def writing(run: Path) -> str:
    """Return the name of a file that is half-written, or ""."""
    names = [path.name for path in [*run.glob(".*"), *run.glob("checkpoints/.*")] if re.match(r"\.\d+\.", path.name)]
    return re.sub(r"^\.\d+\.", "", names[0]) if names else ""


def saved_step(run: Path) -> int:
    """Return the step of the newest state, 0 if there is none."""
    return max((int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/state-*")), default=0)


def wait_for_moment(kind: int, run: Path, longest_s: float, draw: random.Random) -> None:
    """Return at a random time (0), in the middle of a write (1) or after the last update (2), or when all is done."""
    until = time.monotonic() + draw.uniform(0, longest_s)
    left_alone, seen = draw.randrange(6), ""  # so many writes are not hit
    while not (run / MODEL_FILE).exists():
        name = writing(run) if kind == 1 else ""
        if name and name != seen:
            seen, left_alone = name, left_alone - 1
        if left_alone < 0 or (kind == 0 and time.monotonic() > until):
            return
        if kind == 2 and saved_step(run) == CONFIG.train.max_steps:
            time.sleep(draw.uniform(0, 0.1 * longest_s))
            return
        time.sleep(POLL_S)


def disturbed(data: Path, run: Path, args: argparse.Namespace, longest_s: float, draw: random.Random) -> list[str]:
    """Train, killed `args.kills` times; return a description of each kill."""
    told = []
    for _ in range(args.kills):
        kind = draw.randrange(3)
        processes = start(data, run, args.ranks)
        wait_for_moment(kind, run, longest_s, draw)
        victims = processes if draw.random() < 0.5 else draw.sample(processes, 1)
        for process in victims:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
        for process in processes:  # as torchrun does with those that are left
            os.kill(process, signal.SIGKILL)
        end(processes)
        half = writing(run)
        ended = "with the model written" if (run / MODEL_FILE).exists() else "between writes"
        state = f"while writing {half}" if half else ended
        told.append(f"{('any time', 'a write', 'the end')[kind]}: {state}, resumed at step {saved_step(run)}")
    statuses = end(start(data, run, args.ranks))
    if any(statuses):
        raise RuntimeError(f"{run.with_suffix('.log').read_text()}\nthe training ended with {statuses}")
    return told


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--trainings", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="of each training (%(default)s)")
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2), help="processes of a training (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (%(default)s)")
    args = parser.parse_args()
    draw, equal = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "data"
        prepared = os.fork()
        if prepared == 0:
            write_corpus(data)
            os._exit(0)
        if any(end([prepared])):
            sys.exit("the corpus could not be made")
        for name in ("straight", "again"):  # the first may compile
            began = time.monotonic()
            if any(end(start(data, folder / name, args.ranks))):
                sys.exit((folder / f"{name}.log").read_text())
            longest_s = time.monotonic() - began
        wanted = fingerprint(read_model(folder / "straight" / MODEL_FILE).weights)
        print(f"undisturbed: {longest_s:.1f} s, weights {wanted}", flush=True)
        for number in range(1, args.trainings + 1):
            run = folder / f"run{number}"
            told = disturbed(data, run, args, longest_s, draw)
            found = fingerprint(read_model(run / MODEL_FILE).weights)
            equal += found == wanted
            same = "equal" if found == wanted else f"DIFFERENT: {found}"
            print(f"{number:3} | {' | '.join(told)} | {same}", flush=True)
    print(f"{equal} of {args.trainings} trainings ended with the weights of the undisturbed one")
    sys.exit(equal != args.trainings)


if __name__ == "__main__":
    run_main(main)
