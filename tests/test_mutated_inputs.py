"""Damaged and odd inputs to every loader; `benchmarks/mutate_inputs.py --count 10000` tries more."""

from __future__ import annotations

import os
import subprocess
import sys


def test_every_mutated_input_is_read_or_refused_in_a_sentence(root):
    """Three inputs for each loader, always the same."""
    command = [sys.executable, "benchmarks/mutate_inputs.py", "--each", "3", "--limit", "600"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
