"""Every way in which an utterance can be bad is found, named and survived."""

from __future__ import annotations

import gzip
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from support.audio import without_its_first_frame

from residualformer.data import validate
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.manifest import read_cuts
from residualformer.data.validate import make_cut, validate_cuts, write_cuts
from residualformer.errors import UserError

RATE = 16000


@pytest.fixture
def good(tmp_path):
    """A function that makes a good utterance: 0.1 s of noise in a WAV or a FLAC."""

    def make(
        name: str, suffix: str = "wav", rate: int = RATE, value: float | None = None, **changes
    ) -> CorpusUtterance:
        path = tmp_path / f"{name}.{suffix}"
        samples = np.random.default_rng(0).integers(-3000, 3000, rate // 10).astype(np.int16)
        if value is None:
            soundfile.write(path, samples, rate)
        else:
            soundfile.write(path, np.full(rate // 10, value, np.float32), rate, subtype="FLOAT")
        return CorpusUtterance(**{"id": name, "audio": path, "text": "HELLO THERE", "speaker": "s1", **changes})

    return make


def cut_short(path, keep: float = 0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def test_a_good_utterance_keeps_all_that_is_known_of_it(good):
    cuts, skipped = validate_cuts([good("a", speaker="anna", language="English", translation="你好")], "train", RATE)
    (cut,) = cuts
    (supervision,) = cut.supervisions
    assert skipped == []
    assert (cut.id, cut.duration, cut.sampling_rate, cut.num_samples) == ("a", 0.1, RATE, RATE // 10)
    assert (supervision.text, supervision.speaker, supervision.language) == ("HELLO THERE", "anna", "English")
    assert supervision.custom == {"translation": "你好"}
    assert cut.load_audio().shape == (1, RATE // 10)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_truncated_audio_is_found(good, suffix):
    bad = good("bad", suffix)
    cut_short(bad.audio)
    cuts, skipped = validate_cuts([good("a"), bad], "train")
    assert list(cuts.ids) == ["a"]
    assert len(skipped) == 1 and skipped[0].startswith("bad: ")
    if suffix == "wav":  # the header is in order, so that the loss can be named
        assert "truncated: its header promises 1600 samples, it holds 7" in skipped[0]


@pytest.mark.parametrize("rate", [48000, 44100])
@pytest.mark.parametrize("stated", [True, False])
def test_mp3_is_as_long_as_it_decodes(tmp_path, rate, stated):
    path = tmp_path / "a.mp3"
    samples = np.random.default_rng(0).normal(0, 0.1, rate).cumsum() / 100
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    path.write_bytes(path.read_bytes() if stated else without_its_first_frame(path.read_bytes()))
    utterance = CorpusUtterance("a", path, "HELLO", "s")
    cuts, skipped = validate_cuts([utterance], "train")
    length = cuts["a"].load_audio().shape[1]
    assert skipped == [] and cuts["a"].num_samples == length
    assert length == rate if stated else rate <= length < rate + 3 * 1152  # the encoder's delay and whole frames
    if stated:
        cut_short(path)
        with pytest.raises(UserError, match="truncated"):
            validate_cuts([utterance], "train")


def test_processes_change_nothing(good, monkeypatch):
    asked = []

    @contextmanager
    def other_process(jobs, items_at_once):
        """What worker_map does to functions and items, without the seconds that a process needs to start."""
        asked.append(jobs)
        yield lambda function, items: (pickle.loads(pickle.dumps(function))(item) for item in items)

    monkeypatch.setattr(validate, "CUTS_PER_PROCESS", 2)
    utterances = [good(name) for name in "abc"] + [good("a"), good("bad", text=""), good("d")]
    alone = validate_cuts(utterances, "train", RATE)
    monkeypatch.setattr(validate, "worker_map", other_process)
    together = validate_cuts(utterances, "train", RATE, jobs=9)
    assert asked == [4]  # no more processes than there is work for
    assert list(alone[0]) == list(together[0]) and alone[1] == together[1]
    assert list(alone[0].ids) == list("abcd")
    assert alone[1] == ["a: its id was used before", "bad: its transcript is empty"]


def make_empty_file(utterance):
    utterance.audio.write_bytes(b"")


def make_no_samples(utterance):
    soundfile.write(utterance.audio, np.zeros(0, np.int16), RATE)


def make_garbage(utterance):
    utterance.audio.write_bytes(b"this is not audio" * 100)


def make_missing(utterance):
    utterance.audio.unlink()


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (make_empty_file, "is an empty file"),
        (make_no_samples, "holds no samples"),
        (make_garbage, "cannot be opened as audio"),
        (make_missing, "there is a transcript but no audio"),
    ],
)
def test_bad_files(good, spoil, reason):
    bad = good("bad")
    spoil(bad)
    cuts, skipped = validate_cuts([bad, good("a")], "train", RATE)
    assert list(cuts.ids) == ["a"]
    assert len(skipped) == 1 and skipped[0].startswith("bad: ") and reason in skipped[0]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"text": "  "}, "its transcript is empty"),
        ({"audio": None}, "there is a transcript but no audio"),
        ({"id": "a"}, "its id was used before"),
        ({"rate": 8000}, "it is sampled at 8000 Hz, the corpus at 16000 Hz"),
        ({"value": np.nan}, "its audio holds values that are not finite"),
    ],
)
def test_bad_utterances(good, changes, reason):
    cuts, skipped = validate_cuts([good("a"), good("bad", **changes)], "train", RATE)
    assert list(cuts.ids) == ["a"]
    assert len(skipped) == 1 and reason in skipped[0]


def test_audio_that_changed_after_its_manifest_was_made(good):
    utterance, other_rate = good("longer"), good("rate")
    cuts = [make_cut(utterance), make_cut(other_rate), make_cut(good("a"))]
    soundfile.write(utterance.audio, np.zeros(RATE // 5, np.int16), RATE)
    soundfile.write(other_rate.audio, np.zeros(RATE // 10, np.int16), RATE // 2)
    kept, skipped = validate_cuts(cuts, "train")
    assert list(kept.ids) == ["a"]
    assert "holds 3200 samples, its manifest says 1600" in skipped[0]
    assert "sampled at 8000 Hz, its manifest says 16000" in skipped[1]


def test_nothing_left_is_an_error_that_names_the_split_and_a_culprit(good):
    with pytest.raises(UserError, match="'dev'; the first of 1: bad: its transcript is empty"):
        validate_cuts([good("bad", text="")], "dev")
    with pytest.raises(UserError, match="'dev', it lists none"):
        validate_cuts([], "dev")


def test_written_cuts_come_back_and_a_failure_leaves_no_file(good, tmp_path, capsys):
    path = tmp_path / "out" / "cuts_train.jsonl.gz"
    with pytest.raises(UserError):
        write_cuts([], "train", path)
    assert not path.exists()
    write_cuts([good("a"), good("b", speaker="s2"), good("c", text="")], "train", path, RATE, ["x: no transcript"])
    assert list(CutSet.from_file(path).ids) == ["a", "b"]
    assert list(path.parent.iterdir()) == [path]
    captured = capsys.readouterr()
    assert captured.out.startswith("train: 2 utterances, 0.00 h, 2 speakers, 2 skipped")
    assert "skipped in train: x: no transcript" in captured.err
    assert "skipped in train: c: its transcript is empty" in captured.err
    assert [cut.id for cut in read_cuts(path, stage=1)] == ["a", "b"]


def test_a_damaged_manifest_is_named_with_the_stage_to_run(good, tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    with pytest.raises(UserError, match="cuts.jsonl.gz is missing: run stage 1 first"):
        list(read_cuts(path, stage=1))
    write_cuts([good(name) for name in "abcdef"], "train", path)
    whole, lines = path.read_bytes(), gzip.decompress(path.read_bytes())
    for content in (whole[: len(whole) // 2], b"", b"text", gzip.compress(lines[:-40]), gzip.compress(b'{"a": 1}\n')):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cuts.jsonl.gz is not a manifest of cuts .*: run stage 1 again"):
            list(read_cuts(path, stage=1))
