"""The environment that path.sh makes: pins, and what happens without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


def test_pins_are_checked(root):
    """Without site-packages nothing is installed, and every pin is missed."""
    bare = subprocess.run([sys.executable, "-S", "utils/pins.py"], capture_output=True, text=True, cwd=root)
    assert bare.returncode == 1 and bare.stderr.startswith("found annotated-types nothing (not ")
    assert "torch nothing (not 2.13.0)" in bare.stderr


def test_no_network_ends_in_a_sentence_and_no_environment(root, tmp_path):
    """The bootstrap with package indexes switched off."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "utils", tmp_path / "utils")
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    (stub.parent / "python3").symlink_to(sys.executable)
    environment = {
        "PATH": f"{stub.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": "/dev/null",
    }
    done = subprocess.run(["bash", tmp_path / "utils/environment.sh"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stdout == ""
    assert "error: the packages could not be installed into" in done.stderr.splitlines()[-1]
    assert not (tmp_path / ".venv/.complete").exists()


@pytest.fixture
def bootstrap(root, tmp_path):
    """The script on a machine whose Python cannot make environments, with some commands; returns its messages."""
    commands = tmp_path / "bin"
    commands.mkdir()
    shutil.copytree(root / "utils", tmp_path / "utils")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    for name in ("bash", "cat", "cmp", "dirname", "mkdir"):  # and no other, such as nvidia-smi
        (commands / name).symlink_to(str(shutil.which(name)))

    code = 'case "$*" in *version_info*) ;; --version) echo Python 3.12 ;; *) exit 1 ;; esac'

    def run(*stubs: str, **environment: str) -> str:
        for name in ("python3", *stubs):
            stub = commands / name
            stub.write_text(f"#!/bin/bash\n{code}\n")
            stub.chmod(0o755)
        script = [shutil.which("bash"), tmp_path / "utils/environment.sh"]
        environment |= {"PATH": str(commands), "HOME": str(tmp_path)}
        done = subprocess.run(script, capture_output=True, text=True, env=environment)
        assert done.returncode == 1 and done.stdout == ""
        return done.stderr

    return run


CPU, CUDA = "PyTorch for the CPU: 1.3 GB in all", "PyTorch for CUDA: several GB"


@pytest.mark.parametrize(
    ("stubs", "asked", "expected"),
    [
        ([], None, CPU),
        (["nvidia-smi"], None, CUDA),
        (["nvidia-smi"], "auto", CUDA),
        (["nvidia-smi"], "cpu", CPU),
        ([], "cuda", CUDA),
    ],
)
def test_the_build_of_pytorch_fits_the_machine_or_is_chosen_and_is_told(bootstrap, stubs, asked, expected):
    messages = bootstrap(*stubs, **({} if asked is None else {"RESIDUALFORMER_TORCH": asked}))
    assert expected in messages and (CPU in messages) != (CUDA in messages)


def test_another_build_is_refused(bootstrap):
    messages = bootstrap(RESIDUALFORMER_TORCH="rocm")
    assert "error: RESIDUALFORMER_TORCH is 'rocm'; it must be cpu, cuda or auto" in messages
