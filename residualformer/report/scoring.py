"""Score decoding runs: from hyp.jsonl, decode.json and the model file to a row of results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval

from residualformer.config.schema import Config, DecodeConfig
from residualformer.constants import FRAME_SHIFT_S, MODEL_FILE
from residualformer.data.splits import set_of
from residualformer.errors import UserError
from residualformer.files import read_json, read_json_lines
from residualformer.metrics.bootstrap import Measure, Score, mean_over_subsets, rate
from residualformer.metrics.texts import text_measures
from residualformer.model import checkpoint
from residualformer.model.cost import flops_per_frame, planned_flops
from residualformer.model.depth import config_at
from residualformer.records import read_dataclass
from residualformer.report.amnet import Device, measure_cost, read_decisions
from residualformer.report.plain import from_plain
from residualformer.report.results import Decoding, Row, Training
from residualformer.words.words import Word

_DIGITS = {"loss": 4}  # of a score, where these are not 2
_AGAIN = "run stage 7 again, with --overwrite"
_FOLDER = re.compile(r"decode_(?P<split>.+)_(?P<search>(?:greedy|beam).*)")  # a split's name may have an underscore

Record = dict[str, Any]  # a line of hyp.jsonl


@dataclass(frozen=True)
class _Line:
    """The keys of a line of hyp.jsonl that scores depend on."""

    id: str
    ref: str
    hyp: str
    ref_nats: Annotated[float, Interval(ge=0, le=1e9)] | None = None
    ref_tokens: Annotated[int, Interval(ge=0, le=10**9)] = 0
    branches: str = ""  # a digit for each frame or chunk


@dataclass(frozen=True)
class _Skipped:
    """An utterance that decoding could not read, in decode.json."""

    id: str
    ref: str


@dataclass(frozen=True)
class _Spoken:
    """The words of a line of hyp.jsonl; a translation has none."""

    words: list[Word] = field(default_factory=list)


@dataclass(frozen=True)
class Scored:
    """A scored decoding run: the row that is written, and what the comparison with other runs needs."""

    row: Row
    tested: list[tuple[Any, ...]]  # of each utterance: id, reference, and settings of the search that change the result
    measures: dict[str, Measure]  # by their names in `row.scores`; runs are compared by the first
    config: Config | None = None  # None where there is no model
    decisions: dict[str, np.ndarray] = field(default_factory=dict)  # branches (T,) by utterance, where there are some
    device: Device | None = None  # the simulated device of these

    @property
    def recurrent(self) -> bool:
        """True for a recurrent encoder."""
        return self.config is not None and self.config.encoder.kind != "transformer"

    @property
    def branched(self) -> bool:
        """True where frames or chunks had a choice of branches and decoding recorded it."""
        return bool(self.decisions) and self.device is not None and len(self.device.per_branch) > 1


def find_runs(exp: Path, sets: Sequence[str]) -> list[Path]:
    """Return the folders `<experiment>/decode_<split>_*` below `exp` of all splits of the test sets `sets`.

    A set `name` is the split `name`, or the subsets `name@...`.

    Raises:
        UserError: one of the sets was not decoded.
    """
    found = {path.parent: split_of(path.parent) for path in sorted(exp.glob("*/decode_*/hyp.jsonl"))}
    runs: list[Path] = []
    for name in sets:
        of_set = [folder for folder, split in found.items() if split and name in (split, set_of(split))]
        if not of_set:
            splits = ", ".join(sorted({split for split in found.values() if split}))
            advice = f"decoded so far: {splits}" if splits else "run stage 7 first"
            raise UserError(f"{exp} holds no experiment that was decoded on '{name}' ({advice}).")
        runs += of_set
    return list(dict.fromkeys(runs))


def split_of(folder: Path) -> str:
    """Return the split of a folder `decode_<split>_<search>`; empty for any other folder."""
    match = _FOLDER.fullmatch(folder.name)
    return match["split"] if match else ""


def score_run(folder: Path) -> Scored:
    """Score one `hyp.jsonl`; an utterance that decoding skipped counts as an empty hypothesis.

    Raises:
        UserError: a line is not a record, decode.json is damaged, or there is no utterance.
    """
    records = read_records(folder / "hyp.jsonl")
    decoding, skipped = read_decoding(folder / "decode.json", len(records))
    records += [{"id": item["id"], "ref": item["ref"], "hyp": ""} for item in skipped]
    if not records:
        raise UserError(f"{folder}/hyp.jsonl holds no utterance: run stage 7 again.")
    records.sort(key=lambda record: record["id"])
    file = folder.parent / MODEL_FILE
    saved = checkpoint.read_model(file) if file.exists() else None
    config, info = (saved.config, saved.info) if saved else (None, {})
    translated = decoding.target == "translation"
    measures, words = _measures(records, translated)
    row = Row(
        experiment=folder.parent.name,
        run=folder.name,
        split=split_of(folder),
        search=decoding.search or "",
        metric="BLEU" if translated else "WER",
        utterances=len(records),
        missing=len(skipped),
        words=words,
        scores=_rounded(measures),
        description=config.description if config else "",
        warm_start=(config.warm_start if config else None) or "",
        parameters=info.get("parameters", {}),
        training=Training(**{each.name: info[each.name] for each in fields(Training) if each.name in info}),
        decoding=decoding,
    )
    settings = asdict(DecodeConfig()) | (decoding.settings or {})  # older files may lack some
    # Kind and beam are in the folder's name.
    search = tuple(
        settings[key] for key in ("max_symbols", "blank_penalty", "token_reward", "length_norm", "restart_s")
    )
    scored = Scored(row, [(record["id"], record["ref"], search) for record in records], measures, config)
    if saved is None:
        return scored
    if scored.recurrent or (saved.config.has_arbitrator and decoding.loops is None):
        return _with_cost(scored, saved.build(), folder, records)
    return replace(scored, row=replace(row, mflop=_mflop(saved, decoding)))


def with_means(runs: Sequence[Scored]) -> list[Scored]:
    """Return `runs` and, of each experiment and search, the mean over the subsets of each test set.

    An experiment that lacks one of the subsets has no mean, since a mean over fewer would be taken for the score of the
    set. The `split` of a mean is the test set, its `run` the folder that a split of that name would have.
    """
    groups: dict[tuple[str, str], list[Scored]] = {}
    subsets: dict[str, set[str]] = {}
    for run in runs:
        split = run.row.split
        if set_of(split) != split:
            name = run.row.run.replace(f"_{split}_", f"_{set_of(split)}_", 1)
            groups.setdefault((run.row.experiment, name), []).append(run)
            subsets.setdefault(set_of(split), set()).add(split)
    means = [
        _mean(name, parts)
        for (_, name), parts in groups.items()
        if len(parts) == len(subsets[set_of(parts[0].row.split)]) > 1
    ]
    return [*runs, *means]


def _mean(name: str, parts: list[Scored]) -> Scored:
    first, rows = parts[0], [run.row for run in parts]
    keys = [key for key in first.measures if all(key in run.measures for run in parts)]
    measures = {key: mean_over_subsets([run.measures[key] for run in parts]) for key in keys}
    row = replace(
        first.row,
        run=name,
        split=set_of(first.row.split),
        subsets=[row.split for row in rows],
        utterances=sum(row.utterances for row in rows),
        missing=sum(row.missing for row in rows),
        words=None if first.row.words is None else sum(row.words or 0 for row in rows),
        scores=_rounded(measures),
        decoding=Decoding(branches=first.row.decoding.branches),
        amnet=None,
    )
    tested = [(run.row.split, *each) for run in parts for each in run.tested]
    return Scored(row, tested, measures, first.config)


def _measures(records: list[Record], translated: bool) -> tuple[dict[str, Measure], int | None]:
    """Return BLEU and chrF, or the two error rates, and the loss where it is known; and the words of transcripts."""
    references, hypotheses = ([record[key] for record in records] for key in ("ref", "hyp"))
    measures = text_measures(references, hypotheses, translated)
    words = None if translated else int(measures["wer"].parts[0][:, 1].sum())
    return measures | _loss(records), words


def _loss(records: list[Record]) -> dict[str, Measure]:
    """Return nats per token, as `loss`, over the utterances with a transducer loss; empty where there is none."""
    known = [record if record.get("ref_nats") is not None else {} for record in records]
    if not any(known):
        return {}
    nats, tokens = (np.array([record.get(key, 0.0) for record in known]) for key in ("ref_nats", "ref_tokens"))
    return {"loss": rate(nats, tokens, percent=False, details={"tokens": int(tokens.sum())})}


def _rounded(measures: dict[str, Measure]) -> dict[str, Score]:
    return {name: measure.rounded(_DIGITS.get(name, 2)) for name, measure in measures.items()}


def _mflop(saved: checkpoint.SavedModel, decoding: Decoding) -> float:
    """Return the MFLOPs of an encoder frame of a Transformer, at the depth or depths of a decoding."""
    config = saved.config if decoding.loops is None else config_at(saved.config, decoding.loops)
    flops = planned_flops(config, saved.tokenizer.vocab_size)
    encoder = (decoding.branches or {}).get("mflop", flops["branches"][0] / 1e6)
    return round(float(encoder + flops["output"] / 1e6), 4)


def _with_cost(scored: Scored, bundle: checkpoint.Bundle, folder: Path, records: list[Record]) -> Scored:
    """Add the branch of each frame or chunk, where decoding recorded it, and what that costs."""
    model, amnet = bundle.model, bundle.config.amnet
    flops = flops_per_frame(model)
    if scored.row.control:
        flops["arbitrator"] = 0.0  # it was not asked
    encoder = model.encoder
    device = Device(flops, amnet.cost.mu, 1 / (encoder.stride * FRAME_SHIFT_S), encoder.frames_per_step)
    decisions = {
        record["id"]: read_decisions(record["branches"], len(device.per_branch), f"{folder}/hyp.jsonl")
        for record in records
        if "branches" in record
    }
    cost = measure_cost(device, list(decisions.values()), amnet.compression)
    return replace(scored, row=replace(scored.row, amnet=cost), decisions=decisions, device=device)


def read_records(path: Path) -> list[Record]:
    """Read hyp.jsonl, whose lines have an id, ref and hyp."""
    records = read_json_lines(path, _AGAIN)
    for number, record in enumerate(records, start=1):
        try:
            read_dataclass(_Line, record)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is not a record with id, ref and hyp ({error}): {_AGAIN}."
            ) from error
    return records


def read_words(path: Path, utterance: str) -> list[Word]:
    """Return the words of an utterance from a hyp.jsonl; none where it tells no words, as in older decodings."""
    record = next((each for each in read_records(path) if each["id"] == utterance), {})
    try:
        return read_dataclass(_Spoken, record).words
    except ValueError as error:
        raise UserError(f"{path} does not tell the words of {utterance} ({error}): {_AGAIN}.") from error


def read_decoding(path: Path, utterances: int) -> tuple[Decoding, list[Record]]:
    """Read the decode.json that belongs to a hyp.jsonl of `utterances`, and the utterances that decoding skipped."""
    values = read_json(path, _AGAIN)
    found = values.get("skipped")
    skipped: list[Any] = found if isinstance(found, list) else [found]
    try:
        for item in skipped:
            read_dataclass(_Skipped, item)
    except ValueError as error:
        raise UserError(f"{path} does not list the utterances that decoding skipped ({error}): {_AGAIN}.") from error
    if (decoded := values.get("utterances")) != utterances:
        file = path.with_name("hyp.jsonl")
        raise UserError(f"{file} holds {utterances} utterances, but {decoded} were decoded: {_AGAIN}.")
    decoding = from_plain(Decoding, values, str(path), _AGAIN)
    if not isinstance(mflop := (decoding.branches or {}).get("mflop", 0.0), float):
        raise UserError(f"{path} has branches.mflop {mflop!r}; it must be a number: {_AGAIN}.")
    return decoding, skipped
