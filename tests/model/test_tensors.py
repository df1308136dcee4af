"""Files of tensors: every bit comes back, in one piece, and any that changed is noticed."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors import safe_open

from residualformer import tensor_files
from residualformer.errors import UserError
from residualformer.model.tensors import read_tensors, write_tensors

TENSORS = {
    "b": torch.tensor([[1.5, float("nan")], [-0.0, float("inf")]]).T,  # not contiguous
    "a": torch.tensor(True),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(0, 2, dtype=torch.int64),
}
VALUES = {"name": 'é "quoted"\n', "steps": 3, "exact": 0.1 + 0.2, "nested": [{"x": None}]}


def bits(tensor: torch.Tensor) -> tuple:
    return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).tolist()


def test_tensors_and_values_come_back_bit_for_bit_and_others_can_read_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, "a model", TENSORS, VALUES)
    found, values = read_tensors(path, "a model")
    assert values == VALUES and {n: bits(t) for n, t in found.items()} == {n: bits(t) for n, t in TENSORS.items()}
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["residualformer"])["values"] == VALUES
        assert bits(file.get_tensor("b")) == bits(TENSORS["b"])
    content = path.read_bytes()
    write_tensors(path, "a model", dict(reversed(TENSORS.items())), VALUES)
    assert path.read_bytes() == content  # whatever the order


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, "a model", TENSORS, VALUES)
    content = path.read_bytes()
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="x.safetensors is no file of this toolkit, or is damaged; remove it"):
            read_tensors(path, "a model")


def test_what_is_cut_off_or_appended_to_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, "a model", TENSORS, VALUES)
    content = path.read_bytes()
    for damaged in (*(content[:n] for n in range(len(content))), content + b"\0", content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            read_tensors(path, "a model")


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02", b"PK\x03\x04" + bytes(99), b"\xff" * 8])
def test_what_is_no_such_file_is_named(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.safetensors is no file of this toolkit, or is damaged; remove it"):
        read_tensors(path, "state")
    with pytest.raises(UserError, match="y.safetensors is missing; train the model first"):
        read_tensors(tmp_path / "y.safetensors", "state")


def test_a_file_of_another_kind_is_told(tmp_path):
    write_tensors(tmp_path / "x.safetensors", "weights", {}, {})
    with pytest.raises(UserError, match="x.safetensors holds weights, where a model is needed"):
        read_tensors(tmp_path / "x.safetensors", "a model")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_tensors(path, "a model", TENSORS, VALUES)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_tensors(path, "a model", {"x": torch.zeros(2)}, {})
    assert caught.value.filename == str(path) and list(tmp_path.iterdir()) == [path]
    assert read_tensors(path, "a model")[1] == VALUES


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    write_tensors(tmp_path / "x.safetensors", "a model", TENSORS, VALUES)
    monkeypatch.setattr(tensor_files, "_content", refuse)
    with pytest.raises(PermissionError):
        read_tensors(tmp_path / "x.safetensors", "a model")
