"""The gate: a manifest names local files in the types that Lhotse expects, or a sentence says what is wrong."""

from __future__ import annotations

import copy
import gzip
import json
import os
import pickle

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment

from residualformer.data.arrays import CHECKSUM, BadArray, checksum, load_features
from residualformer.data.manifest import BadCut, load_audio, parse_cut, read_cuts
from residualformer.decode.corpus import read_cuts_with_features
from residualformer.errors import UserError
from residualformer.export.audio import utterances_of_cuts


@pytest.fixture
def cut(tmp_path) -> dict:
    """A serialized cut of stage 2 with audio, a transform, features and all other keys that we write."""
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, np.int16), 16000)
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", np.zeros((100, 80), np.float32))
    features = {"type": "fbank", "num_frames": 100, "num_features": 80, "frame_shift": 0.01, "sampling_rate": 16000}
    features |= {"start": 0.0, "duration": 1.0, "storage_type": "numpy_files", "storage_path": str(tmp_path / "arrays")}
    features |= {"storage_key": "a.npy", "recording_id": "a", "channels": 0}
    recording = Recording.from_file(tmp_path / "a.wav", recording_id="a").reverb_rir(
        Recording.from_file(tmp_path / "a.wav")
    )
    supervision = SupervisionSegment("a", "a", 0.0, 1.0, 0, "HELLO", "English", "s", custom={"translation": "你好"})
    made = MonoCut("a", 0.0, 1.0, 0, [supervision], None, recording, {"speed": 1.1, "utterance": "a"}).to_dict()
    return made | {"features": features}


def changed(cut: dict, path: str, value: object) -> dict:
    cut = copy.deepcopy(cut)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner = cut
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return cut


def test_a_good_cut_is_as_lhotse_reads_it(cut, tmp_path):
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut) + "\n")
    (by_lhotse,) = CutSet.from_file(tmp_path / "cuts.jsonl")
    assert parse_cut(copy.deepcopy(cut)) == by_lhotse
    assert list(read_cuts(tmp_path / "cuts.jsonl", stage=2)) == [by_lhotse]


RIR = "recording.transforms.0.kwargs.rir"


def test_alignments_are_passed_over(cut):
    alignment = {"word": [["HELLO", 0.0, 1.0, None]]}
    assert parse_cut(changed(cut, "supervisions.0.alignment", alignment)) == parse_cut(cut)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recording.sources.0.type", "command"),
        ("recording.sources.0.type", "url"),
        ("recording.sources.0.type", "memory"),
        ("recording.sources.0.type", ["file"]),
        (f"{RIR}.sources.0.type", "command"),
        (RIR, {"id": "x", "storage_type": "memory_raw", "width": 1, "height": 1}),
        ("recording.transforms.0.name", "Speed"),
        ("recording.transforms.0.name", "system"),
        ("recording.transforms", {"0": "Speed"}),
        ("features.storage_type", "memory_raw"),
        ("features.storage_type", "lilcom_url"),
        ("features.num_frames", "100"),
        ("features.num_frames", 10**30),
        ("features.frame_shift", float("nan")),
        ("recording.sampling_rate", 1),
        ("recording.sampling_rate", 10**13),
        ("recording.num_samples", -1),
        ("duration", "1.0"),
        ("duration", float("inf")),
        ("start", True),
        ("channel", [0]),
        ("supervisions", None),
        ("supervisions.0.text", 7),
        ("supervisions.0.toxt", "HELLO"),
        ("custom", {"image": {"storage_type": "memory_raw", "storage_key": "x", "width": 1}}),
        ("custom", [1]),
        ("type", "MixedCut"),
        ("type", "PaddingCut"),
        ("id", None),
        ("surprise", 1),
    ],
)
def test_what_a_manifest_must_not_say(cut, path, value, tmp_path):
    bad = changed(cut, path, value)
    with pytest.raises(BadCut):
        parse_cut(copy.deepcopy(bad))
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.write(json.dumps(cut) + "\n" + json.dumps(bad) + "\n")
    key = path.replace("transforms.0", "transforms[0]").split(".")[0]
    for read in (
        lambda path: list(read_cuts(path, stage=2)),
        lambda path: read_cuts_with_features(path, None),
        lambda path: utterances_of_cuts(path, 2, 16000),
    ):
        with pytest.raises(UserError, match=rf"cuts.jsonl.gz is not a manifest of cuts \(line 2: {key}"):
            read(tmp_path / "cuts.jsonl.gz")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[]\n", b'"text"\n', b"\xff\xfe{}\n", b"{}{}\n", b"x" * (1 << 25)]
)
def test_lines_that_are_no_cuts(content, tmp_path):
    (tmp_path / "cuts.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="is not a manifest of cuts"):
        list(read_cuts(tmp_path / "cuts.jsonl", stage=1))


def test_yaml_is_no_manifest(tmp_path):
    """YAML can hold bytes, which Lhotse would unpickle as features."""
    (tmp_path / "cuts.yaml").write_text("- type: MonoCut\n  features: {storage_key: !!binary gASVAA==}\n")
    with pytest.raises(UserError, match="is not a manifest of cuts"):
        list(read_cuts(tmp_path / "cuts.yaml", stage=2))


@pytest.mark.parametrize(
    ("kind", "source"), [("command", "touch {}/run"), ("url", "pipe:touch {}/run"), ("file", "{}")]
)
def test_audio_is_read_from_files_only(cut, kind, source, tmp_path):
    """Also where a cut did not come out of a manifest."""
    good = parse_cut(cut)
    assert load_audio(good).shape == (1, 16000)
    good.recording.sources[:] = [AudioSource(kind, [0], source.format(tmp_path))]
    with pytest.raises(BadCut):
        load_audio(good)
    assert not (tmp_path / "run").exists()


def test_audio_is_not_read_from_pipes(cut, tmp_path):
    """Which would wait for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    good = parse_cut(cut)
    good.recording.sources[0].source = str(tmp_path / "pipe.wav")
    with pytest.raises(BadCut, match="pipe.wav is missing"):
        load_audio(good)


def test_every_flipped_bit_of_features_is_noticed_or_changes_nothing(cut, tmp_path):
    """White space in the header changes nothing."""
    array = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    path = tmp_path / "arrays" / "a.npy"
    np.save(path, array)
    good = parse_cut(cut)
    good.features.num_frames, good.features.num_features = array.shape
    good.custom[CHECKSUM] = checksum(array)
    np.testing.assert_array_equal(load_features(good), array)
    content = path.read_bytes()
    harmless = 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            read = load_features(good)
        except BadArray:
            continue
        assert read.dtype == array.dtype and read.tobytes() == array.tobytes()
        harmless += 1
    assert harmless < 8 * len(content) / 10


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((100, 79), np.float32), "shape"),
        (np.zeros((100, 80), np.float64), "type"),
        (np.zeros((100, 80), ">f4"), "type"),
        (np.asfortranarray(np.zeros((100, 80), np.float32)), "shape"),
        (np.array([object()]), "shape"),
    ],
)
def test_features_of_another_shape_or_type(cut, array, reason, tmp_path):
    np.save(tmp_path / "arrays" / "a.npy", array)
    with pytest.raises(BadArray, match=reason):
        load_features(parse_cut(cut))


def test_features_are_never_unpickled(cut, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    good = parse_cut(cut)
    stored = copy.deepcopy(good)
    for kind, key in (("memory_raw", pickle.dumps(Harm())), ("memory_npy", pickle.dumps(Harm()))):
        stored.features.storage_type, stored.features.storage_key = kind, key
        with pytest.raises(BadArray):
            load_features(stored)
    (tmp_path / "arrays" / "a.npy").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(BadArray):
        load_features(good)
    assert not (tmp_path / "run").exists()


def test_a_part_of_features_is_not_taken_for_the_whole(cut):
    with pytest.raises(BadArray, match="part"):
        load_features(parse_cut(cut | {"duration": 0.5}))
