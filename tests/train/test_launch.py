"""steps/train.py --nproc 2: what ends a rank or their agent, and how the training goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.toy_training import changed, write_toy_data

from residualformer.config.loading import dump_config
from residualformer.lock import alone_in
from residualformer.model import checkpoint

pytestmark = pytest.mark.slow  # each starts three Pythons that import torch
TROUBLED = Path(__file__).resolve().parents[1] / "support" / "troubled_training.py"
DEADLINE_S = 600.0  # never reached, unless a process hangs


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A folder with the data of a toy corpus and toy.yaml."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder / "data")
    config = changed("tokens", changed("train", batches_per_update=2, log_every_steps=1), kind="char")
    dump_config(config, folder / "toy.yaml")
    return folder


def training(toy: Path, exp: Path, trouble: str, *options: str) -> subprocess.Popen[str]:
    command = [TROUBLED, "--config", toy / "toy.yaml", "--data", toy / "data", "--exp", exp, "--nproc", "2", *options]
    environment = {**os.environ, "TROUBLE": trouble, "OMP_NUM_THREADS": "2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, text=True, **pipes)


def run(toy: Path, exp: Path, trouble: str, *options: str) -> tuple[int, str, str]:
    """Return exit status, output and errors."""
    with training(toy, exp, trouble, *options) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def fingerprint(exp: Path) -> str:
    return checkpoint.load_model(exp).info["fingerprint"]


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + DEADLINE_S
    for pid in pids:
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < end, pid
            time.sleep(0.1)


def rank_pids(exp: Path) -> list[int]:
    return [int(path.suffix[1:]) for path in exp.parent.glob("rank.*")]


def test_a_killed_rank_is_started_anew_and_the_result_is_the_same_bits(toy, tmp_path):
    straight, broken = tmp_path / "straight" / "run", tmp_path / "broken" / "run"
    status, out, err = run(toy, straight, "SIGCONT rank")  # which changes nothing
    assert status == 0 and out.count("6 steps in") == 1, err
    status, out, err = run(toy, broken, "SIGKILL rank")
    assert status == 0 and out.count("6 steps in") == 1, err
    assert len(rank_pids(broken)) == 4 and fingerprint(broken) == fingerprint(straight)


@pytest.mark.parametrize("trouble", ["SIGTERM rank", "SIGINT rank", "SIGTERM agent", "SIGINT agent"])
def test_a_stop_saves_once_ends_all_and_is_no_reason_to_start_anew(toy, tmp_path, trouble):
    exp = tmp_path / "run"
    status, out, err = run(
        toy, exp, trouble, "--set", "train.max_steps=1000000", "--set", "train.save_every_steps=1000000"
    )
    assert status == 130 and out.count("stopped at step") == out.count("and saved") == 1, err
    assert "Traceback" not in err and len(rank_pids(exp)) == 2
    assert len(list((exp / "checkpoints").iterdir())) == 1
    wait_until_gone(rank_pids(exp))


def test_no_rank_outlives_its_agent(toy, tmp_path):
    exp = tmp_path / "run"
    status, _, _ = run(toy, exp, "SIGKILL agent", "--set", "train.max_steps=1000000")
    assert status == -9 and len(rank_pids(exp)) == 2
    wait_until_gone(rank_pids(exp))


def test_a_mistake_is_told_once_and_a_folder_in_use_is_left_alone(toy, tmp_path):
    exp = tmp_path / "run"
    status, _, err = run(toy, exp, "SIGCONT rank", "--set", "tokens.kind=bpe", "--set", "tokens.vocab_size=30")
    assert status == 2 and err.count("error:") == 1 and "run stage 3 again" in err and "Traceback" not in err
    with alone_in(exp):
        status, _, err = run(toy, exp, "SIGCONT rank")
    assert status == 2 and "is in use by another run" in err and not exp.exists()
