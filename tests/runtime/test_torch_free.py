"""An exported folder is transcribed with the packages of a plain installation, without those of training."""

import subprocess
import sys

import pytest
import soundfile
from support.exported import RATE, exported, random_bundle, utterances

BLOCKED = "torch lhotse numba sacrebleu jiwer matplotlib pydantic tensorboard onnx pandas scipy".split()
CODE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv[1:] = {arguments}
from residualformer.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = exported(
        random_bundle("transformer", "lstm", "sherpa"), "nemo", tmp_path_factory.mktemp("free") / "export", int8=True
    )
    soundfile.write(folder / "speech.wav", utterances()[1], RATE)
    return folder


def run(root, blocked: list[str], *arguments) -> subprocess.CompletedProcess:
    code = CODE.format(blocked=blocked, arguments=[str(argument) for argument in arguments])
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize("options", [[], ["--int8", "--beam", 2, "--json"], ["--lean"]], ids=str)
def test_transcribe_needs_no_package_of_training(root, folder, options):
    blocked = [*BLOCKED, "onnxruntime"] if "--lean" in options else BLOCKED
    done = run(root, blocked, "transcribe", "--model", folder, folder / "speech.wav", *options)
    assert done.returncode == 0, done.stderr
    everything = run(root, [], "transcribe", "--model", folder, folder / "speech.wav", *options)
    assert done.stdout.split('"latencies"')[0] == everything.stdout.split('"latencies"')[0] != ""


def test_the_help_needs_no_package_of_training(root):
    done = run(root, BLOCKED, "transcribe", "--help")
    assert done.returncode == 0 and "--lean" in done.stdout
