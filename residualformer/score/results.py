"""From the folders of an experiment to its results: a row of plain values per decoding run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.errors import UserError, closest
from residualformer.files import read_json, read_json_lines
from residualformer.score.bootstrap import paired_p_value, rate_interval
from residualformer.score.translation import bleu_and_chrf
from residualformer.score.wer import ErrorCounts, count_errors, rate_percent
from residualformer.train import checkpoint

_AGAIN = "run stage 7 again, with --overwrite"


@dataclass(frozen=True)
class Scored:
    """One decoding run, scored. `row` is what is written; ids and counts are for the comparison with the baseline."""

    row: dict[str, Any]
    ids: list[str]
    words: ErrorCounts | None  # None for translation


def find_runs(exp: Path, split: str) -> list[Path]:
    """Folders `<experiment>/decode_<split>_*` below `exp` that hold a hyp.jsonl; UserError when there is none."""
    found = sorted(path.parent for path in exp.glob(f"*/decode_{split}_*/hyp.jsonl"))
    if not found:
        splits = sorted({path.parent.name.split("_")[1] for path in exp.glob("*/decode_*_*/hyp.jsonl")})
        advice = f"decoded so far: {', '.join(splits)}" if splits else "run stage 7 first"
        raise UserError(f"{exp} holds no experiment that was decoded on '{split}' ({advice}).")
    return found


def score_run(folder: Path) -> Scored:
    """Score one `hyp.jsonl`; an utterance that decoding skipped counts as an empty hypothesis.

    Raises UserError for a line that is not a record, a damaged decode.json, or no utterance at all.
    """
    decoding = read_json(folder / "decode.json", _AGAIN) if (folder / "decode.json").exists() else {}
    records = read_records(folder / "hyp.jsonl")
    skipped = decoding.get("skipped", [])
    records += [{"id": item["id"], "ref": item["ref"], "hyp": ""} for item in skipped]
    if not records:
        raise UserError(f"{folder}/hyp.jsonl holds no utterance: run stage 7 again.")
    records.sort(key=lambda record: record["id"])
    references, hypotheses = ([record[key] for record in records] for key in ("ref", "hyp"))
    row = {
        "experiment": folder.parent.name,
        "run": folder.name,
        "search": decoding.get("search", ""),
        "metric": "BLEU" if decoding.get("target") == "translation" else "WER",
        "utterances": len(records),
        "missing": len(skipped),
    }
    words = None
    if row["metric"] == "BLEU":
        row |= bleu_and_chrf(references, hypotheses)
    else:
        words = count_errors(references, hypotheses, "word")
        row |= {"words": int(words.lengths.sum()), "wer": _rate(words)}
        row |= {"cer": _rate(count_errors(references, hypotheses, "character"))}
    row |= _training(folder.parent)
    row["decoding"] = {key: value for key, value in decoding.items() if key != "skipped"}
    return Scored(row, [record["id"] for record in records], words)


def compare(runs: Sequence[Scored], baseline: str, required: bool = True) -> list[dict[str, Any]]:
    """The rows of `runs`, each with its relative gap to the run of `baseline` with the same folder name.

    Adds `relative` (in percent of the baseline's WER; positive is worse) and `p_value`; None where there is no such
    run or it has other utterances. UserError when `required` and there is no experiment of that name.
    """
    names = [run.row["experiment"] for run in runs]
    if required and baseline not in names:
        allowed = ", ".join(dict.fromkeys(names))
        advice = closest(baseline, names)
        raise UserError(f"--baseline {baseline} is no decoded experiment; there are: {allowed}.{advice}")
    references = {run.row["run"]: run for run in runs if run.row["experiment"] == baseline}
    return [run.row | _gap(run, references.get(run.row["run"])) for run in runs]


def _gap(run: Scored, baseline: Scored | None) -> dict[str, float | None]:
    none = {"relative": None, "p_value": None}
    if baseline is None or baseline is run or baseline.ids != run.ids or run.words is None or baseline.words is None:
        return none
    errors, expected = run.words.errors, baseline.words.errors
    if not expected.sum():
        return none
    relative = rate_percent(errors.sum() - expected.sum(), expected.sum())
    return {"relative": round(relative, 2), "p_value": round(paired_p_value(errors, expected), 4)}


def read_records(path: Path) -> list[dict[str, Any]]:
    """Lines of hyp.jsonl, each with id, ref and hyp."""
    records = read_json_lines(path, _AGAIN)
    for number, record in enumerate(records, start=1):
        texts = [record.get(key) for key in ("id", "ref", "hyp")] if isinstance(record, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, line {number} is not a record with id, ref and hyp: {_AGAIN}.")
    return records


def _rate(counts: ErrorCounts) -> dict[str, Any]:
    low, high = rate_interval(counts.errors, counts.lengths)
    totals = {name: int(getattr(counts, name).sum()) for name in ("insertions", "deletions", "substitutions")}
    return {"value": _percent(counts.rate), "low": _percent(low), "high": _percent(high), **totals}


def _percent(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None


def _training(experiment: Path) -> dict[str, Any]:
    """What `model.pt` tells: description, warm start, parameters, training record; empty parts if there is none."""
    file = experiment / checkpoint.MODEL_FILE
    value = checkpoint.load(file, "config", "info") if file.exists() else {}
    info = value.get("info", {})
    keys = ("seed", "commit", "command", "hardware", "wall_s", "steps", "data", "versions", "fingerprint")
    return {
        "description": value.get("config", {}).get("description", ""),
        "warm_start": value.get("config", {}).get("warm_start") or "",
        "parameters": info.get("parameters", {}),
        "training": {key: info[key] for key in keys if key in info},
    }
