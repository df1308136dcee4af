"""The corpus of your own phrases: sentences that cover a grammar, voices that are held out, a cache by content."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from local import phrases
from local.common.espeak import say_letter
from local.mini import split_speakers
from local.phrases_corpus import engines
from local.phrases_corpus.letters import as_ssml, in_words
from local.phrases_corpus.others import near_misses, other_sentences
from local.phrases_corpus.sentences import Sampler
from residualformer import onnx_session
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
    assert as_ssml("SET A TIMER") == "set a timer"
    assert as_ssml("PLAN B") == f"plan {say_letter('b')}"
    assert as_ssml("GATE A B") == f"gate {say_letter('a')} {say_letter('b')}"
    assert as_ssml("ENTER A NINE", spelled=True) == f"enter {say_letter('a')} nine"
    assert as_ssml("R&B <LOUD>") == "r&amp;b &lt;loud&gt;"
    assert in_words("SET A TIMER") == "set a timer" and in_words("A B NINE") == "eh b nine"


def test_letters_are_spelled_where_the_grammar_has_the_alphabet(root, grammar):
    spelling = phrases.parse_phrases(root / "egs" / "an4" / "grammar.yaml")
    assert spelling.spelled("ENTER A NINE") and not spelling.spelled("SET A TIMER")
    assert spelling.upper and not phrases.parse_phrases(grammar).spelled("SET THE LAMP TO FIVE")


def test_repeats_are_within_their_bounds_and_mostly_short(tmp_path):
    path = tmp_path / "grammar.yaml"
    path.write_text("sentences: [{repeat: A, min: 0, max: 20}, B]")
    sampler = Sampler(read_source(path), [], np.random.default_rng(0))
    counts = Counter(text.count("A") for text in islice(sampler, 4000) if text != "B")
    assert set(counts) == set(range(21)) and counts[0] > counts[3] > counts[15]


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
class PiperConfig:
    from_dict = dict
class PiperVoice:
    def __init__(self, session, config):
        assert config["num_speakers"]
    def synthesize(self, text, settings):
        assert settings.noise_scale == settings.noise_w_scale == 0
        count = int(1000 * len(text) * settings.length_scale)
        yield SimpleNamespace(audio_float_array=np.full(count, 0.5 + settings.speaker_id), sample_rate=22050)
"""


def install(monkeypatch, folder: Path, name: str, code: str) -> None:
    """Let `import name` find this code, in a folder of its own."""
    package = folder / "package"
    package.mkdir()
    (package / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_piper_speaks_with_all_speakers_of_its_models(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="needs --piper DIR"):
        engines.ENGINES["piper"]("en", None)
    install(monkeypatch, tmp_path, "piper", PIPER)
    monkeypatch.setattr(onnx_session, "open_session", lambda *words: None)
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
    samples, rate = first.voice.speak(engine.written("TURN IT ON", False), seed=1)
    assert samples.dtype == np.int16 and set(samples.tolist()) == {round(0.5 * 32767)}
    expected = 10_000 * first.voice.length / 22050  # the pitch changes no duration
    assert len(samples) / rate == pytest.approx(expected, rel=1e-3) and rate == round(22050 * first.voice.pitch)


KOKORO = """
import numpy as np
class Kokoro:
    @classmethod
    def from_session(cls, session, voices):
        engine = cls()
        engine.voices = np.load(voices)
        return engine
    def get_voice_style(self, name):
        return self.voices[name]
    def create(self, text, style, speed, language):
        assert language == "en-gb"
        return np.full(round(2400 / speed), style.mean(), np.float32), 24000
"""


def test_kokoro_speaks_with_its_voices_and_mixtures_of_those_of_a_split(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, "kokoro_onnx", KOKORO)
    monkeypatch.setattr(onnx_session, "open_session", lambda *words: None)
    with pytest.raises(UserError, match="needs --kokoro DIR"):
        engines.ENGINES["kokoro"]("en", None)
    with pytest.raises(UserError, match="holds no kokoro.*onnx"):
        engines.ENGINES["kokoro"]("en", tmp_path)
    (tmp_path / "kokoro.onnx").write_text("a model")
    styles = {"bf_one": 0.2, "bm_two": 0.6, "am_three": 0.9, "ef_four": 0.1}
    np.savez(tmp_path / "voices.npz", **{name: np.full((510, 1, 256), value) for name, value in styles.items()})
    (tmp_path / "voices.npz").rename(tmp_path / "voices-v1.0.bin")
    with pytest.raises(UserError, match="kokoro has en, "):
        engines.ENGINES["kokoro"]("xy", tmp_path)
    engine = engines.ENGINES["kokoro"]("en", tmp_path)
    assert engine.timbres == ["am_three", "bf_one", "bm_two"]
    speakers = engine.speakers("train", 12, ["bf_one", "bm_two"], np.random.default_rng(0))
    assert [each.name for each in speakers[:2]] == ["train000-bf_one", "train001-bm_two"]
    assert str(tmp_path) not in repr(speakers) and len({repr(each.voice) for each in speakers}) == 12
    mixed = [each.voice for each in speakers if len(set(each.voice.voices)) == 2]
    assert mixed and all(set(each.voices) == {"bf_one", "bm_two"} for each in mixed)
    samples, rate = mixed[0].speak(engine.written("TURN IT ON", False), seed=1)
    first, second = (styles[name] for name in mixed[0].voices)
    level = mixed[0].share * first + (1 - mixed[0].share) * second
    assert samples.dtype == np.int16 and set(samples.tolist()) == {round(np.float32(level).item() * 32767)}
    assert len(samples) / rate == pytest.approx(0.1 / mixed[0].speed, rel=1e-2)  # the pitch changes no duration


PICO = """
class NanoTTS:
    def speak(self, text, voice, speed, pitch, volume):
        return bytes(2 * len(text))
"""


def test_pico_speaks_with_its_voices(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, "py_nanotts", PICO)
    pico, espeak = (engines.ENGINES[name]("en", None) for name in ("pico", "espeak"))
    found = phrases.speakers_by_split([pico, espeak], 20, 1)
    used = {split: {speaker.voice for engine, speaker in group if engine is pico} for split, group in found.items()}
    assert len(used["train"]) == 10 and not used["dev"] and not used["test"]  # two voices are too few to hold any out
    samples, rate = next(iter(used["train"])).speak(pico.written("TURN IT ON", False), seed=1)
    assert samples.dtype == np.int16 and len(samples) == 10 and rate == 16000
    with pytest.raises(UserError, match="pico has en, de"):
        engines.ENGINES["pico"]("xy", None)


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
    assert "test 3" in said and "h of speech, which takes one core: espeak" in said
    assert re.search("training, by the pace of those that (ran here|are published).*: shared (about )?[0-9]+", said)


@pytest.mark.parametrize("path", ["oven.txt", "lamp.yaml", "timer.yaml"])
def test_examples(root, path):
    network = build(read_source(root / "egs/phrases/examples" / path))
    assert network.num_words > 10 and all(map(network.accepts, network.samples(20, 1)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--phrases is missing"),
        (["--phrases", "/nowhere.txt"], "nowhere.txt is no file"),
        (["--engines", "espaek"], "has 'espaek'; there are: espeak, kokoro, pico, piper.* Did you mean 'espeak'"),
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
