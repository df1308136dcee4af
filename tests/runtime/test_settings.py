"""Damage of any kind in `model.json` ends in one sentence."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Interval
from support.exported import exported, random_bundle, utterances

from residualformer.errors import UserError
from residualformer.records import read_dataclass
from residualformer.runtime import Recognizer, load_exported
from residualformer.runtime.settings import read_settings

NUM_MUTATIONS = 60
KINDS = {
    "nemo": ("lstm", "sherpa"),
    "nemo, stateless": ("stateless", "sherpa"),
    "ebranchformer": ("stateless", "kaldi"),
}
VALUES = [None, True, -1, 0, 1, 3, 5000, 10**30, 2.5, -1e300, float("nan"), "", "x", "N", [], [1], {}, {"x": 1}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("settings")
    return {
        kind: exported(random_bundle("transformer", *rest), kind.split(",")[0], root / kind)
        for kind, rest in KINDS.items()
    }


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield container and key of every value in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield value, key
        yield from places(each)


def mutated(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Return a copy in which one value is another, of any type, or is gone."""
    content = copy.deepcopy(content)
    container, key = draw.choice(list(places(content)))
    if draw.random() < 0.15:
        del container[key]
    elif draw.random() < 0.3 and type(container[key]) is int:
        container[key] += draw.choice([-1, 1, 2, 1000])
    else:
        container[key] = draw.choice(VALUES)
    return content


def recognize(recognizer: Recognizer, samples: np.ndarray) -> list:
    stream = recognizer.create_stream()
    stream.accept_waveform(samples)
    stream.finish()
    recognizer.decode([stream])
    return stream.pop_segments()


@pytest.mark.parametrize("lean", [False, True], ids=["onnxruntime", "lean"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_wrong_value_is_one_sentence_or_harmless(tmp_path, folders, kind, lean):
    folder, draw = shutil.copytree(folders[kind], tmp_path / "export"), random.Random(f"{kind} {lean}")
    content, samples = json.loads((folder / "model.json").read_text()), utterances()[3]
    refused = 0
    for _ in range(NUM_MUTATIONS):
        changed = mutated(content, draw)
        (folder / "model.json").write_text(json.dumps(changed))
        try:
            recognize(Recognizer(load_exported(folder, lean=lean)), samples)
        except UserError as error:
            refused += 1
            assert str(folder) in str(error) or str(error).startswith("decode."), error
            assert "\n" not in str(error)
    assert 0.4 * NUM_MUTATIONS < refused < NUM_MUTATIONS


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["window"], "32", r"window must be a whole number, not '32'"),
        (["vocab_size"], True, r"vocab_size must be a whole number, not True"),
        (["shift"], -4, r"shift must be a whole number of at least 1 and at most 10000, not -4"),
        (["features", "sample_rate_hz"], 10**12, r"features.sample_rate_hz .*1000000000000 Hz; allowed are"),
        (["features", "preset"], "kalid", r"features.preset .*Did you mean 'kaldi'"),
        (["states", "encoder", 0, "shape", 1], "M", r"states.encoder\[0\].shape\[1\] must be .* or 'N', not 'M'"),
        (["states", "decoder", 0, "dtype"], "int8", r"states.decoder\[0\].dtype must be 'float32' or 'int64'"),
        (["files", "fp32"], None, r"files.fp32 must be a mapping, not None"),
        (["files", "fp16"], {}, r"files must be 'fp32' or 'int8', not 'fp16'"),
        (["decode"], [], r"decode must be a mapping, not \[\]"),
        (["decode", "beam"], 2.5, r"decode.beam must be a whole number.*, not 2.5"),
        (["blank_id"], 99, r"blank_id is 99, but vocab_size"),
        (["look_ahead_ms"], 30, r"window, shift and look_ahead_ms do not fit together"),
    ],
)
def test_file_and_key_are_named(tmp_path, folders, keys, value, message):
    folder = shutil.copytree(folders["nemo"], tmp_path / "export")
    content = json.loads((folder / "model.json").read_text())
    container = content
    for key in keys[:-1]:
        container = container[key]
    container[keys[-1]] = value
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"model.json is damaged \(.*{message}.*\): export the model again\.$"):
        read_settings(folder)


def test_a_missing_key_is_named(tmp_path, folders):
    folder = shutil.copytree(folders["nemo"], tmp_path / "export")
    content = json.loads((folder / "model.json").read_text())
    del content["states"]["encoder"][1]["shape"]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"model.json is damaged \(states.encoder\[1\].shape is missing\)"):
        read_settings(folder)


def test_keys_of_a_later_version_are_passed_over(tmp_path, folders):
    folder = shutil.copytree(folders["nemo"], tmp_path / "export")
    expected = read_settings(folder)
    content = json.loads((folder / "model.json").read_text())
    content["new"], content["decode"]["new"] = 1, [2]
    (folder / "model.json").write_text(json.dumps(content))
    assert read_settings(folder) == expected


@dataclass
class Inner:
    kind: Literal["a", "b"] = "a"


@dataclass
class Outer:
    ratio: Annotated[float, Interval(gt=0, le=1)]
    names: dict[str, list[int] | None]
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    sizes: Annotated[int, Ge(2)] | list[Annotated[int, Ge(0)]] = 2
    anything: Any = None


def test_values_are_read_by_the_annotations_of_the_fields():
    found = read_dataclass(Outer, {"ratio": 1, "names": {"x": [1], "y": None}, "sizes": [0], "anything": {"z": ()}})
    assert found == Outer(1, {"x": [1], "y": None}, False, Inner(), [0], {"z": ()})
    for changed, message in (
        ({"ratio": 0}, "ratio must be a number of more than 0 and at most 1, not 0"),
        ({"ratio": float("inf")}, "ratio must be a number"),
        ({"ratio": True}, "ratio must be a number"),
        ({"names": {"x": [1.0]}}, "names.x must be a list or null, not"),
        ({"flag": 1}, "flag must be true or false, not 1"),
        ({"inner": {"kind": "c"}}, "inner.kind must be 'a' or 'b', not 'c'"),
        ({"sizes": 1}, "sizes must be a whole number of at least 2 or a list, not 1"),
        ({"sizes": [-1]}, "sizes must be"),
    ):
        with pytest.raises(ValueError, match=message):
            read_dataclass(Outer, {"ratio": 1, "names": {}} | changed)
    with pytest.raises(ValueError, match="names is missing"):
        read_dataclass(Outer, {"ratio": 1})
    with pytest.raises(ValueError, match="it must be a mapping"):
        read_dataclass(Outer, [])
