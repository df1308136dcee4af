"""steps/train.py --nproc 2: what ends a rank or their agent, and how the training goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from support.toy_training import changed, write_toy_data

from residualformer.config.loading import dump_config
from residualformer.lock import alone_in
from residualformer.model import checkpoint
from residualformer.train.nodes import PORTS

pytestmark = pytest.mark.slow  # each starts three Pythons that import torch
TROUBLED = Path(__file__).resolve().parents[1] / "support" / "troubled_training.py"
DEADLINE_S = 600.0  # never reached, unless a process hangs
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
NONE: Mapping[str, str] = MappingProxyType({})

# What stands for Slurm: the command once for each machine, all of them here.
SRUN = """#!/usr/bin/env bash
nodes=1 status=0
while [[ $1 == --* ]]; do
    case $1 in --nodes=*) nodes=${1#*=} ;; esac
    shift
done
for ((node = 0; node < nodes; node++)); do
    SLURM_NODEID=$node "$@" &
done
for job in $(jobs -p); do wait "$job" || status=$?; done
exit "$status"
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A folder with the data of a toy corpus and toy.yaml."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder / "data")
    config = changed("tokens", changed("train", batches_per_update=2, log_every_steps=1), kind="char")
    dump_config(config, folder / "toy.yaml")
    return folder


def training(
    toy: Path, exp: Path, trouble: str, *options: str, nproc: int = 2, variables: Mapping[str, str] = NONE
) -> subprocess.Popen[str]:
    command = [TROUBLED, "--config", toy / "toy.yaml", "--data", toy / "data", "--exp", exp, "--nproc", nproc, *options]
    environment = {**os.environ, "TROUBLE": trouble, **dict.fromkeys(THREADS, "2"), **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, text=True, **pipes)


def run(toy: Path, exp: Path, trouble: str, *options: str, **others: Any) -> tuple[int, str, str]:
    """Return exit status, output and errors."""
    with training(toy, exp, trouble, *options, **others) as process:
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


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """Variables of a job of Slurm whose machines are this one."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN, encoding="utf-8")
    srun.chmod(0o755)
    job = next(number for number, port in enumerate(PORTS) if is_free(port))
    path = os.pathsep.join([str(srun.parent), os.environ["PATH"]])
    names = {"PATH": path, "SLURM_JOB_ID": str(job), "SLURMD_NODENAME": "localhost"}
    return {**names, **dict.fromkeys(THREADS, "1")}  # as of two ranks on one machine: two may round otherwise than one


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("localhost", port))
        except OSError:
            return False
    return True


def test_two_machines_train_what_one_does_through_a_kill_and_a_stop(toy, tmp_path, slurm):
    one, killed, stopped = (tmp_path / name / "run" for name in ("one", "killed", "stopped"))
    status, _, err = run(toy, one, "SIGCONT rank")
    assert status == 0, err
    status, out, err = run(toy, killed, "SIGKILL rank", "--nodes", "2", nproc=1, variables=slurm)
    assert status == 0 and out.count("6 steps in") == 1, err
    assert len(rank_pids(killed)) == 4 and fingerprint(killed) == fingerprint(one)
    endless = ["--set", "train.max_steps=1000000", "--set", "train.save_every_steps=1000000"]
    status, out, err = run(toy, stopped, "SIGTERM rank", "--nodes", "2", *endless, nproc=1, variables=slurm)
    assert status == 130 and out.count("stopped at step") == 1 and len(rank_pids(stopped)) == 2, err
    wait_until_gone(rank_pids(stopped))
    assert not list(tmp_path.glob("*/.ranks.*"))


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
