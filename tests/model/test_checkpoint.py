"""A model file whose content is of the wrong type or damaged ends in one sentence."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.transducers import save_random_run

from residualformer.errors import UserError
from residualformer.model import checkpoint

WRONG = (None, True, -1, 1.5, "x", b"x", [], [1], {}, {"x": 1}, {1: "x"}, torch.zeros(()), torch.zeros(2, 3))


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict[str, Any]:
    """The content of a sound model file."""
    folder = tmp_path_factory.mktemp("model")
    save_random_run(folder)
    return checkpoint.load(folder / "model.pt", *checkpoint.MODEL_ENTRIES)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths to all values within nested dictionaries and lists; of a configuration's sections none, but to them."""
    yield path
    if path[:1] == ("config",) and len(path) == 2:
        return  # tests/config is about those
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def changed(content: dict[str, Any], path: tuple, wrong: Any) -> Any:
    if not path:
        return wrong
    result = copy.deepcopy(content)
    part = result
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = wrong
    return result


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_value_of_any_other_type_gives_a_sentence(content, wrong):
    """Wherever it stands; a few are sound by chance, such as 1.5 for a number of a search."""
    refused = 0
    for path in places(content):
        try:
            checkpoint.bundle(changed(content, path, wrong), Path("model.pt"))
        except UserError as error:
            refused += 1
            assert "model.pt" in str(error) or "encoder" in str(error), (path, error)
    assert refused > 20


@pytest.mark.parametrize("name", checkpoint.MODEL_ENTRIES)
def test_each_entry_is_needed(content, name):
    rest = {key: value for key, value in content.items() if key != name}
    with pytest.raises(UserError, match="is not a model of this toolkit"):
        checkpoint.bundle(rest, Path("model.pt"))


@pytest.mark.parametrize(("name", "wrong"), [("info", []), ("weights", {"a": 1}), ("step", True), ("random", None)])
def test_what_is_needed_has_its_type(tmp_path, name, wrong):
    checkpoint.save({name: wrong}, tmp_path / "resume.pt")
    with pytest.raises(UserError, match=f"resume.pt is damaged: its entry '{name}' is of another type"):
        checkpoint.load(tmp_path / "resume.pt", name)
    checkpoint.load(tmp_path / "resume.pt")  # nobody asked for it


def test_only_weights_are_averaged(tmp_path):
    checkpoint.save({"a": torch.ones(2), "b": 3}, tmp_path / "step-1.pt")
    with pytest.raises(UserError, match="step-1.pt is damaged"):
        checkpoint.average([tmp_path / "step-1.pt"])


def test_a_fingerprint_is_of_the_bytes_of_any_type():
    weights = {"b": torch.tensor([[1.0, 2.0]]).T, "a": torch.tensor(True)}
    fingerprint = checkpoint.fingerprint(weights)
    bytes_by_name = b"a\x01" + b"b" + np.array([1, 2], np.float32).tobytes()
    assert fingerprint == hashlib.sha256(bytes_by_name).hexdigest()[:12]
    for name, other in (("a", torch.tensor(False)), ("b", torch.tensor([[1.0], [3.0]])), ("c", torch.zeros(0))):
        assert checkpoint.fingerprint(weights | {name: other}) != fingerprint
    assert len({checkpoint.fingerprint({"a": torch.ones(1, dtype=t)}) for t in (torch.bfloat16, torch.half)}) == 2
