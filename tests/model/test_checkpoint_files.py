"""Checkpoints: written in one piece, and refused with a sentence when they are damaged or foreign."""

from __future__ import annotations

import errno
import io

import pytest
import torch
from support.toy_training import make_trainer

from residualformer.errors import UserError
from residualformer.model import checkpoint


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    checkpoint.save({"x": torch.ones(2)}, path)

    def full(value, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        checkpoint.save({"x": torch.zeros(2)}, path)
    assert torch.equal(torch.load(path)["x"], torch.ones(2)) and list(tmp_path.iterdir()) == [path]


def test_damaged_or_foreign_models_are_refused(toy_cuts, tmp_path):
    with pytest.raises(UserError, match="training has not finished"):
        checkpoint.load_model(tmp_path)
    make_trainer(toy_cuts, tmp_path).run()
    path = tmp_path / "model.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_model(tmp_path)
    path.write_bytes(whole)
    value = torch.load(path)
    value["tokenizer"] = value["tokenizer"] | {"pieces": value["tokenizer"]["pieces"][:-1]}
    checkpoint.save(value, path)
    with pytest.raises(UserError, match="tokens, but its token set has"):
        checkpoint.load_model(tmp_path)
    value = torch.load(io.BytesIO(whole))
    value["weights"]["joiner.vocabulary.bias"][0] += 1  # as a flipped bit would
    checkpoint.save(value, path)
    with pytest.raises(UserError, match="damaged: its weights are not those that were written"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02", b"PK\x03\x04" + bytes(99)])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "resume.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="resume.pt is not a checkpoint or is damaged; remove it"):
        checkpoint.load(path)
    checkpoint.save([1], path)
    with pytest.raises(UserError, match="resume.pt is not a checkpoint of this toolkit, which holds identity"):
        checkpoint.load(path, "identity")


def test_a_flipped_bit_is_noticed_in_every_checkpoint(tmp_path):
    path = tmp_path / "step-4.pt"
    checkpoint.save({"weight": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(4000)) + 2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="step-4.pt is not a checkpoint or is damaged"):
        checkpoint.average([path])


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "resume.pt")

    checkpoint.save([1], tmp_path / "resume.pt")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        checkpoint.load(tmp_path / "resume.pt")
