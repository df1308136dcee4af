"""What utils/test.sh hands to pytest."""

from __future__ import annotations

import os
import subprocess

import pytest


@pytest.fixture
def call(root, tmp_path):
    """A function that calls utils/test.sh on a machine of some cores; it returns threads and the words for pytest."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\n[ "$1" = -S ] && echo yes || echo "$OMP_NUM_THREADS" "$@"\n')  # -S: is it a Python?
    (tmp_path / "nproc").write_text('#!/bin/bash\necho "$CORES"\n')
    (tmp_path / "lscpu").write_text('#!/bin/bash\nfor ((i = 0; i < CORES; i++)); do echo "$i,0"; done\n')
    for each in tmp_path.iterdir():
        each.chmod(0o755)

    def run(cores: int, *words: str, **environment: str) -> list[str]:
        kept = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        env = kept | {"PATH": path, "RESIDUALFORMER_PYTHON": str(python), "CORES": str(cores)} | environment
        done = subprocess.run(["bash", root / "utils/test.sh", *words], env=env, capture_output=True, check=True)
        return done.stdout.decode().split()

    return run


def test_each_core_gets_a_process_of_one_thread(call):
    assert call(3) == "1 -m pytest -q -n 3 --dist worksteal".split()
    assert call(3, "-m", "slow", "-rs") == "1 -m pytest -q -n 3 --dist worksteal -m slow -rs".split()
    assert call(3, OMP_NUM_THREADS="2")[0] == "2"


@pytest.mark.parametrize("words", [["-n", "0"], ["-n8"], ["--numprocesses=2"], ["-x", "--pdb"], ["-m", "gpu"]])
def test_processes_that_are_asked_for_or_make_no_sense_are_left_alone(call, words):
    assert call(3, *words) == ["3", "-m", "pytest", "-q", *words]


def test_one_core_gets_no_further_process(call):
    assert call(1, "tests/nn") == "1 -m pytest -q tests/nn".split()
