"""Atomic writes that name their file, and JSON that may be damaged."""

from __future__ import annotations

import errno
import json

import pytest

from residualformer.errors import UserError
from residualformer.files import read_json, read_json_lines, read_log, remove_leftovers, replacing, write_json
from residualformer.lock import alone_in


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("3 requested, 1 written")])
def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError) as caught, replacing(path) as temporary:
        temporary.write_text("{")
        raise error
    assert caught.value.filename == str(path)
    assert read_json(path, "-") == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = ["model.safetensors", ".lock", ".hidden.7", "1.json", ".run.lock"]
    for name in [*kept, ".12345.model.safetensors", ".7.cuts.jsonl.gz"]:
        (tmp_path / name).write_text("-")
    (tmp_path / ".8.new.export").mkdir()
    (tmp_path / ".8.new.export" / "encoder.onnx").write_text("-")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "not JSON"), (b"[]", "no.* JSON mapping"), (b"\xff", "not text"), (b"", "not JSON")]
)
def test_damaged_json_is_named_with_what_to_do(tmp_path, content, words):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="x.json is missing: do that.$"):
        read_json(path, "do that")
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.json is {words}.*: do that.$"):
        read_json(path, "do that")


def test_lines_are_all_read_or_the_bad_one_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n[2]\n')
    assert read_json_lines(path, "-") == [{"a": 1}, [2]]
    path.write_text('"a\u2028b\x85c"\n{}\n', encoding="utf-8")  # as json.dumps leaves them, without ensure_ascii
    assert read_json_lines(path, "-") == ["a\u2028b\x85c", {}]
    path.write_text("")
    assert read_json_lines(path, "-") == []
    path.write_text('{"a": 1}\n{"a": 2')
    with pytest.raises(UserError, match="line 2 is not JSON.*: do that.$"):
        read_json_lines(path, "do that")


def test_a_log_cut_off_by_a_crash_is_read_up_to_there(tmp_path):
    path = tmp_path / "log.jsonl"
    records = [{"step": n, "loss": 0.5} for n in range(3)]
    whole = "".join(json.dumps(record) + "\n" for record in records)
    for length in range(len(whole) + 1):
        path.write_text(whole[:length])
        assert read_log(path) == records[: (length + 1) // (len(whole) // 3)]  # the last needs no end of line


def test_a_run_folder_belongs_to_one_training(tmp_path):
    with alone_in(tmp_path / "exp" / "run"), alone_in(tmp_path / "exp" / "other"):
        with pytest.raises(UserError, match="exp/run is in use by another run; wait until it ends, or stop it"):
            with alone_in(tmp_path / "exp" / "run"):
                raise AssertionError
    with alone_in(tmp_path / "exp" / "run"):
        pass
