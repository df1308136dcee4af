"""Features of degraded audio: what stage 2 computes where nothing is changed, drawn by seed and position alone."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from support.speech import RATE, speech
from support.toy_training import TEXTS, TOKENIZER
from support.training_batches import epoch, same

from residualformer.config.augmentation import PauseConfig
from residualformer.config.schema import Config, DataConfig, FeatureConfig, WaveformConfig
from residualformer.data.audio import resample
from residualformer.data.batches import Position, TrainBatches
from residualformer.data.degrade import at_level, through_telephone
from residualformer.data.extract import compute_corpus_features
from residualformer.data.fbank import compute_fbank
from residualformer.data.shar import Shard, find_shards
from residualformer.data.splits import train_source
from residualformer.data.utterance import read_utterances
from residualformer.data.waveform import DIRECT_DB, LINES, Scene, Waveforms
from residualformer.errors import UserError

SPEEDS = [0.9, 1.0, 1.1]
DATA = DataConfig(speeds=SPEEDS, max_batch_s=12.0, num_buckets=2)
NEVER = WaveformConfig(room_probability=1e-15)  # on, but changes nothing
RATES = (RATE, RATE, 8000, 11025)
COUNT = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Return a folder with the features of 8 utterances at three speeds, as stage 2 leaves them."""
    folder = tmp_path_factory.mktemp("corpus")
    cuts = []
    for i in range(COUNT):
        rate, name = RATES[i % len(RATES)], f"u{i}"
        soundfile.write(folder / f"{name}.wav", resample(speech(i)[i * 2000 :], RATE, rate), rate)
        recording = Recording.from_file(folder / f"{name}.wav", recording_id=name)
        start = 0.25 if i == 1 else 0.0
        length = recording.duration - 2 * start
        cuts.append(MonoCut(name, start, length, 0, [SupervisionSegment(name, name, 0.0, length, text=TEXTS[i])],
                            recording=recording))  # fmt: skip
    (folder / "manifests").mkdir()
    for split in ("train", "dev"):
        CutSet.from_cuts(cuts).to_file(folder / "manifests" / f"cuts_{split}.jsonl.gz")
    compute_corpus_features(folder / "manifests", folder / "fbank", Config(data=DATA))
    compute_corpus_features(folder / "manifests", folder / "shar", Config(data=replace(DATA, shard_size=5)))
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Return a folder with two noises of 10 s, one in a folder of its own, and a text."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "below").mkdir()
    for n, (path, rate) in enumerate([(folder / "a.wav", RATE), (folder / "below" / "b.flac", 22050)]):
        soundfile.write(path, 0.1 * np.random.default_rng(n).standard_normal((10 * rate, 1 + n)), rate)
    (folder / "README").write_text("noises")
    return folder


def everything(noise: Path) -> WaveformConfig:
    return WaveformConfig(
        room_probability=0.5,
        noise_probability=0.5,
        noise=[str(noise)],
        level_probability=0.5,
        telephone_probability=0.5,
    )


def batches(folder: Path, waveform: WaveformConfig = NEVER, **changes) -> TrainBatches:
    return TrainBatches(train_source(folder), replace(DATA, waveform=waveform, **changes), TOKENIZER)


def scene(**values) -> Scene:
    nothing = Scene(rt60_s=None, direct_db=0.0, seed=0, snr_db=None, noise=(0,), place=0.0, gain_db=None, line=None)
    return replace(nothing, **values)


def test_unchanged_audio_has_the_features_of_stage_2(corpus):
    """To the bit, once rounded to half precision as on disk.

    Audio of another rate may have a sample more or less at its end, which the frames that hold it show.
    """
    waveforms = Waveforms(NEVER, FeatureConfig())
    utterances = list(read_utterances(Shard(train_source(corpus / "fbank")), "text", with_lines=True))
    assert Counter(utterance.speed for utterance in utterances) == dict.fromkeys(SPEEDS, COUNT)
    for utterance in utterances:
        found, stored = waveforms.features(utterance, scene(), {}).astype(np.float16), utterance.load()
        if RATES[int(utterance.source[1:]) % len(RATES)] == RATE or utterance.speed == 1.0:
            assert np.array_equal(found, stored), utterance.id
        else:
            assert abs(len(found) - len(stored)) <= 1
            assert np.array_equal(found[:-5], stored[: len(found) - 5]), utterance.id


@pytest.mark.parametrize("source", ["fbank", "shar"])
def test_batches_are_as_from_disk_where_nothing_is_changed(corpus, source):
    """Joined, with pauses and padding, which draw the same numbers; pauses repeat frames that here are not rounded."""
    changes = {
        "concat_probability": 0.5,
        "max_utterance_s": 8.0,
        "pad_start_ms": 200,
        "pause": PauseConfig(longest_s=1.0),
    }
    for one, other in zip(
        epoch(batches(corpus / source, WaveformConfig(), **changes)),
        epoch(batches(corpus / source, **changes)),
        strict=True,
    ):
        assert one.ids == other.ids and one.texts == other.texts
        assert (one.feature_lens - other.feature_lens).abs().max() <= 4  # one for each part of another rate
    plain = [epoch(batches(corpus / source, waveform, speeds=[1.0])) for waveform in (WaveformConfig(), NEVER)]
    for one, other in zip(*plain, strict=True):
        assert one.ids == other.ids and np.array_equal(one.features, other.features.numpy().astype(np.float16))


def test_what_is_done_is_that_of_the_samples(corpus):
    waveforms = Waveforms(WaveformConfig(level_probability=1.0, telephone_probability=1.0), FeatureConfig())
    utterances = read_utterances(Shard(train_source(corpus / "fbank")), "text", with_lines=True)
    utterance = next(each for each in utterances if each.id == "u0")
    samples, _ = soundfile.read(corpus / "u0.wav", dtype="float32")
    line = ("GSM", True)
    found = waveforms.features(utterance, scene(gain_db=-20.0, line=line), {})
    expected = compute_fbank(through_telephone(at_level(samples, -20.0), RATE, *line), FeatureConfig())
    assert np.array_equal(found, expected)


def test_noise_has_the_ratio_asked_for(noise):
    """To the rounding of float32, for files of both rates and of one and two channels."""
    waveforms, samples, unread = Waveforms(everything(noise), FeatureConfig()), speech(), {}
    assert [(file.path.name, file.seconds) for file in waveforms.noise] == [("a.wav", 10.0), ("b.flac", 10.0)]
    for number in (0, 1):
        for snr_db in (-5.0, 0.0, 30.0):
            noisy = waveforms.degraded(samples, scene(snr_db=snr_db, noise=(number,), place=0.5), unread)
            added = noisy.astype(np.float64) - samples
            ratio = np.square(samples, dtype=np.float64).sum() / np.square(added).sum()
            assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=1e-3)
    first, last = (waveforms.degraded(samples, scene(snr_db=0.0, place=place), unread) for place in (0.0, 0.9999))
    source, _ = soundfile.read(noise / "a.wav", dtype="float32")
    for found, expected in ((first, source[: len(samples)]), (last, source[-len(samples) - 12 :][: len(samples)])):
        assert np.corrcoef(found - samples, expected)[0, 1] > 0.99
    assert not unread


def test_short_noise_is_repeated(tmp_path):
    soundfile.write(tmp_path / "short.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE // 2), RATE)
    waveforms = Waveforms(WaveformConfig(noise_probability=1.0, noise=[str(tmp_path)]), FeatureConfig())
    samples = speech()
    added = waveforms.degraded(samples, scene(snr_db=10.0, place=0.3), {}) - samples
    period = RATE // 2
    assert np.allclose(added[:-period], added[period:], atol=1e-6) and np.abs(added[:period]).max() > 0


def test_batches_depend_on_seed_and_position_alone(corpus, noise):
    """Whatever prepares them, from wherever it goes on, and whoever shares them; and each use draws anew."""
    waveform = everything(noise)

    def updates(start: Position, rank: int = 0, world: int = 1, **changes) -> list:
        made = batches(corpus / "fbank", waveform, **changes).updates(start, 2, rank, world)
        return [update.batches for update in islice(made, 3)]

    whole = updates(Position())
    for numbers in (updates(Position(), num_workers=2), updates(Position())):
        for one, other in zip(whole, numbers, strict=True):
            assert all(same(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    assert same(whole[1][0][1], updates(Position(0, 1))[0][0][1])
    second = updates(Position(), rank=1, world=2)
    for one, other in zip(whole, second):
        assert all(same(dict(one)[number], batch) for number, batch in other)
    twice = [epoch(batches(corpus / "fbank", waveform, speeds=[1.0]), n) for n in (0, 1)]
    features = [{name: b.features[i].numpy() for b in each for i, name in enumerate(b.ids)} for each in twice]
    changed = [name for name, array in features[0].items() if not np.array_equal(array, features[1][name])]
    assert len(changed) > COUNT / 2


def test_scenes_are_drawn_as_configured_each_kind_for_itself(noise):
    config = replace(everything(noise), noise_snr_db=[5.0, 15.0], level_db=[-35.0, 10.0], room_rt60_s=[0.2, 0.5])
    drawn = [Waveforms(config, FeatureConfig()).drawn(np.random.default_rng(n)) for n in range(400)]
    shares = {kind: [getattr(each, kind) for each in drawn if getattr(each, kind) is not None]
              for kind in ("rt60_s", "snr_db", "gain_db", "line")}  # fmt: skip
    # 400 draws at 0.5: five deviations are 50
    assert all(abs(len(values) - 200) < 50 for values in shares.values())
    for kind, (low, high) in {"rt60_s": (0.2, 0.5), "snr_db": (5.0, 15.0), "gain_db": (-35.0, 10.0)}.items():
        width = high - low
        assert low <= min(shares[kind]) < low + width / 10 and high - width / 10 < max(shares[kind]) <= high
    assert {line.codec for line in shares["line"]} == set(LINES) and {line.band for line in shares["line"]} == {
        True,
        False,
    }
    assert all(DIRECT_DB[0] <= each.direct_db <= DIRECT_DB[1] for each in drawn)
    assert {number for each in drawn for number in each.noise} == {0, 1}
    quiet = Waveforms(replace(config, level_probability=0.0), FeatureConfig())
    for n, each in enumerate(drawn):
        assert astuple(quiet.drawn(np.random.default_rng(n))) == astuple(replace(each, gain_db=None))


def test_a_folder_of_noise_that_is_none_is_told(corpus, tmp_path):
    def start(folder: Path) -> None:
        batches(corpus / "fbank", WaveformConfig(noise_probability=0.5, noise=[str(folder)]))

    with pytest.raises(
        UserError, match=r"names .*/none, which is no folder .*No such file.*: mend it, or set data\.wave"
    ):
        start(tmp_path / "none")
    with pytest.raises(UserError, match=r"of data\.waveform\.noise, holds no audio: give a folder with WAV or FLAC"):
        start(tmp_path)
    (tmp_path / "a.txt").write_text("no noise")
    with pytest.raises(UserError, match=r"holds no audio \(.*/a\.txt: not audio whose header tells its length\): give"):
        start(tmp_path)
    with pytest.raises(UserError, match=r"a\.txt, which is no folder that can be read \(Not a directory\)"):
        start(tmp_path / "a.txt")


def test_what_is_no_noise_is_named_and_skipped(corpus, noise, tmp_path, caplog):
    """At the start what has no header of audio; later what ends before its header says, and another file is taken."""
    with caplog.at_level(logging.WARNING):
        batches(corpus / "fbank", everything(noise))
    assert any("1 of 3 files in" in line and "README: not audio" in line for line in caplog.messages)
    whole = (noise / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 100])
    (tmp_path / "b.wav").write_bytes(whole)
    waveforms = Waveforms(WaveformConfig(noise_probability=1.0, noise=[str(tmp_path)]), FeatureConfig())
    (tmp_path / "a.wav").write_bytes(b"gone")
    samples, unread = speech(), {}
    found = waveforms.degraded(samples, scene(snr_db=10.0, noise=(0, 1), place=0.5), unread)
    assert list(unread) == [str(tmp_path / "a.wav")] and all(unread.values())
    assert np.array_equal(found, waveforms.degraded(samples, scene(snr_db=10.0, noise=(1,), place=0.5), {}))
    with pytest.raises(UserError, match=r"files in a row of data\.waveform\.noise cannot be read: are .* there\?"):
        waveforms.degraded(samples, scene(snr_db=10.0, noise=(0, 0, 0)), {})
    made = batches(corpus / "fbank", WaveformConfig(noise_probability=1.0, noise=[str(tmp_path)]))
    (tmp_path / "b.wav").unlink()
    update = next(made.updates(Position(), 1))
    assert (
        update.bad
        and not update.batches
        and set(update.unread) <= {str(tmp_path / name) for name in ("a.wav", "b.wav")}
    )


def test_features_without_audio_are_refused(corpus, cuts_path, tmp_path):
    with pytest.raises(
        UserError, match=r"that of u0_sp0\.9 is not here \(its manifest names no recording\): train where"
    ):
        TrainBatches(cuts_path, replace(DATA, waveform=NEVER), TOKENIZER)
    cuts = [json.loads(u.line) for u in read_utterances(Shard(train_source(corpus / "fbank")), "text", with_lines=True)]
    for cut in cuts:
        cut["recording"]["sources"][0]["source"] = "/nowhere/a.wav"
    moved = tmp_path / "cuts.jsonl"
    moved.write_text("\n".join(map(json.dumps, cuts)) + "\n")
    with pytest.raises(UserError, match=r"is not here \(/nowhere/a\.wav is missing\): train where the audio is"):
        TrainBatches(moved, replace(DATA, waveform=NEVER), TOKENIZER)
    assert len(epoch(TrainBatches(moved, DATA, TOKENIZER))) > 1  # which need not read it


def test_shards_that_do_not_tell_a_part_of_a_recording_are_refused(corpus):
    """Those of an earlier version do not; where a cut is all of its recording, that is told by its length."""
    waveforms = Waveforms(NEVER, FeatureConfig())
    shards = find_shards(train_source(corpus / "shar"))
    for utterance in (u for shard in shards for u in read_utterances(shard, "text", with_lines=True)):
        cut = json.loads(utterance.line)
        assert cut["start"] == 0 and (cut["custom"].pop("audio_start") > 0) == (utterance.source == "u1")
        before = utterance._replace(line=json.dumps(cut).encode())
        if utterance.source != "u1":
            assert np.array_equal(*(waveforms.features(u, scene(), {}) for u in (utterance, before)))
            continue
        with pytest.raises(
            UserError, match=r"\(its shard, of an earlier version, does not tell where in the recording"
        ):
            waveforms.check(before)


def test_an_utterance_whose_audio_is_damaged_is_left_out_and_named(corpus, tmp_path):
    cuts = [json.loads(u.line) for u in read_utterances(Shard(train_source(corpus / "fbank")), "text", with_lines=True)]
    (tmp_path / "damaged.wav").write_bytes(b"RIFF")
    cuts[4]["recording"]["sources"][0]["source"] = str(tmp_path / "damaged.wav")
    path = tmp_path / "cuts.jsonl"
    path.write_text("\n".join(map(json.dumps, cuts)) + "\n")
    bad: dict[str, str] = {}
    for update in TrainBatches(path, replace(DATA, waveform=NEVER), TOKENIZER).updates(Position(), 1):
        bad |= update.bad
        if update.end.epoch:
            break
    assert list(bad) == [cuts[4]["id"]] and "cannot be read" in bad[cuts[4]["id"]]
