"""The stage script on a made-up corpus whose steps only leave a trace: options, skipping, running again, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support.fake_recipe import CONFS, DATA, RUNS

from residualformer.workflow.marker import Marker


def test_all_stages_run_in_order(finished_folder):
    assert finished_folder.calls == DATA + RUNS + RUNS + ["score.sh"]


def test_stage_options_select(recipe):
    recipe.run("--stage", "0", "--stop-stage=2")
    assert recipe.calls == DATA[:3]
    recipe.run("--stage=3", "--stop-stage", "4")
    assert recipe.calls == DATA[3:] + RUNS[:2]


def test_stages_that_train_none_of_the_experiments_say_which_do(recipe):
    recipe.run("--stop-stage", "4", "--experiments", "shared")
    assert recipe.calls
    said = recipe.run("--stage", "4", "--stop-stage", "4", "--experiments", "residual").stdout
    assert said == "nothing to train: residual is trained in stage 5\n" and recipe.calls == []
    assert "nothing to train" not in recipe.run("--stage", "4", "--experiments", "residual").stdout


def test_stage_9_exports_on_demand_what_was_trained(finished):
    finished.run("--stop-stage", "9", "--experiments", "baseline shared")
    assert finished.calls == ["score.sh", "baseline", "shared"]
    call = "export.py egs/fake/exp/baseline --int8 --config conf/fake/baseline.yaml"
    assert call in (finished.folder / "calls.txt").read_text()
    done = finished.run("--stage", "9", "--stop-stage", "9", "--experiments", "shared residual")
    assert finished.calls == ["residual"] and done.stdout.count("skipped, done before") == 1
    finished.run("--stage", "9", "--stop-stage", "9", "--experiments", "shared", "--set", "decode.beam=2")
    assert finished.calls == ["shared"]  # what is shipped searches as stage 7 does


def test_what_is_done_is_skipped_and_said(finished):
    done = finished.run()
    assert finished.calls == ["score.sh"]
    assert done.stdout.count("skipped, done before") == 10


def test_a_changed_option_runs_again_what_depends_on_it(finished):
    done = finished.run("--set", "features.num_mel_bins=40")
    assert finished.calls == DATA[2:3] + RUNS + RUNS + ["score.sh"]
    assert "runs again: features.num_mel_bins 80 -> 40" in done.stdout
    assert "input egs/fake/data/fbank was made with other options" in done.stdout
    assert "is kept in egs/fake/exp/old/baseline.1" in done.stdout
    assert (finished.folder / "egs/fake/exp/old/baseline.1/model.safetensors").is_file()


def test_the_back_end_of_the_features_is_passed_on(recipe):
    recipe.run("--stop-stage", "2", "--feature-backend", "kaldifeat")
    assert "--backend kaldifeat" in (recipe.folder / "calls.txt").read_text()


def test_the_device_is_passed_on_and_changes_nothing(recipe):
    recipe.run("--device", "cpu", "--experiments", "baseline", "--stop-stage", "7")
    calls = (recipe.folder / "calls.txt").read_text().splitlines()
    assert [line.split()[0] for line in calls if " --device cpu" in line] == ["train.py", "decode.py"]
    recipe.run("--experiments", "baseline", "--stop-stage", "7")
    assert recipe.calls == []


def test_a_recipe_has_configurations_and_a_folder_of_its_own(recipe):
    for name, text in CONFS.items():
        recipe.write(f"conf/other/{name}.yaml", text)
    recipe.run("--recipe", "other", "--stop-stage", "4", "--part", "2")
    calls = (recipe.folder / "calls.txt").read_text()
    assert "conf/other/baseline.yaml" in calls and "egs/fake" not in calls
    assert calls.count("--part 2") == 2 and (recipe.folder / "egs/other/exp/baseline/model.safetensors").is_file()


def test_another_search_does_not_train_again(finished):
    finished.run("--set", "decode.kind=greedy")
    assert finished.calls == RUNS + ["score.sh"]


def test_a_changed_experiment_runs_again_with_those_that_start_from_it(finished):
    finished.write("conf/fake/shared.yaml", "base: base.yaml\nencoder: {sharing: 4}")
    finished.run()
    assert finished.calls == ["shared", "residual"] * 2 + ["score.sh"]


def test_a_key_that_is_newer_than_a_run_had_its_default(finished):
    marker = finished.folder / "egs/fake/exp/residual/.decode_test.done"
    content = Marker.read(marker)
    del content.identity["decode.nbest"]
    content.write(marker)
    finished.run()
    assert finished.calls == ["score.sh"]
    finished.run("--set", "decode.nbest=5")
    assert finished.calls == RUNS + ["score.sh"]


def test_comments_descriptions_and_jobs_change_nothing(finished):
    finished.write("conf/fake/base.yaml", "# comment\ndescription: another\n" + CONFS["base"])
    finished.run("--jobs", "1")
    assert finished.calls == ["score.sh"]


def test_jobs_share_the_decoding(recipe):
    recipe.run("--stop-stage", "6")
    stage = ["--stage", "7", "--stop-stage", "7", "--experiments", "baseline shared"]
    done = recipe.run(*stage, "--job", "2/2", "--nproc", "3")
    lines = (recipe.folder / "calls.txt").read_text().splitlines()
    assert len(lines) == 2 and all(" --jobs 3 " in line and line.endswith(" --job 2/2") for line in lines)
    assert "stage 7: decode test with shared, job 2/2" in done.stdout
    recipe.run(*stage)  # puts the results together
    assert recipe.calls == RUNS[:2] and " --job " not in (recipe.folder / "calls.txt").read_text()
    recipe.run(*stage, "--job", "1/2")
    assert recipe.calls == []


def test_a_lost_result_is_made_again(finished):
    (finished.folder / "egs/fake/exp/shared/model.safetensors").unlink()
    finished.run()
    assert finished.calls == ["shared", "score.sh"]


def test_a_damaged_result_is_made_again_and_trainings_stay(finished):
    finished.write("egs/fake/data/lang/tokenizer.json", "mad")
    done = finished.run()
    assert finished.calls == ["train_tokenizer.py", "score.sh"]
    assert "runs again: egs/fake/data/lang/tokenizer.json is not as it was made" in done.stdout
    finished.run()
    assert finished.calls == ["score.sh"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"finished": true, "identity": []}', '{"finished": true, "identity": {}, "made": []}']
)
def test_a_damaged_marker_is_not_trusted(finished, content):
    finished.write("egs/fake/data/.lang.done", content)
    finished.run("--stage", "3", "--stop-stage", "3")
    assert finished.calls == DATA[3:]


def test_ctrl_c_ends_a_stage_without_a_traceback(root, tmp_path):
    """Also while the command still imports, when nothing in it could catch the interrupt."""
    code = (
        "import sys; from pathlib import Path\n"
        "from residualformer.errors import run_main; from residualformer.workflow.step import Step, run_step\n"
        "slow = ['-c', 'print(\"importing\", flush=True); import time; time.sleep(60)']\n"
        "step = Step(1, 't', slow, Path(sys.argv[1], 'out'))\n"
        "run_main(lambda: sys.exit(run_step(step)))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        while process.stdout.readline().strip() != "importing":
            pass
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and told.strip() == "interrupted; the same command goes on from here"
    assert json.loads((tmp_path / ".out.done").read_text())["finished"] is False


def test_overwrite_runs_everything_again(finished):
    finished.run("--overwrite", "--stage", "2", "--stop-stage", "3")
    assert finished.calls == DATA[2:]


def test_a_failure_stops_all_and_is_not_taken_for_done(finished):
    finished.write("fail.txt", "compute_fbank.py")
    finished.run("--set", "features.num_mel_bins=40", status=2)
    assert finished.calls == DATA[2:3]
    finished.run("--set", "features.num_mel_bins=40", "--stage", "4", status=2)  # the old features are not trusted
    assert finished.calls == []
    (finished.folder / "fail.txt").unlink()
    finished.run("--set", "features.num_mel_bins=40", "--stop-stage", "2")
    assert finished.calls == DATA[2:3]


def test_an_interrupted_training_goes_on_in_its_folder(finished):
    finished.write("fail.txt", "exp/baseline")
    finished.write("late.txt", "when its folder is there")
    finished.run("--set", "train.seed=2", status=2)
    (finished.folder / "fail.txt").unlink()
    done = finished.run("--set", "train.seed=2", "--stop-stage", "4", "--experiments", "baseline")
    assert "is kept in" not in done.stdout


def test_a_stage_without_what_it_needs_says_so(recipe):
    done = recipe.run_script("--stage", "4", status=2)
    assert "error: stage 4 needs egs/fake/data/fbank, which is not finished" in done.stderr


def test_a_place_that_refuses_writes_is_named(recipe):
    recipe.write("egs/fake/data", "a file where a folder should be")
    done = recipe.run_script(status=2)
    assert done.stderr.startswith("error: cannot read or write egs/fake/data") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stgae", "3"], "there is no option '--stgae'. Did you mean '--stage'?"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "--jobs", "1"], "--stage needs a value"),
        (["--stage", "two"], "--stage is 'two'; it must be a whole number"),
        (["--hours", "x"], "--hours is 'x'; it must be a number"),
        (["--overwrite=maybe"], "--overwrite is 'maybe'; it must be true or false"),
        (["--stage", "9" * 23], "it must be a whole number, 0 or more, of 18 digits at most"),
        (["--experiments", ""], "--experiments is empty; give it a value, or leave it out"),
        (["--corpus-dir", " "], "--corpus-dir is empty; give it a value, or leave it out"),
        (["--python", "/etc"], "'/etc' is not a Python"),
        (["--python", "/bin/true"], "'/bin/true' is not a Python"),
        (["-s"], "there is no option '-s'"),
        (["stray"], "there is no use for the argument 'stray'"),
        (["--corpus", "fakes"], "there is no corpus 'fakes'"),
        (["--recipe", "fakes"], "there is no recipe 'fakes'"),
        (["--part"], "--part needs a value"),
        (["--train-hours", "1"], "there is no option '--train-hours'. Did you mean '--hours'?"),
        (["--synthetic=9"], "there is no option '--synthetic'"),
        (["--name", "a/b"], "--name 'a/b' must be made of letters"),
        (["--stage", "10"], "--stage 10: the last stage is 9"),
        (["--job", "3/2"], "--job is '3/2'; give the job's number and how many there are, such as 2/8"),
        (["--job", "1/2"], "--job 1/2 is for stage 7 alone: --stage 7 --stop-stage 7"),
        (["--device", "gpu"], "--device 'gpu' is no device; give one of auto, cpu, cuda, cuda:N"),
        (["--nproc", "2"], "2 processes, but an update has train.batches_per_update = 1 batches"),
        (["--stop-stage", "10"], "--stop-stage 10: the last stage is 9"),
        (["--stage", "5", "--stop-stage", "4"], "--stage 5 comes after --stop-stage 4"),
        (["--experiments", "baseline shard"], "there is no experiment 'shard'"),
        (["--set", "encoder.num_layer=3"], "there is no key encoder.num_layer. Did you mean 'num_layers'?"),
    ],
)
def test_wrong_options_are_refused_before_any_work(recipe, options, words):
    run = recipe.run_script if "--python" in options else recipe.run
    done = run(*options, status=2)
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert recipe.calls == [] and not (recipe.folder / "egs").exists()
