"""Labels of speech without text: what is kept, what is named and left out, and what a stop costs."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from residualformer.errors import UserError
from residualformer.label.hearing import HeardFile, Limits
from residualformer.label.labels import label, recordings
from residualformer.label.recognizers import Command
from residualformer.workflow.process import run_command

FAKE = Path(__file__).resolve().parents[1] / "support" / "fake_recognizer.py"
LIMITS = Limits(0.2, 30.0)


def write_audio(folder: Path, *names: str, seconds: float = 0.5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        samples = np.random.default_rng(number).uniform(-0.1, 0.1, int(16000 * seconds))
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / f"{name}.wav", samples, 16000)
    return folder


@pytest.fixture
def recognizer(tmp_path):
    """Return a command that hears these texts, by the names of recordings."""

    def _make(name: str, **texts: str) -> Command:
        table = tmp_path / f"{name}.json"
        table.write_text(json.dumps(texts))
        return Command((sys.executable, str(FAKE), str(table), "{audio}"))

    return _make


def calls(recognizer: Command) -> list[str]:
    path = Path(f"{recognizer.words[2]}.calls")
    return path.read_text().split() if path.exists() else []


def kept(out: Path) -> dict[str, dict]:
    """The text and the provenance of each recording that was kept, by its name."""
    cuts = CutSet.from_file(out / "cuts_labeled.jsonl.gz")
    return {
        cut.id.removeprefix("labeled-"): {"text": cut.supervisions[0].text, **cut.supervisions[0].custom}
        for cut in cuts
    }


def dropped(out: Path) -> dict[str, tuple[str, str]]:
    rows = [line.split("\t") for line in (out / "dropped.tsv").read_text().splitlines()]
    assert rows.pop(0) == ["file", "reason", "detail"]
    return {Path(file).stem: (reason, detail) for file, reason, detail in rows}


def test_what_two_agree_on_is_kept_with_its_provenance(tmp_path, recognizer, capsys):
    audio = write_audio(tmp_path / "audio", "a", "deep/b", "c", "d", "e")
    first = recognizer("first", a="Good morning, Ann’s friend.", b="well-ordered", c="It is five", d="At 5 pm", e=" \n")
    second = recognizer("second", a="good morning ann's friend", b="Well ordered!", c="it is nine", d="x", e="x")
    out = tmp_path / "out"
    label(recordings(audio), [first, second], out, LIMITS)
    found = kept(out)
    assert {name: each["text"] for name, each in found.items()} == {
        "a": "GOOD MORNING ANN'S FRIEND",
        "deep/b": "WELL ORDERED",
    }
    day = found["a"]["labeled"]["days"][0]
    told = {"recognizers": [first.name, second.name], "wer": 0.0, "days": [day, day]}
    assert found["a"]["origin"] == "labeled" and found["a"]["labeled"] == told and len(day) == len("2026-11-30")
    assert dropped(out) == {
        "c": ("disagreement", "IT IS FIVE | IT IS NINE"),
        "d": ("more than letters heard", "At 5 pm"),
        "e": ("nothing heard", ""),
    }
    assert calls(second) == ["a", "c", "b"]  # what the first left out is not heard again
    assert "label: 2 of 5 recordings kept, 0.000278 of 0.000694 h (40%); dropped: " in capsys.readouterr().out


def test_a_difference_may_be_allowed_and_nothing_is_heard_twice(tmp_path, recognizer):
    audio = write_audio(tmp_path / "audio", "a", "b")
    first, second = (
        recognizer("first", a="one two three four", b="one"),
        recognizer("second", a="one two four", b="two"),
    )
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"none of 2 recordings has a text to keep; most often \(2\): disagreement"):
        label(recordings(audio), [first, second], out, LIMITS, max_wer=24.9)
    assert dropped(out)["a"][0] == "disagreement"
    label(recordings(audio), [first, second], out, LIMITS, max_wer=25)
    found = kept(out)
    assert found["a"]["text"] == "ONE TWO THREE FOUR" and found["a"]["labeled"]["wer"] == 25.0 and "b" not in found
    label(recordings(audio), [first], out, LIMITS)
    assert kept(out)["b"]["labeled"]["wer"] is None
    assert calls(first) == calls(second) == ["a", "b"]


def test_a_bad_file_is_named_and_the_others_are_kept(tmp_path, recognizer, capsys):
    audio = write_audio(tmp_path / "audio", "good", "unknown")
    write_audio(audio, "short", seconds=0.1), write_audio(audio, "long", seconds=31)
    (audio / "empty.wav").touch()
    (audio / "text.mp3").write_text("not audio")
    whole = (audio / "good.wav").read_bytes()
    (audio / "cut.wav").write_bytes(whole[: len(whole) // 2])
    os.symlink(audio / "gone.wav", audio / "broken.wav")
    (audio / "notes.txt").write_text("no audio at all")
    first = recognizer("first", **dict.fromkeys(("good", "short", "long", "empty", "text", "cut", "broken"), "yes"))
    label(recordings(audio), [first], tmp_path / "out", LIMITS)
    assert set(kept(tmp_path / "out")) == {"good"}
    found = dropped(tmp_path / "out")
    assert set(found) == {"unknown", "short", "long", "empty", "text", "cut", "broken"}
    assert found["unknown"][1].endswith("ended with 1 (cannot hear unknown.wav)")
    assert (found["short"][0], found["long"]) == ("too short", ("too long", "31.00 s"))
    assert "empty" in found["empty"][1] and "truncated" in found["cut"][1]
    assert "1 of 8 recordings kept" in (printed := capsys.readouterr().out) and "5 unreadable" in printed


def test_names_of_recordings_are_never_executed(tmp_path, recognizer):
    names = ["$(touch harm)", "; touch harm", "a b'c", "-rf"]
    audio = write_audio(tmp_path / "audio", *names)
    first = recognizer("first", **dict.fromkeys(names, "yes"))
    equals = Command((*first.words[:-1], "--in={audio}"))
    for number, each in enumerate((first, equals)):
        label(recordings(audio), [each], tmp_path / str(number), LIMITS)
        assert set(kept(tmp_path / str(number))) == set(names)
    assert not [*tmp_path.rglob("harm")] and not Path("harm").exists()


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path, recognizer, monkeypatch):
    names = [f"n{number}" for number in range(5)]
    audio, out = write_audio(tmp_path / "audio", *names), tmp_path / "out"
    first = recognizer("first", **dict.fromkeys(names, "yes"))
    hear, heard = Command.hear, []

    def hear_three(self: Command, path: Path) -> str:
        if len(heard) == 3:
            raise KeyboardInterrupt
        heard.append(path.stem)
        return hear(self, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Command, "hear", hear_three)
        label(recordings(audio), [first], out, LIMITS)
    assert not (out / "cuts_labeled.jsonl.gz").exists() and calls(first) == names[:3]
    log = out / "heard.jsonl"
    log.write_text(log.read_text()[:-20])  # killed in the middle of a line
    write_audio(audio, "n0", seconds=0.7)  # another recording by now
    label(recordings(audio), [first], out, LIMITS)
    assert set(kept(out)) == set(names)
    assert calls(first) == [*names[:3], "n0", *names[2:]]
    assert len(HeardFile(out).read(first.name, recordings(audio))) == 5


def test_several_processes_hear_the_same(tmp_path, recognizer):
    audio = write_audio(tmp_path / "audio", "a", "b", "c")
    first = recognizer("first", a="one", b="two", c="three")
    for jobs in (1, 2):
        label(recordings(audio), [first], tmp_path / str(jobs), LIMITS, jobs=jobs)
    assert kept(tmp_path / "1") == kept(tmp_path / "2")


def test_what_has_a_text_is_not_labeled(tmp_path):
    audio = write_audio(tmp_path / "audio", "a", "b")
    os.symlink(audio, tmp_path / "link")
    assert list(recordings(audio, others=[tmp_path / "link" / "a.wav"])) == ["labeled-b"]
    with pytest.raises(UserError, match="audio holds no audio to label: all 2 have a text already"):
        recordings(audio, others=[audio / "a.wav", audio / "b.wav"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="nothing holds no audio to label: none ends in "):
        recordings(tmp_path / "nothing")


def test_the_step_makes_data_for_the_custom_recipe(tmp_path, recognizer, root, monkeypatch):
    from local.custom_data.cuts import read_cuts, relabel

    audio, first = write_audio(tmp_path / "audio", "a", "b"), recognizer("first", a="one", b="two")
    words = ["--audio", "audio", "--out", "out", "--recognizer", shlex.join(first.words)]
    monkeypatch.chdir(root)
    environment = {"RESIDUALFORMER_CALLED_FROM": str(tmp_path), "PYTHONPATH": str(root)}
    assert run_command([sys.executable, "steps/label.py", *words], environment) == 0
    data = read_cuts([(tmp_path / "out" / "cuts_labeled.jsonl.gz", "")])
    assert [entry.utterance.text for entry in data.entries] == ["ONE", "TWO"] and not data.dropped
    assert {entry.utterance.audio for entry in data.entries} == {audio / "a.wav", audio / "b.wav"}
    custom = relabel(data.entries[0].cut, data.entries[0].utterance).supervisions[0].custom
    assert custom["labeled"]["recognizers"] == [first.name] and custom["origin"] == "labeled"
