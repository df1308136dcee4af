"""The help of every script lists all options, those of the corpus as well."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support.programs import run_program

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("egs/*/run.sh"))
OWN_OPTIONS = {  # of the corpora
    "alphanumeric": ["--corpus-dir"],
    "an4": ["--corpus-dir", "--synthetic", "--seed"],
    "common_voice": ["--corpus-dir"],
    "covost": ["--corpus-dir", "--mslt-dir"],
    "custom": ["--data", "--layout", "--target", "--case", "--punctuation", "--min-seconds", "--max-seconds"],
    "english": ["--librispeech", "--speechocean", "--common-voice", "--subset", "--url"],
    "librispeech": ["--corpus-dir", "--subset"],
    "phrases": [
        "--phrases",
        "--repeats",
        "--voices",
        "--other-share",
        "--other",
        "--engines",
        "--kokoro",
        "--piper",
        "--language",
        "--recordings",
    ],
    "mini": ["--train-hours", "--dev-minutes", "--test-minutes", "--long-test-hours", "--pauses", "--seed"],
    "speechocean": ["--corpus-dir", "--url"],
}


@pytest.mark.parametrize("script", ["run.sh", *RECIPES])
def test_help_lists_every_option(root, script):
    done = subprocess.run([root / script, "--help"], capture_output=True, text=True, cwd="/", check=True)
    named = re.search(r"--corpus (\w+)", (root / script).read_text(encoding="utf-8"))
    corpus = named[1] if named and script != "run.sh" else "mini"
    common = ["--stage", "--stop-stage", "--set", "--overwrite", "--experiments", "--name", "--jobs"]
    for option in common + OWN_OPTIONS[corpus]:
        assert f"  {option} " in done.stdout
    assert done.stdout.count("  --synthetic ") == (corpus == "an4")
    assert f"which corpus: local/NAME.py ({corpus})" in done.stdout


SCRIPTS = sorted(
    str(path.relative_to(path.parents[1]))
    for folder in ("steps", "local", "utils")
    for path in (ROOT / folder).glob("*.py")
    if "run_main(main)" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_help_and_names_the_closest_option(script):
    done = run_program(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage:")
    done = run_program(script, "--hlp")
    assert done.returncode == 2 and "there is no option '--hlp'. Did you mean '--help'?" in done.stderr
