"""What `phrases.py` found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from residualformer.metrics.bootstrap import Score
from residualformer.report.format import markdown_table, show_millions, show_number, show_score

Run = Mapping[str, Any]


def render(runs: Sequence[Run]) -> list[str]:
    """Return the lines on all runs."""
    return [
        "Each is trained by `egs/phrases/run.sh` on synthetic speech alone; no test voice is heard in training. "
        "In brackets 95% intervals: bootstrap over utterances, exact ones for counts in an hour. *Slots* are right "
        "where all of the sentence are.",
        "",
        "## Sentences of the grammar",
        "",
        *_accuracy(runs),
        "",
        "## Other speech",
        "",
        *_false_alarms(runs),
        "",
        "## Cost",
        "",
        *_cost(runs),
        "",
        "## Made by",
        "",
        *(line for run in runs for line in _made(run)),
    ]


def _name(run: Run) -> list[str]:
    return [run["domain"], run["experiment"]]


def _accuracy(runs: Sequence[Run]) -> list[str]:
    header = ["domain", "experiment", "set", "sentences", "right without grammar %", "slots so %"]
    header += ["right with it %", "slots so %", "refused %"]
    keys = ("free_right", "free_slots_right", "right", "slots_right", "refused")
    return markdown_table(
        header,
        [
            [*_name(run), each["split"], str(each["inside"]), *(_score(each[key], 1) for key in keys)]
            for run in runs
            for each in run["sets"]
            if each["inside"]
        ],
    )


def _false_alarms(runs: Sequence[Run]) -> list[str]:
    header = ["domain", "experiment", "set", "utterances", "hours", "accepted %", "accepted in an hour of it"]
    return markdown_table(
        header,
        [
            [*_name(run), each["split"], str(each["outside"]), f"{each['hours']:.2f}"]
            + [_score(each["accepted"], 2), _score(each["accepted_per_hour"], 1)]
            for run in runs
            for each in run["sets"]
            if each["outside"]
        ],
    )


def _cost(runs: Sequence[Run]) -> list[str]:
    header = ["domain", "experiment", "sentences", "words", "parameters, millions", "int8 export, MB", "grammar, kB"]
    header += ["real-time factor, one thread", "updates", "training, min"]
    return markdown_table(
        header,
        [
            [*_name(run), "no end" if run["sentences"] is None else f"{run['sentences']:,}", str(run["words"])]
            + [show_millions(run["parameters"]), f"{run['int8_bytes'] / 1e6:.2f}", f"{run['grammar_bytes'] / 1e3:.0f}"]
            + [f"{run['rtf']:.3f}", show_number(run["training"].get("steps"), "{}")]
            + [show_number(run["training"].get("wall_s"), "{:.1f}", 60)]
            for run in runs
        ],
    )


def _made(run: Run) -> list[str]:
    training = run["training"]
    how = f"seed {training.get('seed')}, commit {training.get('commit')}, {training.get('hardware')}"
    return [f"- {' '.join(_name(run))}: `{run['speech']}`; `{training.get('command')}`; {how}."]


def _score(values: Mapping[str, Any] | None, digits: int) -> str:
    return show_score(Score(**values) if values else None, digits)
