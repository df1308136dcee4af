"""The corpus of your own phrases: sentences that cover a grammar, voices that are held out, a cache by content."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from local import phrases
from local.common.espeak import say_letter
from local.mini import split_speakers
from local.phrases_corpus import engines
from local.phrases_corpus.others import near_misses, other_sentences
from local.phrases_corpus.sentences import Sampler
from residualformer.context.grammar.network import build
from residualformer.context.grammar.source import read_source
from residualformer.errors import UserError

GRAMMAR = """
sentences:
  - "SET THE {lamp} TO {level} [PERCENT]"
  - CALL {name=any}
  - {repeat: <digit>, min: 2}
rules:
  lamp: [LAMP, READING LIGHT | BIG LAMP]
  level: {range: [5, 200, 5]}
  digit: [ZERO, ONE, TWO]
"""


@pytest.fixture
def grammar(tmp_path):
    path = tmp_path / "grammar.yaml"
    path.write_text(GRAMMAR)
    return path


@pytest.fixture
def few(monkeypatch):
    """So few utterances that they can be spoken."""
    monkeypatch.setattr(phrases, "FEWEST", 4)
    monkeypatch.setattr(phrases, "PHRASES", {"test": (3, 3), "dev": (2, 2)})
    monkeypatch.setattr(phrases, "OTHERS", {"other@speech": 2, "other@near": 2, "dev": 2})
    monkeypatch.setattr(phrases, "BABBLERS", 5)


@pytest.mark.parametrize("times", [1, 3])
def test_every_alternative_is_said_so_many_times(grammar, times):
    source = read_source(grammar)
    sampler = Sampler(source, ["TOM", "ANNA"], np.random.default_rng(0))
    assert sampler.needed == 40 + 1 + 3  # the levels, a name, the digits
    network, said = build(source), Counter()
    for text in islice(sampler, times * sampler.needed):
        slots = network.slots_of(text)
        assert slots is not None, text
        said.update((key, value) for key, value in slots.items())
        said["PERCENT"] += "PERCENT" in text.split()
        said.update(set(text.split()) & {"ZERO", "ONE", "TWO"} if not slots else ())
    assert all(said["level", level] >= times for level in range(5, 201, 5))
    assert all(said["lamp", lamp] >= 40 * times // 3 for lamp in ("LAMP", "READING LIGHT", "BIG LAMP"))
    assert said["name", "TOM"] + said["name", "ANNA"] == times
    assert said["PERCENT"] == 20 * times and all(said[word] >= times for word in ("ZERO", "ONE", "TWO"))


def test_a_large_range_is_drawn_evenly(tmp_path):
    path = tmp_path / "grammar.yaml"
    path.write_text("sentences: ['NUMBER {n}']\nrules: {n: {range: [1, 600]}}")
    sampler = Sampler(read_source(path), [], np.random.default_rng(0))
    assert sampler.needed == 200
    assert len(set(islice(sampler, 600))) == 600


def test_other_speech_is_none_of_the_grammar(grammar, tmp_path):
    network, rng = build(read_source(grammar)), np.random.default_rng(0)
    others = other_sentences(None, True, rng)
    assert len(others) == len(set(others)) > 2000 and not any(map(network.accepts, others))
    near = list(islice(near_misses(["SET THE LAMP TO FIVE"], ["PIANO", "FIVE", "LAMP"], network.accepts, rng), 50))
    assert "SET THE PIANO TO FIVE" in near and not any(map(network.accepts, near))
    own = tmp_path / "other.txt"
    own.write_text("Wie geht es dir\n\nGuten  Morgen\n")
    assert sorted(other_sentences(own, False, rng)) == ["guten morgen", "wie geht es dir"]
    own.write_text("\n")
    with pytest.raises(UserError, match="holds no sentence"):
        other_sentences(own, False, rng)
    with pytest.raises(UserError, match="accepts nearly everything"):
        next(near_misses(["A"], ["B"], lambda text: True, rng))


def test_letters_are_named_and_articles_are_not():
    assert engines.as_ssml("SET A TIMER") == "set a timer"
    assert engines.as_ssml("PLAN B") == f"plan {say_letter('b')}"
    assert engines.as_ssml("GATE A B") == f"gate {say_letter('a')} {say_letter('b')}"
    assert engines.as_ssml("R&B <LOUD>") == "r&amp;b &lt;loud&gt;"


def test_no_timbre_serves_two_splits_and_too_few_are_told():
    espeak = engines.ENGINES["espeak"]("en", None)
    speakers = phrases.speakers_by_split([espeak], 100, 1)
    files = {split: {speaker.voice.variant for _, speaker in group} for split, group in speakers.items()}
    assert {split: len(group) for split, group in speakers.items()} == {"test": 24, "dev": 12, "train": 100}
    assert sum(map(len, files.values())) == len(set().union(*files.values()))
    in_mini = {split: {each.voice.variant for each in group} for split, group in split_speakers(1).items()}
    assert files == {split: in_mini[split] for split in files}
    german = phrases.speakers_by_split([engines.ENGINES["espeak"]("de", None)], 5, 1)
    assert {speaker.voice.accent for _, speaker in german["train"]} == {"de"}
    small = engines.Engine(espeak.timbres[:3], espeak.speakers, espeak.written)
    both = phrases.speakers_by_split([espeak, small], 100, 1)
    assert all(engine is espeak for engine, _ in both["test"]) and len(both["train"]) == 100
    with pytest.raises(UserError, match="too few voices"):
        phrases.speakers_by_split([small], 100, 1)


PIPER = """
import numpy as np
from types import SimpleNamespace
SynthesisConfig = SimpleNamespace
class PiperVoice:
    @staticmethod
    def load(path):
        def synthesize(text, settings):
            assert settings.noise_scale == settings.noise_w_scale == 0
            count = int(1000 * len(text) * settings.length_scale)
            yield SimpleNamespace(audio_float_array=np.full(count, 0.5 + settings.speaker_id), sample_rate=22050)
        return SimpleNamespace(synthesize=synthesize)
"""


def test_piper_speaks_with_all_speakers_of_its_models(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="needs --piper DIR"):
        engines.ENGINES["piper"]("en", None)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "piper.py").write_text(PIPER)
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.delitem(sys.modules, "piper", raising=False)
    with pytest.raises(UserError, match="holds no .*onnx"):
        engines.ENGINES["piper"]("en", tmp_path)
    for name, count in (("one", 1), ("many", 3)):
        (tmp_path / f"{name}.onnx").write_text(name)
        (tmp_path / f"{name}.onnx.json").write_text(json.dumps({"num_speakers": count}))
    engine = engines.ENGINES["piper"]("en", tmp_path)
    assert engine.timbres == ["many-0", "many-1", "many-2", "one-0"]
    first, *_, last = engine.speakers("train", 5, engine.timbres, np.random.default_rng(0))
    assert first.name == "train000-many-0" and last.name == "train004-many-0" and first.voice != last.voice
    assert str(tmp_path) not in repr(first)  # what is kept does not depend on where the models are
    samples, rate = first.voice.speak(engine.written("TURN IT ON"), seed=1)
    assert samples.dtype == np.int16 and set(samples.tolist()) == {round(0.5 * 32767)}
    expected = 10_000 * first.voice.length / 22050  # the pitch changes no duration
    assert len(samples) / rate == pytest.approx(expected, rel=1e-3) and rate == round(22050 * first.voice.pitch)


def call(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["phrases.py", *map(str, words)])
    phrases.main()


def obtain(monkeypatch, capsys, path, out) -> tuple[list[dict], str]:
    call(monkeypatch, "obtain", "--phrases", path, "--out", out, "--repeats", 1, "--voices", 7)
    records = [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()]
    return records, capsys.readouterr().out


def test_what_was_spoken_before_is_kept(few, monkeypatch, capsys, tmp_path):
    path, out = tmp_path / "phrases.txt", tmp_path / "raw"
    path.write_text("TURN IT ON\nTURN IT OFF\n")
    first, said = obtain(monkeypatch, capsys, path, out)
    assert Counter(row["split"] for row in first) == {
        "train": 8, "test": 3, "dev": 4, "other@speech": 2, "other@near": 2
    }  # fmt: skip
    assert len({row["id"] for row in first}) == len(first) and "; 0 were there before" in said
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.flac")}
    again, said = obtain(monkeypatch, capsys, path, out)
    assert again == first and f"; {len(first)} were there before" in said
    path.write_text("TURN IT ON\nTURN IT OFF\nOPEN THE DOOR\n")
    more, _ = obtain(monkeypatch, capsys, path, out)
    ids = {row["id"] for row in first}
    assert any(row["text"] == "TURN IT ON" and row["id"] in ids for row in more)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    fresh, _ = obtain(monkeypatch, capsys, path, tmp_path / "fresh")
    assert fresh == more
    for row in more:
        assert (tmp_path / "fresh" / row["audio"]).read_bytes() == (out / row["audio"]).read_bytes()


def test_manifests_hold_the_grammar_and_the_tokens(few, monkeypatch, capsys, grammar, tmp_path):
    records, _ = obtain(monkeypatch, capsys, grammar, tmp_path / "raw")
    call(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m")
    network = build(read_source(tmp_path / "m" / "grammar.yaml"))
    assert (tmp_path / "m" / "grammar.yaml").read_text() == GRAMMAR
    for split in ("train", "dev", "test", "other@speech", "other@near"):
        cuts = list(CutSet.from_file(tmp_path / "m" / f"cuts_{split}.jsonl.gz"))
        assert [cut.id for cut in cuts] == [row["id"] for row in records if row["split"] == split]
        inside = [network.accepts(cut.supervisions[0].text) for cut in cuts]
        assert all(inside) if split == "test" else not any(inside) if "other" in split else any(inside)
    assert "vocab_size" in (tmp_path / "m" / "chosen.yaml").read_text()


def test_recordings_are_test_sets_or_dev(few, monkeypatch, capsys, tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("TURN IT ON\nTURN IT OFF\n")
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, text in {"a": "Turn it on!", "b": "Good morning."}.items():
        soundfile.write(mine / f"{name}.wav", np.random.default_rng(ord(name)).normal(0, 0.1, 44100), 22050)
        (mine / f"{name}.txt").write_text(text)
    few_words = ["--repeats", 1, "--voices", 7, "--recordings", f"people={mine}", "--recordings", f"dev={mine}"]
    call(monkeypatch, "obtain", "--phrases", path, "--out", tmp_path / "raw", *few_words)
    call(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m", *few_words[4:])
    assert not (tmp_path / "raw" / "dev").exists()  # nothing is spoken that is not used
    for split in ("people", "dev"):
        cuts = list(CutSet.from_file(tmp_path / "m" / f"cuts_{split}.jsonl.gz"))
        assert [cut.supervisions[0].text for cut in cuts] == ["TURN IT ON", "GOOD MORNING"]
    call(monkeypatch, "options", "--", "--phrases", path, *few_words)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["inputs"] == [str(path), str(mine), str(mine)]
    assert told["manifests"][2:] == ["--recordings", f"people={mine}", "--recordings", f"dev={mine}"]


def test_the_preview_speaks_little_and_counts(few, monkeypatch, capsys, grammar):
    call(monkeypatch, "preview", "--phrases", grammar)
    said = capsys.readouterr().out
    assert "sentences without end" in said and "slots: lamp, level, name" in said
    assert "test 3" in said and "h of speech" in said


@pytest.mark.parametrize("path", ["oven.txt", "lamp.yaml", "timer.yaml"])
def test_examples(root, path):
    network = build(read_source(root / "egs/phrases/examples" / path))
    assert network.num_words > 10 and all(map(network.accepts, network.samples(20, 1)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--phrases is missing"),
        (["--phrases", "/nowhere.txt"], "nowhere.txt is no file"),
        (["--engines", "espaek"], "has 'espaek'; there are: espeak, piper.* Did you mean 'espeak'"),
        (["--language", "de"], "needs --other FILE"),
        (["--recordings", "mine"], "write NAME=PATH"),
        (["--recordings", "train=/tmp"], "name a test set, or dev"),
        (["--recordings", "a=/tmp", "--recordings", "a=/tmp"], "a=... is given twice"),
        (["--recordings", "a=/nowhere"], "a=/nowhere does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(monkeypatch, words, message):
    with pytest.raises(UserError, match=message):
        call(monkeypatch, "preview", *words)
