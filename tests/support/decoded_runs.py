"""Made-up texts, and decoding runs as stage 7 leaves them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

from residualformer.files import write_json, write_text
from residualformer.metrics.bootstrap import Score
from residualformer.report.results import NO_COMPARISON, Decoding, Results, Row, Training

PARAMETERS = {"transformer": 1_500_000, "residual": 200_000, "total": 2_000_000, "training_only": 10}
SENTENCES = ["打开厨房的灯", "现在几点了", "明天早上六点叫我", "关掉客厅的电视", "去图书馆怎么走", "给 A B C 打电话"]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(["one", "two", "three", "ten"], k=draw.randint(0, 9))) for _ in range(count)]


def translations(count: int, seed: int, errors: float) -> tuple[list[str], list[str]]:
    """References, and hypotheses of which a share of the characters is wrong."""
    draw = random.Random(seed)
    references = [draw.choice(SENTENCES) + draw.choice(SENTENCES) for _ in range(count)]
    return references, ["".join("错" if draw.random() < errors else c for c in text) for text in references]


def write_run(egs: Path, name: str, hypotheses: list[str], skipped: int = 0, folder="decode_test_beam16", **decoding):
    """A decoding run of sentences(n, seed=1) with these hypotheses; the last `skipped` could not be read."""
    references = [text or "ten" for text in sentences(len(hypotheses) + skipped, 1)]
    run = egs / "exp" / name / folder
    lines = [
        json.dumps({"id": f"u{i}", "ref": references[i], "hyp": hypothesis}) for i, hypothesis in enumerate(hypotheses)
    ]
    rest = range(len(hypotheses), len(references))
    lost = [{"id": f"u{i}", "ref": references[i], "reason": "gone"} for i in rest]
    write_text(run / "hyp.jsonl", "\n".join(lines) + "\n")
    told = {"target": "text", "search": "beam16", "utterances": len(lines), "skipped": lost, "rtf": 0.021}
    write_json(run / "decode.json", told | decoding)
    return run


def write_translation(egs: Path, name: str, split: str, count: int, errors: float, seed: int = 1) -> tuple[list, list]:
    """A decoding run of `split`, of which a share of the characters is wrong; gives references and hypotheses."""
    references = translations(count, len(split), 0)[0]
    draw = random.Random(seed)
    hypotheses = ["".join("错" if draw.random() < errors else c for c in text) for text in references]
    lines = [{"id": f"u{i}", "ref": ref, "hyp": hyp} for i, (ref, hyp) in enumerate(zip(references, hypotheses))]
    run = egs / "exp" / name / f"decode_{split}_beam16"
    write_text(run / "hyp.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_json(run / "decode.json", {"target": "translation", "search": "beam16", "utterances": count, "skipped": []})
    return references, hypotheses


def results(**changes) -> Results:
    """Results of one row, in which `changes` are other than here."""
    wer = Score(value=9.5, low=8.0, high=11.25, insertions=1, deletions=2, substitutions=30)
    row = Row(
        experiment="a|b", run="decode_test_beam16", split="test", search="beam16", metric="WER",
        utterances=10, missing=0, words=347, scores={"wer": wer, "cer": replace(wer, value=3.0)},
        comparison=replace(NO_COMPARISON, relative=-4.25, p_value=0.031), description="A model.",
        parameters=PARAMETERS, decoding=Decoding(rtf=0.0213, settings={"beam": 16}),
        training=Training(seed=1, command="train it", wall_s=90.0),
    )  # fmt: skip
    row = replace(row, **changes)
    return Results(corpus="mini", split="test", baseline="base", command="local/score.sh", commit="c", rows=[row])
