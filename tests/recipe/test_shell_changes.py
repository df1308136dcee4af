"""The stage script: what counts as changed, as the same, and as missing; see test_shell.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fake_recipe import RUNS

from residualformer.errors import UserError
from residualformer.lock import alone_in
from residualformer.workflow.marker import Marker


def test_other_features_are_decoded_without_training_again_where_only_that_is_asked(finished):
    """As after a mended transcript of the test set."""
    finished.run("--stop-stage", "2", "--part", "lower")
    done = finished.run("--stage", "7")
    assert finished.calls == RUNS + ["score.sh"]
    assert "runs again: input egs/fake/data/fbank was made with other options" in done.stdout


def test_an_input_that_older_markers_do_not_tell_is_no_change(finished):
    for name in RUNS:
        marker = finished.folder / f"egs/fake/exp/{name}/.decode_test.done"
        content = Marker.read(marker)
        del content.identity["input egs/fake/data/fbank"]
        content.write(marker)
    finished.run()
    assert finished.calls == ["score.sh"]


def test_a_corpus_is_the_same_however_its_folder_is_written(recipe):
    place = recipe.folder / "my data"
    (place / "fake").mkdir(parents=True)
    recipe.run("--stop-stage", "1", "--corpus-dir", str(place / "fake"))
    assert (recipe.folder / "calls.txt").read_text().count(f"--corpus-dir {place}/fake ") == 2  # stages 0 and 1
    relative = str(place)[1:] + "/fake"  # both call from /
    for again in (f"{place}/fake/", f"{place}//fake", f"{place}/../my data/./fake", relative):
        recipe.run("--stop-stage", "1", "--corpus-dir", again)
        assert recipe.calls == []
    recipe.run_script("--stop-stage", "1", "--corpus-dir", relative)
    assert recipe.calls == []


def test_reproduce_takes_a_relative_path_from_where_it_was_called(root, recipe):
    shutil.copy(root / "local/reproduce.sh", recipe.folder / "local")
    recipe.write("steps/table.py", "")
    recipe.write("egs/fake/run.sh", 'exec "${0%/*}/../../run.sh" --corpus fake "$@"\n')
    table = "{title: t, source: s, metric: WER, baseline: baseline, rows: [{name: r, cells: [{experiment: shared}]}]}"
    recipe.write("conf/tables/table9.yaml", table)
    recipe.write("my data/mine.yaml", "train: {seed: 7}")
    command = ["bash", "../local/reproduce.sh", "--table", "9", "--corpus", "fake", "--set", "@mine.yaml"]
    command += ["--", "--corpus-dir", "a corpus"]
    environment = os.environ | {"RESIDUALFORMER_PYTHON": sys.executable}
    subprocess.run(command, cwd=recipe.folder / "my data", env=environment, check=True, capture_output=True)
    assert f"--corpus-dir {recipe.folder}/my data/a corpus " in (recipe.folder / "calls.txt").read_text()
    assert json.loads((recipe.folder / "egs/fake/exp/.shared.done").read_text())["identity"]["train.seed"] == 7
    refused = ["bash", "local/reproduce.sh", "--table", "9", "--corpus", "fake", "--", "--name=x"]
    done = subprocess.run(refused, cwd=recipe.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "--name=x: give it before the --" in done.stderr


def test_an_experiment_that_needs_another_says_which_before_any_work(recipe):
    done = recipe.run("--experiments", "residual", status=2)
    assert 'residual needs shared, which is not trained: --experiments "shared residual"' in done.stderr
    assert recipe.calls == []
    recipe.run("--stop-stage", "4", "--experiments", "shared")
    recipe.run("--stop-stage", "5", "--experiments", "residual")
    assert recipe.calls == ["residual"]


def test_a_training_that_is_refused_leaves_the_finished_one_where_it_was(finished):
    """As where the features are of another kind than `--set` asks for; else the next call would train for hours."""
    finished.write("fail.txt", "train.py")
    done = finished.run("--set", "train.seed=2", status=2)
    assert "egs/fake/exp/baseline is as it was" in done.stdout
    (finished.folder / "fail.txt").unlink()
    finished.run()
    assert finished.calls == ["score.sh"] and not any((finished.folder / "egs/fake/exp/old").iterdir())
    finished.run("--set", "train.seed=2", "--stop-stage", "4")
    assert finished.calls == RUNS[:2]


def test_cdpath_of_the_user_leads_nowhere_else(root, recipe):
    shutil.copy(root / "local/score.sh", recipe.folder / "local")
    recipe.write("steps/score.py", "")
    (recipe.folder / "else/local").mkdir(parents=True)
    environment = os.environ | {"RESIDUALFORMER_PYTHON": sys.executable, "CDPATH": "else"}
    done = subprocess.run(["bash", "local/score.sh"], cwd=recipe.folder, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_damaged_marker_of_a_training_moves_nothing_aside(finished):
    """The training is called, finds its model to be the one that is wanted, and ends; no other runs again."""
    marker = finished.folder / "egs/fake/exp/.baseline.done"
    text = marker.read_text()
    marker.write_text(text.replace('"train.seed": 1', '"train.seed": 7'))
    assert marker.read_text() != text
    finished.run()
    assert finished.calls == ["baseline", "score.sh"] and not (finished.folder / "egs/fake/exp/old").exists()
    assert marker.read_text() == text


def test_a_folder_in_which_a_training_runs_stays(finished):
    exp = finished.folder / "egs/fake/exp"
    before = (exp / ".baseline.done").read_text()
    with alone_in(exp / "baseline"):
        done = finished.run("--set", "train.seed=2", status=2)
        assert "egs/fake/exp/baseline is in use by another run; wait until it ends, or stop it" in done.stderr
        assert (exp / "baseline/model.safetensors").is_file() and (exp / ".baseline.done").read_text() == before
        finished.run()  # what is done needs no lock
    finished.run("--set", "train.seed=2", "--stop-stage", "4")
    assert finished.calls == RUNS[:2] and (exp / "old/baseline.1/model.safetensors").is_file()


SLOW = """
import signal, sys, time
from pathlib import Path
from residualformer.errors import UserError
from residualformer.lock import alone_in
exp = Path(sys.argv[sys.argv.index("--exp") + 1])
def save(number, frame):
    Path("saved.txt").write_text(str(number))
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
with alone_in(exp):
    Path("started.txt").touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_script_alone_ends_the_training(recipe, number):
    recipe.write("steps/train.py", SLOW)
    recipe.run("--stop-stage", "3")
    command = [str(recipe.folder / "run.sh"), "--corpus", "fake", "--python", sys.executable, "--stage", "4"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(recipe.folder / "started.txt")
        process.send_signal(number)
    wait_for(recipe.folder / "saved.txt")
    exp = recipe.folder / "egs/fake/exp/baseline"
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with alone_in(exp):
                return
        except UserError:
            time.sleep(0.1)
    raise AssertionError("the run folder is still in use")


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(("given", "kept"), [(("2024", "mydata"), "mydata"), (("true", "mydata"), "mydata")])
def test_the_last_of_an_option_that_is_given_twice_counts(recipe, given, kept):
    """Whatever the first looks like: its type is declared, not guessed from the value."""
    names = [word for name in given for word in ("--name", name)]
    recipe.run(*names, "--stop-stage", "0")
    assert (recipe.folder / "egs" / kept / "data/.raw.done").is_file() and len(list(recipe.folder.glob("egs/*"))) == 1


def test_switches_and_values_behind_an_equals_sign(finished):
    for switch in (["--overwrite"], ["--overwrite=true"], ["--overwrite", "true"]):
        finished.run_script("--stage=2", "--stop-stage=2", *switch)
        assert finished.calls == ["compute_fbank.py"]
    finished.run("--stage=2", "--stop-stage=2", "--overwrite", "false")
    assert finished.calls == []


def test_a_training_goes_on_with_other_options_only_when_that_is_asked_for(finished):
    exp, options = finished.folder / "egs/fake/exp", ["--stop-stage", "4", "--experiments", "baseline"]
    marker = (exp / ".baseline.done").read_text()
    longer = [*options, "--set", "train.max_steps=9"]
    done = finished.run(*longer, "--if-changed", "refuse", status=2)
    assert "egs/fake/exp/baseline is of another configuration (train.max_steps 350000 -> 9)" in done.stderr
    other = [*options, "--set", "encoder.num_heads=2", "--if-changed", "go-on"]
    done = finished.run(*other, status=2)
    assert "egs/fake/exp/baseline cannot go on with encoder.num_heads 8 -> 2" in done.stderr
    assert finished.calls == [] and (exp / ".baseline.done").read_text() == marker
    done = finished.run(*longer, "--if-changed", "go-on")
    assert "runs again: train.max_steps 350000 -> 9" in done.stdout and finished.calls == ["baseline"]
    assert "--if-changed go-on" in (finished.folder / "calls.txt").read_text().splitlines()[-1]
    assert not (exp / "old").exists()
    finished.run(*longer)  # the change is made
    assert finished.calls == []
