"""Features of a corpus: speed copies, bad audio, statistics, and stages 2 and 3 as they are run."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from support.programs import run_program

from residualformer.config.schema import Config, DataConfig, FeatureConfig
from residualformer.data.audio import read_audio
from residualformer.data.batches import EvalBatches, TrainBatches
from residualformer.data.extract import Extracted, compute_corpus_features, extract_features
from residualformer.data.fbank import compute_fbank
from residualformer.data.features import read_cmvn, read_feature_config
from residualformer.data.shar import find_shards
from residualformer.data.speed import at_speed
from residualformer.data.splits import train_source
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.utterance import read_utterances

RATE = 16000
WORDS = ["GO", "STOP", "HOME", "ENTER", "ERASE", "YES"]


def make_cut(folder: Path, name: str, seconds: float, text: str, rate: int = RATE) -> MonoCut:
    seed = sum(name.encode())
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    path = folder / f"{name.replace('/', '-')}.wav"
    soundfile.write(path, samples, rate)
    recording = Recording.from_file(path, recording_id=name)
    supervision = SupervisionSegment(name, name, 0.0, recording.duration, text=text, custom={"translation": "走"})
    return MonoCut(name, 0.0, recording.duration, 0, [supervision], recording=recording)


@pytest.fixture()
def manifests(tmp_path) -> Path:
    """8 utterances to train on, 2 each for dev and test."""
    (tmp_path / "manifests").mkdir()
    for split, count in (("train", 8), ("dev", 2), ("test", 2)):
        cuts = [
            make_cut(tmp_path, f"{split}-{i}", 0.5 + 0.1 * i, f"{WORDS[i % 6]} {WORDS[(i + 1) % 6]}")
            for i in range(count)
        ]
        CutSet.from_cuts(cuts).to_file(tmp_path / "manifests" / f"cuts_{split}.jsonl.gz")
    return tmp_path / "manifests"


def run_step(name: str, *args: object) -> subprocess.CompletedProcess:
    return run_program(f"steps/{name}.py", *args)


def extract(cuts, folder: Path, speeds=(1.0,)):
    parts = list(extract_features(list(product(cuts, speeds)), FeatureConfig(), folder / "arrays"))
    return [c for p in parts for c in p.cuts], [s for p in parts for s in p.skipped], parts


def test_speed_copies(tmp_path):
    cut = make_cut(tmp_path, "a", 1.0, "GO")
    cuts, skipped, _ = extract([cut], tmp_path, (0.9, 1.0, 1.1))
    assert not skipped and cut.custom is None
    assert [c.id for c in cuts] == ["a_sp0.9", "a", "a_sp1.1"]
    assert [(c.custom["utterance"], c.custom["speed"]) for c in cuts] == [("a", s) for s in (0.9, 1.0, 1.1)]
    for copy, speed in zip(cuts, (0.9, 1.0, 1.1)):
        array = copy.load_features()
        assert abs(copy.duration - 1 / speed) <= 1 / RATE and copy.supervisions[0].text == "GO"
        assert array.shape == (copy.num_frames, 80) == (copy.features.num_frames, 80)
        assert np.array_equal(array, compute_fbank(copy.load_audio()[0], FeatureConfig()))


def test_speed_changes_pitch_and_length(tmp_path):
    """A 1000 Hz tone spoken 10% faster is an 1100 Hz tone of 10/11 the length."""
    samples = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "tone.wav", samples, RATE)
    recording = Recording.from_file(tmp_path / "tone.wav")
    cut = MonoCut("tone", 0.0, 1.0, 0, [SupervisionSegment("tone", "tone", 0.0, 1.0, text="A")], recording=recording)
    faster = at_speed(cut, 1.1).load_audio()[0]
    spectrum = np.abs(np.fft.rfft(faster * np.hanning(len(faster))))
    assert len(faster) == round(RATE / 1.1)
    assert abs(np.argmax(spectrum) * RATE / len(faster) - 1100) < 2


@pytest.mark.parametrize("rate", [11025, 44099])
def test_speed_copies_of_another_rate_are_resampled_once(tmp_path, rate):
    """Lhotse's resampling to the speed would take a filter for each phase, gigabytes for these rates."""
    cut = make_cut(tmp_path, "a", 1.0, "GO", rate)
    (copy,), skipped, _ = extract([cut], tmp_path, (1.1,))
    assert not skipped and copy.id == "a_sp1.1"
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    expected = compute_fbank(soxr.resample(samples, round(1.1 * rate), RATE), FeatureConfig())
    np.testing.assert_array_equal(copy.load_features(), expected)
    assert copy.num_frames == len(expected)


def test_bad_audio_is_skipped_and_named(tmp_path):
    long = "话" * 70  # 210 bytes, as a file system takes them; 630 with %-escapes
    names = ["good", "gone", "empty", "truncated", "tiny", "a/slash", f"{long}1", f"{long}2"]
    cuts = {name: make_cut(tmp_path, name, 0.001 if name == "tiny" else 1.0, "GO") for name in names}
    (tmp_path / "gone.wav").unlink()
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "truncated.wav").write_bytes((tmp_path / "truncated.wav").read_bytes()[:5000])
    done, skipped, _ = extract(list(cuts.values()), tmp_path)
    assert [c.id for c in done] == ["good", "a/slash", f"{long}1", f"{long}2"]
    assert [line.split(":")[0] for line in skipped] == ["gone", "empty", "truncated", "tiny"]
    assert all("\n" not in line for line in skipped)
    assert done[1].load_features().shape == (100, 80)
    assert done[2].features.storage_key != done[3].features.storage_key


def test_any_rate_and_channels_give_the_features_of_the_file_as_it_is_transcribed(tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    recording = Recording.from_file(tmp_path / "a.wav", recording_id="a")
    cut = recording.to_cut()
    (done,), skipped, _ = extract([cut], tmp_path)
    assert skipped == [] and cut.num_channels == 2 and done.duration == 1.0
    expected = compute_fbank(read_audio(tmp_path / "a.wav", RATE), FeatureConfig())
    np.testing.assert_array_equal(done.features.load(), expected)


def test_statistics_are_those_of_all_frames(tmp_path):
    cuts, _, parts = extract([make_cut(tmp_path, str(i), 0.5, "GO") for i in range(40)], tmp_path)
    frames = np.concatenate([cut.load_features() for cut in cuts]).astype(np.float64)
    assert len(parts) == 2  # sums of parts are added
    total = Extracted()
    for part in parts:
        total.add(part)
    found = total.statistics()
    assert found.frames == len(frames)
    np.testing.assert_allclose(found.mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, frames.std(axis=0), rtol=1e-9)  # E[x^2] - E[x]^2 loses some digits


def test_a_bin_that_never_moves_gets_no_zero_deviation():
    array = np.full((5, 2), -15.9424, np.float32).astype(np.float64)
    constant = Extracted(frames=5, total=array.sum(0), squares=np.square(array).sum(0))
    assert constant.statistics().std == pytest.approx([0.01, 0.01])


def test_stages_2_and_3(manifests, tmp_path):
    config, fbank, lang = tmp_path / "c.yaml", tmp_path / "fbank", tmp_path / "lang_bpe24"
    config.write_text("tokens: {kind: bpe, vocab_size: 24}\n")
    (tmp_path / "train-3.wav").write_bytes(b"")
    common = ("--manifests", manifests, "--config", config)
    done = run_step("compute_fbank", *common, "--out", fbank, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "train 21, dev 2, test 2" in done.stdout and "3 skipped" in done.stdout
    assert all(f"skipped train-3{s}:" in done.stderr for s in ("", "_sp0.9", "_sp1.1")) and "%|" in done.stderr

    done = run_step("train_tokenizer", *common, "--out", lang)
    assert done.returncode == 0 and done.stdout.startswith("tokens: bpe, 24 ids"), done.stderr
    tokenizer = Tokenizer.load(lang / "tokenizer.json")
    assert tokenizer.vocab_size == 24

    chosen = ("--set", "tokens.kind=char", "--set", "tokens.target=translation")
    done = run_step("train_tokenizer", *common, *chosen, "--out", tmp_path / "lang_char")
    assert done.returncode == 0, done.stderr
    assert Tokenizer.load(tmp_path / "lang_char" / "tokenizer.json").pieces == ["<blk>", "<unk>", "走"]

    assert read_feature_config(fbank) == FeatureConfig()
    mean, std = read_cmvn(fbank)
    train = CutSet.from_file(fbank / "cuts_train.jsonl.gz").to_eager()
    frames = np.concatenate([cut.load_features() for cut in train]).astype(np.float64)
    # the arrays are rounded to half precision, the statistics are not: 1 part in 2048 of values up to 16
    np.testing.assert_allclose(mean, frames.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(std, frames.std(axis=0), atol=1e-3)
    batches = TrainBatches(fbank / "cuts_train.jsonl.gz", DataConfig(), tokenizer)
    assert sum(len(items) for (items,) in batches.plan.epoch(0)) == 21
    assert batches.describe().startswith("7 corpus utterances (0.00 h), at speeds")
    dev = next(iter(EvalBatches(fbank / "cuts_dev.jsonl.gz", 50, tokenizer)))
    audio = CutSet.from_file(fbank / "cuts_dev.jsonl.gz").to_eager()[dev.ids[0]].load_audio()[0]
    assert np.array_equal(dev.features[0, : dev.feature_lens[0]].numpy(), compute_fbank(audio, FeatureConfig()))


def test_stage_2_may_write_shards(manifests, tmp_path):
    config = Config(data=DataConfig(speeds=[1.0], shard_size=3))
    plain = compute_corpus_features(manifests, tmp_path / "plain", replace(config, data=DataConfig(speeds=[1.0])))
    compute_corpus_features(manifests, tmp_path / "fbank", config)
    source = train_source(tmp_path / "fbank")
    assert source.name == "shar_train" and len(find_shards(source)) == 3
    stored = {u.id: u.load() for shard in find_shards(source) for u in read_utterances(shard, "text")}
    assert stored.keys() == {cut.id for cut in plain["train"].cuts}
    assert all(np.array_equal(stored[cut.id], cut.features.load()) for cut in plain["train"].cuts)
    assert not (tmp_path / "fbank" / "arrays" / "train").exists()
    assert not (tmp_path / "fbank" / "cuts_train.jsonl.gz").exists()
    compute_corpus_features(manifests, tmp_path / "fbank", replace(config, data=DataConfig(speeds=[1.0])))
    assert train_source(tmp_path / "fbank").name == "cuts_train.jsonl.gz"


def test_a_failing_stage_2_leaves_nothing_to_trust(manifests, tmp_path):
    config, fbank = tmp_path / "c.yaml", tmp_path / "fbank"
    config.write_text("data: {speeds: [1.0]}\n")
    common = ("--manifests", manifests, "--config", config, "--out", fbank, "--jobs", 1)
    assert run_step("compute_fbank", *common).returncode == 0
    cuts = [f"cuts_{split}.jsonl.gz" for split in ("dev", "test", "train")]
    files = ["arrays", "cmvn.json", *cuts, "cuts_train.json", "features.json"]
    assert sorted(p.name for p in fbank.iterdir()) == sorted(files)
    for i in range(2):
        (tmp_path / f"test-{i}.wav").unlink()
    done = run_step("compute_fbank", *common)
    assert done.returncode == 2 and "no utterance of test" in done.stderr and "skipped test-1" in done.stderr
    assert [p.name for p in fbank.iterdir() if p.name != "arrays"] == []


def test_mistakes_end_in_one_sentence(manifests, tmp_path):
    config, blocked = tmp_path / "c.yaml", tmp_path / "file"
    config.write_text("tokens: {vocab_size: 24}\n")
    blocked.write_text("")
    common = ("--config", config, "--out", tmp_path / "out")
    for step, args, words in [
        ("compute_fbank", ("--manifests", tmp_path, *common), "cuts_train.jsonl.gz is missing: run stage 1 first"),
        ("train_tokenizer", ("--manifests", tmp_path, *common), "cuts_train.jsonl.gz is missing: run stage 1 first"),
        ("compute_fbank", ("--manifests", manifests, *common, "--jobs", 0), "--jobs is 0"),
        ("compute_fbank", ("--manifests", manifests, *common, "--backend", "knff"), "unknown feature back-end 'knff'"),
        ("compute_fbank", ("--manifests", manifests, *common, "--out", blocked / "x"), "cannot read or write"),
        ("train_tokenizer", ("--manifests", manifests, *common, "--set", "tokens.vocab_size=5000"), "at most"),
        ("train_tokenizer", ("--manifests", manifests, *common, "--out", blocked / "x"), "cannot read or write"),
    ]:
        done = run_step(step, *args)
        assert done.returncode == 2 and words in done.stderr, (args, done.stderr)
        assert "Traceback" not in done.stderr and not done.stdout
    assert not (tmp_path / "out").exists()
