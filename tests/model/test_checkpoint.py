"""Models: refused with a sentence when their content is foreign, of the wrong type or damaged."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.toy_training import make_trainer
from support.transducers import save_random_run

from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.model.tensors import read_tensors, write_tensors

FILE = Path("model.safetensors")
WRONG_VALUES = (None, True, -1, 1.5, "x", [], [1], {}, {"x": 1})
WRONG_WEIGHTS = (torch.zeros(()), torch.zeros(2, 3), torch.zeros(0))


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The content of a sound model file."""
    folder = tmp_path_factory.mktemp("model")
    save_random_run(folder)
    return read_tensors(folder / FILE, "a model")


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths to all values within nested dictionaries and lists; of a configuration's sections none, but to them."""
    if path:
        yield path
    if path[:1] == ("config",) and len(path) == 2:
        return  # tests/config is about those
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def changed(values: dict[str, Any], path: tuple, wrong: Any) -> dict[str, Any]:
    result = copy.deepcopy(values)
    part: Any = result
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = wrong
    return result


@pytest.mark.parametrize("wrong", WRONG_VALUES, ids=repr)
def test_a_value_of_any_other_type_gives_a_sentence(content, wrong):
    """Wherever it stands; a few are sound by chance, such as 1.5 for a number of a search."""
    weights, values = content
    refused = 0
    for path in places(values):
        try:
            checkpoint.parse_model(FILE, weights, changed(values, path, wrong)).build()
        except UserError as error:
            refused += 1
            assert FILE.name in str(error) or "encoder" in str(error), (path, error)
    assert refused > 15


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS, ids=lambda tensor: str(tuple(tensor.shape)))
def test_a_weight_of_any_other_shape_gives_a_sentence(content, wrong):
    weights, values = content
    for name in weights:
        if weights[name].shape != wrong.shape:
            with pytest.raises(UserError, match=FILE.name):
                checkpoint.parse_model(FILE, weights | {name: wrong}, values).build()


@pytest.mark.parametrize("name", ["config", "tokenizer", "info"])
def test_each_entry_is_needed(content, name):
    weights, values = content
    with pytest.raises(UserError, match=f"model.safetensors is damaged at {name} .Field required."):
        checkpoint.parse_model(FILE, weights, {key: value for key, value in values.items() if key != name})


@pytest.mark.parametrize(
    "wrong", [{"steps": 1.5}, {"valid": {"slow_share": "x"}}, {"identity": []}, {"fingerprint": 3}, {"wall_s": None}]
)
def test_the_record_of_the_training_has_its_types(content, wrong):
    weights, values = content
    (name,) = wrong
    with pytest.raises(UserError, match=f"model.safetensors is damaged at info.{name}"):
        checkpoint.parse_model(FILE, weights, values | {"info": wrong})


def test_damaged_or_foreign_models_are_refused(toy_cuts, tmp_path):
    with pytest.raises(UserError, match="training has not finished"):
        checkpoint.load_model(tmp_path)
    make_trainer(toy_cuts, tmp_path).run()
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_model(tmp_path)
    path.write_bytes(whole)
    weights, values = read_tensors(path, "a model")
    fewer = values["tokenizer"] | {"pieces": values["tokenizer"]["pieces"][:-1]}
    write_tensors(path, "a model", weights, values | {"tokenizer": fewer})
    with pytest.raises(UserError, match="tokens, but its token set has"):
        checkpoint.load_model(tmp_path)
    weights["joiner.vocabulary.bias"][0] += 1  # by hand: the check sum is right
    write_tensors(path, "a model", weights, values)
    with pytest.raises(UserError, match="damaged: its weights are not those that were trained"):
        checkpoint.load_model(tmp_path)


def test_only_weights_are_averaged(tmp_path):
    write_tensors(tmp_path / "step-1.safetensors", "a model", {"a": torch.ones(2)}, {})
    with pytest.raises(UserError, match="step-1.safetensors holds a model, where weights is needed"):
        checkpoint.read_weights(tmp_path / "step-1.safetensors")


def test_a_fingerprint_is_of_the_bytes_of_any_type():
    weights = {"b": torch.tensor([[1.0, 2.0]]).T, "a": torch.tensor(True)}
    fingerprint = checkpoint.fingerprint(weights)
    bytes_by_name = b"a\x01" + b"b" + np.array([1, 2], np.float32).tobytes()
    assert fingerprint == hashlib.sha256(bytes_by_name).hexdigest()[:12]
    for name, other in (("a", torch.tensor(False)), ("b", torch.tensor([[1.0], [3.0]])), ("c", torch.zeros(0))):
        assert checkpoint.fingerprint(weights | {name: other}) != fingerprint
    assert len({checkpoint.fingerprint({"a": torch.ones(1, dtype=t)}) for t in (torch.bfloat16, torch.half)}) == 2


def test_a_released_model_has_half_the_bytes_and_rounded_matrices(tmp_path, content):
    save_random_run(tmp_path / "run")
    model = checkpoint.read_run(tmp_path / "run")
    mark = checkpoint.release_model(tmp_path / "small.safetensors", model)
    found = checkpoint.read_model(tmp_path / "small.safetensors")
    for name, tensor in model.weights.items():
        other = found.weights[name]
        assert other.dtype == tensor.dtype
        if tensor.dim() > 1:  # 11 bits: half a unit in the last place is 2^-11 of the value, 2^-25 below 2^-14
            torch.testing.assert_close(other, tensor, rtol=2**-11, atol=2**-25)
        else:
            assert torch.equal(other, tensor)
    assert mark == found.info["fingerprint"] == checkpoint.fingerprint(found.weights)
    assert found.info["released_from"] == checkpoint.fingerprint(model.weights)
    assert (found.config, found.tokenizer.to_dict()) == (model.config, model.tokenizer.to_dict())
    bytes_of_matrices = sum(2 * tensor.numel() for tensor in model.weights.values() if tensor.dim() > 1)
    saved = model.file.stat().st_size - (tmp_path / "small.safetensors").stat().st_size
    assert saved == pytest.approx(bytes_of_matrices, abs=200)  # the header differs
    checkpoint.load_model(tmp_path / "small.safetensors")


def test_a_weight_too_large_for_half_precision_is_named(tmp_path):
    save_random_run(tmp_path)
    model = checkpoint.read_run(tmp_path)
    model.weights["joiner.vocabulary.weight"][0, 0] = 1e5
    with pytest.raises(UserError, match="joiner.vocabulary.weight has a weight beyond 65504"):
        checkpoint.release_model(tmp_path / "small.safetensors", model)
