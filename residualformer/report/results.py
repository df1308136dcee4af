"""From the folders of an experiment to its results: a row of plain values per decoding run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.config.loading import config_from_dict
from residualformer.config.schema import Config, DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.splits import set_of
from residualformer.errors import UserError, closest
from residualformer.files import read_json, read_json_lines
from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.bootstrap import Measure, mean_over_subsets, rate
from residualformer.metrics.wer import ErrorCounts, count_errors
from residualformer.model import checkpoint
from residualformer.model.cost import flops_per_frame
from residualformer.report.amnet import Device, read_decisions, summary, table_order, with_savings

TRANSFORMER_BASELINE, RECURRENT_BASELINE = "baseline", "rnnt"  # the experiments that others are compared with
_DIGITS = {"loss": 4}  # of a measure, where these are not 2
_AGAIN = "run stage 7 again, with --overwrite"
_FOLDER = re.compile(r"decode_(?P<split>.+)_(?P<search>(?:greedy|beam).*)")  # a split's name may have an underscore


@dataclass(frozen=True)
class Scored:
    """One decoding run, scored. `row` is what is written; the rest is for order and for the comparison of runs.

    Attributes:
        tested: of each utterance (U,) its id, its reference, and the settings of the search that decide the result.
        measures: by their keys in the row, the one first by which runs are compared.
        config: None where there is no model.pt.
        decisions: of recurrent encoders, the branch of each frame (T,) by utterance.
        device: of recurrent encoders, their FLOPs per frame on the device that is simulated.
    """

    row: dict[str, Any]
    tested: list[tuple]
    measures: dict[str, Measure]
    config: Config | None = None
    decisions: dict[str, np.ndarray] = field(default_factory=dict)
    device: Device | None = None

    @property
    def recurrent(self) -> bool:
        return self.config is not None and self.config.encoder.kind != "transformer"

    @property
    def branched(self) -> bool:
        """Whether there were branches to choose from, and decoding told which were taken."""
        return bool(self.decisions) and len(self.device.per_branch) > 1


def find_runs(exp: Path, sets: Sequence[str]) -> list[Path]:
    """Folders `<experiment>/decode_<split>_*` below `exp` that hold a hyp.jsonl, of all splits of the test sets `sets`.

    A set `name` is the split `name`, or the subsets `name@...`. UserError when there is no folder of one of the sets.
    """
    found = sorted(path.parent for path in exp.glob("*/decode_*/hyp.jsonl") if _FOLDER.fullmatch(path.parent.name))
    wanted = [[folder for folder in found if name in (split_of(folder), set_of(split_of(folder)))] for name in sets]
    for name, folders in zip(sets, wanted, strict=True):
        if not folders:
            splits = ", ".join(sorted({split_of(folder) for folder in found}))
            advice = f"decoded so far: {splits}" if splits else "run stage 7 first"
            raise UserError(f"{exp} holds no experiment that was decoded on '{name}' ({advice}).")
    return list(dict.fromkeys(folder for folders in wanted for folder in folders))


def split_of(folder: Path) -> str:
    """The split that a folder `decode_<split>_<search>` is of."""
    return _FOLDER.fullmatch(folder.name)["split"]


def score_run(folder: Path) -> Scored:
    """Score one `hyp.jsonl`; an utterance that decoding skipped counts as an empty hypothesis.

    Raises UserError for a line that is not a record, a damaged decode.json, or no utterance at all.
    """
    records = read_records(folder / "hyp.jsonl")
    decoding = read_decoding(folder / "decode.json", len(records))
    skipped = decoding["skipped"]
    records += [{"id": item["id"], "ref": item["ref"], "hyp": ""} for item in skipped]
    if not records:
        raise UserError(f"{folder}/hyp.jsonl holds no utterance: run stage 7 again.")
    records.sort(key=lambda record: record["id"])
    references, hypotheses = ([record[key] for record in records] for key in ("ref", "hyp"))
    row = {
        "experiment": folder.parent.name,
        "run": folder.name,
        "split": split_of(folder),
        "search": decoding.get("search", ""),
        "metric": "BLEU" if decoding.get("target") == "translation" else "WER",
        "utterances": len(records),
        "missing": len(skipped),
    }
    if row["metric"] == "BLEU":
        measures = bleu_and_chrf(references, hypotheses)
    else:
        words, letters = (count_errors(references, hypotheses, unit) for unit in ("word", "character"))
        row["words"] = int(words.lengths.sum())
        measures = {"wer": _rate(words), "cer": _rate(letters)}
    measures |= _loss(records)
    row |= {name: measure.row(_DIGITS.get(name, 2)) for name, measure in measures.items()}
    file = folder.parent / checkpoint.MODEL_FILE
    saved = checkpoint.load(file, "config", "info") if file.exists() else {}
    config = config_from_dict(saved["config"], str(file)) if saved else None
    row |= _training(config, saved.get("info", {}))
    row["decoding"] = {key: value for key, value in decoding.items() if key != "skipped"}
    settings = asdict(DecodeConfig()) | decoding.get("settings", {})  # which older files may not tell
    # kind and beam are in the folder's name
    search = tuple(settings[key] for key in ("max_symbols", "blank_penalty", "token_reward", "length_norm"))
    scored = Scored(row, [(record["id"], record["ref"], search) for record in records], measures, config)
    return _with_cost(scored, checkpoint.bundle(saved, file), folder, records) if scored.recurrent else scored


def with_means(runs: Sequence[Scored]) -> list[Scored]:
    """`runs`, and for each experiment and search one more for each test set with several subsets here: their mean.

    A run that lacks one of the subsets here has none: a mean over fewer would pass for the score of the set.

    Its row tells the `subsets`; its `split` is the test set, and `run` the folder that a split of that name would have.
    """
    groups: dict[tuple[str, str], list[Scored]] = {}
    subsets: dict[str, set[str]] = {}
    for run in runs:
        split, name = run.row["split"], run.row["run"]
        if set_of(split) != split:
            key = run.row["experiment"], name.replace(f"_{split}_", f"_{set_of(split)}_", 1)
            groups.setdefault(key, []).append(run)
            subsets.setdefault(set_of(split), set()).add(split)
    whole = {
        key: parts for key, parts in groups.items() if len(parts) == len(subsets[set_of(parts[0].row["split"])]) > 1
    }
    return [*runs, *(_mean(name, parts) for (_, name), parts in whole.items())]


def _mean(name: str, parts: list[Scored]) -> Scored:
    keys = [key for key in parts[0].measures if all(key in run.measures for run in parts)]
    measures = {key: mean_over_subsets([run.measures[key] for run in parts]) for key in keys}
    counts = [key for key in ("utterances", "missing", "words") if key in parts[0].row]
    sums = {key: sum(run.row[key] for run in parts) for key in counts}
    kept = {key: value for key, value in parts[0].row.items() if key not in ("amnet", "decoding", *parts[0].measures)}
    splits = [run.row["split"] for run in parts]
    row = kept | sums | {"run": name, "split": set_of(splits[0]), "subsets": splits, "decoding": {}}
    row |= {key: measure.row(_DIGITS.get(key, 2)) for key, measure in measures.items()}
    tested = [(split, *each) for split, run in zip(splits, parts, strict=True) for each in run.tested]
    return Scored(row, tested, measures, parts[0].config)


def compare(runs: Sequence[Scored], baseline: str | None = None) -> list[dict[str, Any]]:
    """The rows of `runs`, each with its relative gap to the run of its baseline with the same folder name.

    The baseline is the experiment `baseline` for Transformers and `rnnt` for recurrent encoders, the one of them that
    exists for both, or what is given, for all. Adds `baseline` (its name) and what `gap` tells: `relative` (in percent
    of its WER or BLEU; positive is worse), `p_value` and more, None where there is no such run or it was not `tested`
    alike. Rows with an `amnet` are told the `saving` of FLOPs against `rnnt`. Sets are in the order of `runs`, each
    before its subsets; of each the baselines come first, recurrent encoders last, in the paper's order.

    Raises UserError when no experiment has the name that is given.
    """
    names = [run.row["experiment"] for run in runs]
    if baseline is not None and baseline not in names:
        allowed = ", ".join(dict.fromkeys(names))
        advice = closest(baseline, names)
        raise UserError(f"--baseline {baseline} is no decoded experiment; there are: {allowed}.{advice}")
    by_name = {(run.row["experiment"], run.row["run"]): run for run in runs}
    sets = list(dict.fromkeys(set_of(run.row["split"]) for run in runs))

    def place(run: Scored) -> tuple:
        split = run.row["split"]
        return sets.index(set_of(split)), split, *_place(run, baseline or _default_baseline(run, names))

    rows = []
    for run in sorted(runs, key=place):
        name = baseline or _default_baseline(run, names)
        rows.append(run.row | {"baseline": name} | gap(run, by_name.get((name, run.row["run"]))))
    return with_savings(rows, RECURRENT_BASELINE)


def _default_baseline(run: Scored, names: Sequence[str]) -> str:
    own, other = TRANSFORMER_BASELINE, RECURRENT_BASELINE
    if run.recurrent:
        own, other = other, own
    return other if own not in names and other in names else own


def _place(run: Scored, baseline: str) -> tuple:
    """Sorts a table: what was trained from scratch before what starts from that; see `compare`."""
    order = table_order(run.config) if run.recurrent else ()
    return run.recurrent, run.row["experiment"] != baseline, order, run.row["warm_start"]


def _with_cost(scored: Scored, bundle: checkpoint.Bundle, folder: Path, records: list[dict[str, Any]]) -> Scored:
    """`scored` with the decisions of its records and with `amnet` in its row, where decoding told any."""
    model, amnet = bundle.model, scored.config.amnet
    device = Device(flops_per_frame(model), amnet.cost.mu, 1 / (model.encoder.stride * FRAME_SHIFT_S))
    decisions = {
        record["id"]: read_decisions(record["branches"], len(device.per_branch), f"{folder}/hyp.jsonl")
        for record in records
        if "branches" in record
    }
    costs = summary(device, list(decisions.values()), amnet.compression)
    row = scored.row | ({"amnet": costs} if costs else {})
    return replace(scored, row=row, decisions=decisions, device=device)


def gap(run: Scored, baseline: Scored | None) -> dict[str, float | None]:
    """How much worse `run` is than `baseline`, see `Measure.gap`; None where they were not `tested` alike.

    By the measure by which runs are compared, and, with `loss_` before the names, by the transducer loss.
    """
    name = next(iter(run.measures))
    same = baseline is not None and baseline is not run and baseline.tested == run.tested and name in baseline.measures
    found = run.measures[name].gap(baseline.measures[name]) if same else dict.fromkeys(["relative", "p_value"])
    losses = (run.measures.get("loss"), baseline.measures.get("loss")) if same else (None, None)
    if None in losses or any((a[:, 1] != b[:, 1]).any() for a, b in zip(*(x.parts for x in losses), strict=True)):
        return found | dict.fromkeys(["loss_relative", "loss_p_value"])
    return found | {f"loss_{name}": value for name, value in losses[0].gap(losses[1]).items()}


def read_records(path: Path) -> list[dict[str, Any]]:
    """Lines of hyp.jsonl, each with id, ref and hyp."""
    records = read_json_lines(path, _AGAIN)
    for number, record in enumerate(records, start=1):
        texts = [record.get(key) for key in ("id", "ref", "hyp")] if isinstance(record, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, line {number} is not a record with id, ref and hyp: {_AGAIN}.")
    return records


def read_decoding(path: Path, utterances: int) -> dict[str, Any]:
    """decode.json, which belongs to a hyp.jsonl of so many `utterances` and lists those that decoding skipped."""
    decoding = read_json(path, _AGAIN)
    skipped = decoding.get("skipped")
    records = skipped if isinstance(skipped, list) else [None]
    if not all(isinstance(record, dict) and {"id", "ref"} <= set(record) for record in records):
        raise UserError(f"{path} does not list the utterances that decoding skipped: {_AGAIN}.")
    if (decoded := decoding.get("utterances")) != utterances:
        file = path.with_name("hyp.jsonl")
        raise UserError(f"{file} holds {utterances} utterances, but {decoded} were decoded: {_AGAIN}.")
    return decoding


def _rate(counts: ErrorCounts) -> Measure:
    kinds = {name: int(getattr(counts, name).sum()) for name in ("insertions", "deletions", "substitutions")}
    return rate(counts.errors, counts.lengths, **kinds)


def _loss(records: list[dict[str, Any]]) -> dict[str, Measure]:
    """Nats per token, by the key `loss`, over the utterances whose transducer loss is told; empty where none is."""
    told = [record if record.get("ref_nats") is not None else {} for record in records]
    nats, tokens = (np.array([record.get(key, 0.0) for record in told]) for key in ("ref_nats", "ref_tokens"))
    return {"loss": rate(nats, tokens, percent=False, tokens=int(tokens.sum()))} if any(told) else {}


def _training(config: Config | None, info: dict[str, Any]) -> dict[str, Any]:
    """What `model.pt` tells: description, warm start, parameters, training record; empty parts if there is none."""
    keys = ("seed", "commit", "command", "hardware", "wall_s", "cpu_s", "steps", "data", "versions", "fingerprint")
    return {
        "description": config.description if config else "",
        "warm_start": (config.warm_start if config else None) or "",
        "parameters": info.get("parameters", {}),
        "training": {key: info[key] for key in keys if key in info},
    }
