"""Nothing in your own data is executed: sources of cuts, transforms, names of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from custom_data import LAYOUTS, utterances
from lhotse import AudioSource, CutSet
from lhotse.utils import fastcopy

from residualformer.workflow.inputs import AUDIO, files_below


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("command", ""), ("url", "pipe:"), ("url", "http://127.0.0.1:9/"), ("memory", ""), ("shar", "")],
)
def test_cuts_may_name_only_files(kind, prefix, tmp_path, run):
    folder = LAYOUTS["cuts"](tmp_path / "data", utterances())
    cuts = list(CutSet.from_file(folder / "cuts.jsonl.gz"))
    cuts[0].recording.sources[0].type = kind
    cuts[0].recording.sources[0].source = f"{prefix}touch {tmp_path}/run; cat {folder}/audio/s0-u0.wav"
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    run(folder)
    assert run.dropped["s0-u0"][0] == "missing audio" and f"type '{kind}'" in run.dropped["s0-u0"][1]
    assert len(run.all()) == 11 and not (tmp_path / "run").exists()


def test_transforms_of_cuts_run_no_commands(tmp_path, run):
    folder = LAYOUTS["cuts"](tmp_path / "data", utterances())
    cuts = list(CutSet.from_file(folder / "cuts.jsonl.gz"))
    impulse = fastcopy(cuts[0].recording, sources=[AudioSource("command", [0], f"touch {tmp_path}/run")])
    cuts[0].recording = cuts[0].recording.reverb_rir(impulse)
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    run(folder)
    assert "type 'command'" in run.dropped["s0-u0"][1]
    assert len(run.all()) == 11 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_files_do_not_reach_a_shell(layout, tmp_path, run, monkeypatch):
    """Lhotse would read .sph files with a shell command that contains their path; libsndfile reads them here."""
    monkeypatch.chdir(tmp_path)
    folder = LAYOUTS[layout](tmp_path / "data", utterances())
    if layout == "cuts":
        cuts = list(CutSet.from_file(folder / "cuts.jsonl.gz"))
        source = cuts[0].recording.sources[0]
        audio, source.source = Path(source.source), "audio/x;touch PWNED;.sph"
        CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
        (folder / audio).rename(folder / source.source)
    else:
        audio = next(path for path in files_below(folder) if path.stem.endswith("s0-u0") and path.suffix in AUDIO)
        link = audio.with_suffix(".sph") if layout == "pairs" else audio
        audio.rename(audio.with_name("x;touch PWNED;.sph"))  # the link below is resolved before Lhotse sees it
        link.symlink_to(audio.with_name("x;touch PWNED;.sph"))
    run(folder)
    # Of pairs, the target of the link counts as audio without a text.
    assert {reason for reason, _ in run.dropped.values()} <= {"no transcript"} and len(run.all()) == 12
    assert not list(tmp_path.rglob("PWNED"))
