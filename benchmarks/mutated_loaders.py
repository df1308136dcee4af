"""What reads input from outside: for each a valid sample in a folder, and a function that reads all of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import matplotlib
import mutated_context
import mutated_data
import mutated_models
from mutated_common import TEXT, Loader
from mutated_data import write_configuration

from local.common.corpus import unpack
from residualformer.files import write_json
from residualformer.report.papers import read_table
from residualformer.report.plots import training_curves
from residualformer.report.results import Results
from residualformer.report.results_text import render_markdown
from residualformer.report.scoring import score_run
from residualformer.workflow.marker import Marker
from residualformer.workflow.pace import pace_of

matplotlib.use("agg")


def write_decoded(folder: Path) -> None:
    records = [{"id": f"u{i}", "ref": TEXT, "hyp": "abc", "ref_nats": 3.5, "ref_tokens": 6} for i in range(3)]
    run = folder / "exp" / "base" / "decode_test_beam4"
    run.mkdir(parents=True)
    (run / "hyp.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    told = {"target": "text", "search": "beam4", "utterances": 3, "rtf": 0.1, "settings": {"beam": 4}}
    write_json(run / "decode.json", told | {"skipped": [{"id": "u9", "ref": TEXT, "reason": "gone"}]})


def read_decoded(folder: Path) -> None:
    score_run(folder / "exp" / "base" / "decode_test_beam4")


def write_results(folder: Path) -> None:
    published = Path(__file__).resolve().parent.parent / "docs" / "results" / "an4_own" / "results.json"
    (folder / "results.json").write_text(published.read_text(encoding="utf-8"), encoding="utf-8")


def write_marker(folder: Path) -> None:
    Marker(True, {"version": "1", "command": "x", "encoder.dim": 3}, {"a": "3 bytes"}).write(folder / ".x.done")


def read_marker(folder: Path) -> None:
    if marker := Marker.read(folder / ".x.done"):
        marker.changes({"version": "2"})
        sorted(marker.made.items())
        json.dumps(marker.fingerprint)


def write_log(folder: Path) -> None:
    records = [{"step": step, "train/loss": 3.0 / step, "train/wall_s": 2.0 * step} for step in (1, 2, 3)]
    records += [{"step": 3, "valid/transducer_per_token": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_configuration(folder)


def read_log(folder: Path) -> None:
    if (folder / "metrics.jsonl").exists():
        training_curves(folder / "metrics.jsonl", folder / "training.png")
    pace_of(folder)


def write_archive(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "a.txt").write_text("text")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "part", "part")


def read_papers(folder: Path) -> None:
    read_table(folder / "table3.yaml")


def write_papers(folder: Path) -> None:
    source = Path(__file__).resolve().parent.parent / "conf" / "tables" / "table3.yaml"
    (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")


LOADERS: dict[str, Loader] = {
    **mutated_data.LOADERS,
    **mutated_models.LOADERS,
    **mutated_context.LOADERS,
    "hypotheses": Loader(write_decoded, read_decoded),
    "results": Loader(write_results, lambda folder: render_markdown(Results.read(folder / "results.json"), [])),
    "papers' tables": Loader(write_papers, read_papers),
    "markers": Loader(write_marker, read_marker, ".*"),
    "logs": Loader(write_log, read_log),
    "archives": Loader(write_archive, lambda folder: unpack(folder / "a.tar.gz", "part", folder / "got"), "*.gz"),
}
