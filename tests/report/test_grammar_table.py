"""The table of what a grammar does, on records whose counts are known."""

from __future__ import annotations

import json
import sys

import pytest
from support.grammars import LIGHTS, write_grammar

from residualformer.context.grammar.network import build
from residualformer.context.grammar.source import read_source
from residualformer.errors import UserError
from residualformer.report.grammar import read_judged, render_grammar, score_grammar
from steps import score_grammar as step

RIGHT = {"ref": "turn on the lamp", "hyp": "turn on the lamp", "match": True}
RECORDS: list[dict] = [
    {**RIGHT, "slots": {"state": "on", "device": "lamp"}},
    {"ref": "turn off the lamp", "hyp": "turn on the lamp", "match": True, "slots": {"state": "on", "device": "lamp"}},
    {"ref": "set it to two", "hyp": "", "match": False, "slots": {}, "nearest": "set it to two"},
    {"ref": "please turn on the lamp", "hyp": "turn on the lamp", "match": True}
    | {"slots": {"state": "on", "device": "lamp"}},
    {"ref": "good morning", "hyp": "", "match": False, "slots": {}, "nearest": "dim lamp", "duration": 900.0},
    {"ref": "turn on the piano", **{key: RIGHT[key] for key in ("hyp", "match")}, "slots": {}, "duration": 900.0},
]
RECORDS = [{"id": f"u{number}", **each} for number, each in enumerate(RECORDS)]
FREE = {"u0": "turn on the lamp", "u1": "turn of the lamp", "u2": "set it to two", "u3": "turn on the lamp", "u4": "a"}


def test_what_is_counted(tmp_path):
    network = build(read_source(write_grammar(tmp_path, LIGHTS)))
    row = score_grammar("shared", "test", 0.5, network, read_judged(RECORDS, "hyp.jsonl"), FREE)
    assert (row.inside, row.outside) == (4, 2)
    values = [score.value for score in (row.right, row.slots_right, row.refused, row.nearest_right, row.accepted)]
    assert values == [25.0, 50.0, 25.0, 50.0, 50.0]
    assert row.accepted_per_hour.value == 2.0 and row.hours == 0.5
    assert (row.accepted_per_hour.low, row.accepted_per_hour.high) == (0.05, 11.14)  # one in half an hour
    assert row.free_right.value == 50.0 and row.free_slots_right.value == 75.0
    assert row.slots == {"state": (3, 2), "device": (3, 3), "level": (1, 0)}
    text = "\n".join(render_grammar("lights", "a command", [row]))
    assert "| shared | test | 4 | 25.0 [" in text and "| shared | test | state | 3 | 66.7 |" in text
    assert "shared 0.500" in text


def test_the_step_reads_what_stage_7_wrote(tmp_path, monkeypatch, capsys):
    grammar = write_grammar(tmp_path, LIGHTS)
    for split, records in {"test": RECORDS[:4], "other@near": RECORDS[4:], "dev": RECORDS}.items():
        folder = tmp_path / "exp" / "shared" / "grammar" / split
        folder.mkdir(parents=True)
        (folder / "hyp.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
        (folder / "decode.json").write_text(
            json.dumps({"search": "beam", "context": {"grammar": {"check": "", "reject": 0.5}}})
        )
    for search, texts in {"beam": FREE, "greedy": {}}.items():
        folder = tmp_path / "exp" / "shared" / f"decode_test_{search}"
        folder.mkdir(parents=True)
        (folder / "hyp.jsonl").write_text("".join(json.dumps({"id": n, "hyp": t}) + "\n" for n, t in texts.items()))
        (folder / "decode.json").write_text(json.dumps({"search": search}))
    words = ["score_grammar.py", str(tmp_path), "--grammar", str(grammar), "--split", "test other"]
    monkeypatch.setattr(sys, "argv", words)
    step.main()
    assert "score: 2 rows" in capsys.readouterr().out
    written = json.loads((tmp_path / "exp" / "grammar.json").read_text())
    assert [(row["split"], row["inside"], row["outside"]) for row in written["rows"]] == [
        ("other@near", 0, 2),
        ("test", 4, 0),
    ]
    assert [row["free_right"] and row["free_right"]["value"] for row in written["rows"]] == [None, 50.0]
    monkeypatch.setattr(sys, "argv", [*words[:-1], "train"])
    with pytest.raises(UserError, match="run stage 7 first"):
        step.main()


def test_a_line_that_no_grammar_judged_is_told():
    with pytest.raises(UserError, match="hyp.jsonl, line 2 was not decoded with a grammar .match is missing"):
        read_judged([RECORDS[0], {"id": "u", "ref": "a", "hyp": "a"}], "hyp.jsonl")
