"""The environment that path.sh makes: pins, and what happens without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys


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
