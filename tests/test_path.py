"""What `path.sh` sets, that it leaves what the user has set, and that a resumed training runs with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from residualformer.train.setup import sibling
from steps.train import resume_script

ROOT = Path(__file__).parent.parent
NAMES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
)


def sourced(**given: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in NAMES}
    env = kept | {"RESIDUALFORMER_PYTHON": sys.executable} | given
    shell = f'. ./path.sh; for each in {" ".join(NAMES)}; do echo "$each ${{!each}}"; done'
    done = subprocess.run(["bash", "-euc", shell], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def test_threads_of_two_trainings_do_not_wait_by_spinning_for_long():
    values = sourced()
    assert 1 <= int(values["OMP_NUM_THREADS"]) <= os.cpu_count()
    assert values["MKL_NUM_THREADS"] == values["OMP_NUM_THREADS"]
    assert int(values["GOMP_SPINCOUNT"]) < 300_000  # libgomp's default


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_has_set_stays(name):
    assert sourced(**{name: "70000"})[name] == "70000"


def test_a_resumed_training_runs_with_the_same_settings(tmp_path, monkeypatch):
    told = "import os, sys, residualformer; print(os.getcwd(), *(os.environ[name] for name in sys.argv[1:7]), sep='|')"
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["-c", told, *NAMES])
    (tmp_path / "resume.sh").write_text(resume_script("refuse"))
    env = {key: value for key, value in os.environ.items() if key not in (*NAMES, "PYTHONPATH")}
    script = tmp_path / "resume.sh"
    done = subprocess.run(["bash", script], cwd="/", env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip().split("|") == [str(folder), *sourced().values()]


def test_a_run_that_was_moved_aside_goes_on_where_it_is_and_moves_nothing(tmp_path, monkeypatch):
    """Not in its former place, where by then another run is."""
    monkeypatch.chdir(tmp_path)
    told = "import sys; print(*sys.argv[1:], sep='|')"
    monkeypatch.setattr(sys, "argv", ["-c", told, "--exp", "exp/new", "--if-changed", "aside"])
    moved = tmp_path / "exp" / "old" / "it's.1"
    moved.mkdir(parents=True)
    (moved / "resume.sh").write_text(resume_script("aside"))
    done = subprocess.run(["bash", moved / "resume.sh"], cwd="/", capture_output=True, text=True, check=True)
    arguments = done.stdout.strip().split("|")
    assert arguments[-4:] == ["--if-changed", "refuse", "--exp", str(moved)]  # the last ones count


def test_a_moved_run_finds_the_run_that_it_started_from(tmp_path):
    assert sibling(tmp_path / "exp" / "residual", "shared") == tmp_path / "exp" / "shared"
    assert sibling(tmp_path / "exp" / "old" / "residual.1", "shared") == tmp_path / "exp" / "shared"
