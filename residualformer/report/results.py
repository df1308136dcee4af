"""The results of a recipe: a row for each decoding run (results.json)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from residualformer.files import read_json
from residualformer.metrics.bootstrap import NO_GAP, Gap, Score
from residualformer.report.amnet import AmnetCost
from residualformer.report.plain import from_plain, to_plain

SCORES = ("wer", "cer", "bleu", "chrf", "loss")


@dataclass(frozen=True, kw_only=True)
class Comparison(Gap):
    """The paired comparison of two runs: the gap in WER or BLEU, and that in the transducer loss."""

    loss_relative: float | None
    loss_relative_low: float | None = None
    loss_relative_high: float | None = None
    loss_p_value: float | None

    @classmethod
    def of(cls, gap: Gap, loss: Gap) -> Comparison:
        """Join the gap in WER or BLEU and the gap in the loss."""
        return cls(**asdict(gap), **{f"loss_{name}": value for name, value in asdict(loss).items()})


NO_COMPARISON = Comparison.of(NO_GAP, NO_GAP)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The record of a training, from the model file; `wall_s` and `cpu_s` are seconds."""

    seed: int | None = None
    commit: str | None = None
    command: str | None = None
    hardware: str | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    steps: int | None = None
    data: str | None = None
    versions: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The record of a decoding run, from `decode.json`; `rtf` is the real-time factor of one of `jobs` processes."""

    cuts: str | None = None
    target: str | None = None
    search: str | None = None
    streaming: bool | None = None
    device: str | None = None
    settings: dict[str, Any] | None = None
    context: dict[str, Any] | None = None  # what scorers added to the model, such as hotwords
    branches: dict[str, Any] | None = None  # what chose branches or depths in an arbitrator's place
    loops: int | None = None  # layers of each group that were run, if not all
    utterances: int | None = None
    audio_s: float | None = None
    jobs: int | None = None
    wall_s: float | None = None
    rtf: float | None = None
    command: str | None = None
    commit: str | None = None
    hardware: str | None = None
    versions: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one decoding run, or the mean over those of a test set's subsets."""

    experiment: str
    run: str  # the folder `decode_<split>_<search>`
    split: str
    search: str
    metric: str  # WER or BLEU, by which runs are compared
    utterances: int
    missing: int  # utterances that were not decoded; each counts as an empty hypothesis
    words: int | None = None  # in the references, if these are transcripts
    subsets: list[str] | None = None  # of a mean: the splits
    scores: dict[str, Score]  # by the names in `SCORES`; `loss` is in nats per token
    description: str = ""
    warm_start: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  # counts, by part of the model
    training: Training = Training()
    decoding: Decoding = Decoding()
    mflop: float | None = None  # millions of FLOPs per frame of an encoder without a choice of branches or depths
    amnet: AmnetCost | None = None  # of recurrent encoders, and of Transformers with an arbitrator
    baseline: str = ""  # the experiment that this one is compared with
    comparison: Comparison = NO_COMPARISON
    control_of: str | None = None  # the AmNet, or model with depths, that this is a control of
    beside_it: Comparison | None = None  # this row and that of `control_of`
    scored: str | None = None  # the command and commit that scored the run, where these are not the table's

    @property
    def name(self) -> str:
        """The experiment, with the control of its arbitrator where there is one: `mf_avg`, `mf_avg:random`."""
        return f"{self.experiment}:{self.control}" if self.control else self.experiment

    @property
    def search_run(self) -> str:
        """The folder that the same decoding without a control of the arbitrator has."""
        return self.run.rpartition(f"_{self.control}")[0] if self.control else self.run

    @property
    def search_name(self) -> str:
        """The search and its mode, from the run's folder, such as `beam16_streaming`."""
        return self.run.removeprefix(f"decode_{self.split}_")

    @property
    def control(self) -> str:
        """What chose branches or depths in an arbitrator's place, such as `random`; empty if nothing did."""
        return str((self.decoding.branches or {}).get("by", ""))

    @property
    def of_transformer(self) -> bool:
        """Whether the encoder is a Transformer."""
        return "transformer" in self.parameters

    @property
    def encoder_parameters(self) -> int | None:
        """The parameters of a Transformer's layers or of a recurrent encoder; None without a model."""
        return self.parameters.get("transformer", self.parameters.get("encoder"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with those of scores and comparison on the top level."""
        values: dict[str, Any] = {}
        for name, value in to_plain(self).items():
            values |= value if name in ("scores", "comparison") else {name: value}
        return values


@dataclass(frozen=True, kw_only=True)
class Results:
    """All rows of a recipe's test sets."""

    corpus: str  # the recipe's name
    split: str  # the test sets, separated by ", "
    baseline: str  # the experiments that rows are compared with, separated by ", "
    command: str  # and commit: what scored the runs
    commit: str
    rows: list[Row]

    @property
    def sets(self) -> list[str]:
        return self.split.split(", ")

    @property
    def experiments(self) -> list[str]:
        """Each once, in the order of the rows."""
        return list(dict.fromkeys(row.experiment for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to results.json."""
        return to_plain(replace(self, rows=[])) | {"rows": [row.to_dict() for row in self.rows]}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read results.json; UserError where it is missing or is not one."""
        advice = "run stage 8 again"
        values = read_json(path, advice)
        rows = values.get("rows")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict):  # undo what `Row.to_dict` flattens
                row |= {"scores": {name: row[name] for name in SCORES if name in row}, "comparison": dict(row)}
        return from_plain(cls, values, str(path), advice)
