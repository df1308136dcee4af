"""Fixtures of the corpora."""

from __future__ import annotations

import sys

import pytest
import yaml
from lhotse import CutSet

from local import custom

SPLITS = ("train", "dev", "test")


class Run:
    """Stages 0 and 1 on `source`; `cuts` and `dropped` are what they made."""

    def __init__(self, monkeypatch, capsys, folder):
        self.monkeypatch, self.capsys, self.folder = monkeypatch, capsys, folder

    def __call__(self, source, *options) -> str:
        self.call(custom, "obtain", "--data", source, "--out", self.folder / "raw", *options)
        manifests = self.folder / "manifests"
        self.call(custom, "manifests", "--corpus", self.folder / "raw", "--out", manifests, *options)
        self.cuts = {name: list(CutSet.from_file(manifests / f"cuts_{name}.jsonl.gz")) for name in SPLITS}
        self.chosen = yaml.safe_load((manifests / "chosen.yaml").read_text())
        lines = (manifests / "dropped.tsv").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "id\treason\tdetail"
        self.dropped = {line.split("\t")[0]: line.split("\t")[1:] for line in lines[1:]}
        return self.capsys.readouterr().out

    def call(self, module, *arguments) -> None:
        self.monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    def all(self) -> list:
        return [cut for name in SPLITS for cut in self.cuts[name]]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Run:
    return Run(monkeypatch, capsys, tmp_path / "out")
