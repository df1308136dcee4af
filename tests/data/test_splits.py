"""Names of splits, and the files that hold their cuts."""

from pathlib import Path

import pytest

from residualformer.data.splits import cuts_file, cuts_files, set_of, split_of


@pytest.mark.parametrize("split", ["train", "test_long", "test_long@a", "test.v2"])
def test_a_split_is_told_by_the_name_of_its_file(split):
    assert split_of(cuts_file(Path("folder"), split)) == split


@pytest.mark.parametrize("name", ["cuts_test.jsonl", "test.yaml", "cuts_test.jsonl.gz"])
def test_files_of_other_kinds_name_their_split_as_well(name):
    assert split_of(Path(name)) == "test"


def test_the_files_of_a_folder(tmp_path):
    for name in ("cuts_train.jsonl.gz", "cuts_dev.jsonl.gz", "cuts_.jsonl.gz", "cuts_x.jsonl", "features.json"):
        (tmp_path / name).touch()
    assert cuts_files(tmp_path) == {split: cuts_file(tmp_path, split) for split in ("dev", "train")}
    assert cuts_files(tmp_path / "absent") == {}


def test_a_subset_belongs_to_its_test_set():
    assert (set_of("test_long@a"), set_of("test_long")) == ("test_long", "test_long")
