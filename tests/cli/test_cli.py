"""The command line: `params` prints JSON, wrong commands and files end in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.programs import run_program


def call(*arguments: str) -> subprocess.CompletedProcess:
    """Run `python -m residualformer` with arguments."""
    return run_program("-m", "residualformer", *arguments)


def test_params_prints_the_papers_column():
    """K = 1 of the paper: 18 layers x (12 d^2 weights + 9 d biases), d = 512, FFN 4 d."""
    done = call("params", "--config", "conf/paper_asr.yaml", "--set", "encoder.sharing=1")
    counts = json.loads(done.stdout)
    assert done.stderr == "" and counts["transformer"] == 18 * (12 * 512**2 + 9 * 512)
    assert {"transformer", "residual", "total", "training_only"} <= counts.keys() and counts["residual"] == 0


def test_params_compresses_to_a_cost():
    done = call("params", "--config", "conf/librispeech_amnet/mf.yaml", "--mflop", "24.6")
    found = json.loads(done.stdout)
    flops = found["flops_per_frame"]
    assert 24.5e6 < flops["output"] + sum(flops["branches"]) <= 24.6e6 and 0.4 < found["amnet.compression"][0] < 0.5
    done = call("params", "--config", "conf/librispeech_amnet/mf.yaml", "--mflop", "50")
    assert done.returncode == 2 and "at most the 38.54 of the dense layers" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parms"], "there is no command 'parms'. Did you mean 'params'?"),
        (["params"], "the following arguments are required: --config"),
        (["params", "--conf", "conf/paper_asr.yaml"], "no option '--conf'. Did you mean '--config'?"),
        (["params", "--config", "conf/paper_asr.yml"], "is not a file. Did you mean 'paper_asr.yaml'?"),
        (["params", "--config", "conf/paper_asr.yaml", "--set", "sharing=3"], "Did you mean 'encoder.sharing'?"),
    ],
)
def test_wrong_commands_end_in_a_sentence(arguments, words):
    done = call(*arguments)
    assert done.returncode == 2 and done.stdout == "" and words in done.stderr and "Traceback" not in done.stderr


def test_help_names_the_commands():
    done = call()
    assert done.returncode == 0 and "params" in done.stdout and "transcribe" in done.stdout


def test_a_command_imports_its_own_module_alone(root):
    code = (
        "import sys, residualformer.cli as cli\n"
        "sys.argv[1:] = ['params', '--config', 'conf/paper_asr.yaml']\n"
        "cli.main()\n"
        "sys.exit('residualformer.cli.transcribe' in sys.modules or 'residualformer.cli.params' not in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, env={"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr.decode()
