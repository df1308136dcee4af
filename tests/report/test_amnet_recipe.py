"""A recipe of AmNets from its decoding runs to the table, and what decoding records of the branches."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, Features, MonoCut, NumpyFilesWriter, Recording, SupervisionSegment
from support.transducers import save_random_run

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.schema import (
    Config,
    DecodeConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    LossConfig,
    PredictorConfig,
    TokenConfig,
)
from residualformer.data.tokenizer import train_tokenizer
from residualformer.decode.corpus import decode_cuts
from residualformer.errors import UserError
from residualformer.export.card import scores_of
from residualformer.files import write_json, write_text
from residualformer.model.checkpoint import load_model, save_model
from residualformer.model.cost import flops_per_frame, parameter_table
from residualformer.nn.transducer import build_model
from residualformer.report import plots, timeline
from residualformer.report.amnet import table_order
from residualformer.report.compare import compare
from residualformer.report.paper_table import PaperTable
from residualformer.report.results import Results
from residualformer.report.results_text import cells, render_markdown
from residualformer.report.scoring import find_runs, score_run

PNG = b"\x89PNG"


def amnet(method="none", *compression, cost="none", match=None) -> Config:
    arbitrator = ArbitratorConfig(hidden_dim=3) if len(compression) > 1 else ArbitratorConfig()
    return Config(
        description=f"{method} {compression} {cost}",
        features=FeatureConfig(num_mel_bins=20),
        tokens=TokenConfig(kind="char"),
        encoder=EncoderConfig(kind="lstm", num_layers=1, dim=6),
        predictor=PredictorConfig(embedding_dim=4, hidden_dim=5, num_layers=1),
        joiner=JoinerConfig(kind="additive"),
        loss=LossConfig(kind="simple"),
        amnet=AmNetConfig(
            method, list(compression), arbitrator=arbitrator,
            cost=CostConfig(kind=cost, weight=float(cost != "none"), mu=20e3, match=match),
        ),
    )  # fmt: skip


TABLE_1 = {
    "rnnt": amnet(),
    "sparse": amnet("sparse", 0.15),
    "sparse_avg": amnet("sparse", 0.15, 0.8, cost="avg"),
    "sparse_biased": amnet("sparse", 0.15, 0.8, cost="avg", match="sparse_amr"),
    "sparse_amr": amnet("sparse", 0.15, 0.8, cost="amr"),
    "mf": amnet("factorised", 0.35),
    "mf_avg": amnet("factorised", 0.35, 0.6, cost="avg"),
    "mf_biased": amnet("factorised", 0.35, 0.6, cost="avg", match="mf_amr"),
    "mf_amr": amnet("factorised", 0.35, 0.6, cost="amr"),
}


def test_the_order_of_the_papers_table():
    assert sorted(TABLE_1, key=lambda name: table_order(TABLE_1[name])) == list(TABLE_1)


@pytest.fixture
def egs(tmp_path):
    """A corpus whose nine recurrent experiments and one Transformer were decoded, with made-up words and branches."""
    egs = tmp_path / "corpus"
    draw = np.random.default_rng(0)
    for name, config in TABLE_1.items():
        torch.manual_seed(1)
        tokenizer = train_tokenizer(["abc de"], config.tokens)
        model = build_model(config, tokenizer.vocab_size)
        for buffer, mask in model.encoder.named_buffers():
            if buffer.endswith("mask"):
                mask[:, ::2] = False
        (egs / "exp" / name).mkdir(parents=True)
        info = {"parameters": parameter_table(model)}
        save_model(egs / "exp" / name / "model.safetensors", model.state_dict(), config, tokenizer, info)
        branches = max(1, len(config.amnet.compression))
        taken = [draw.integers(branches, size=30 + 10 * u) for u in range(12)]
        write_decoded(egs, name, ["".join(map(str, row)) for row in taken])
    save_random_run(egs / "exp" / "baseline", info={"parameters": {"transformer": 10**6, "total": 2 * 10**6}})
    write_decoded(egs, "baseline", None)
    return egs


def write_decoded(
    egs: Path, name: str, branches: list[str] | None, folder: str = "decode_test_beam16", told_too: dict | None = None
) -> None:
    lines = [{"id": f"u{u}", "ref": "one two ten", "hyp": "one ten" if len(name) > u else "one two"} for u in range(12)]
    if branches:
        lines = [line | {"branches": taken} for line, taken in zip(lines, branches, strict=True)]
    run = egs / "exp" / name / folder
    write_text(run / "hyp.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    told = {"target": "text", "search": folder.split("_")[2], "utterances": len(lines), "skipped": [], "rtf": 0.02}
    write_json(run / "decode.json", told | (told_too or {}))


def write_features(egs: Path) -> None:
    """Stage 2's manifest and arrays of the utterances u0 ... u11, each 30 ms longer per encoder frame."""
    fbank, cuts = egs / "data" / "fbank", []
    fbank.mkdir(parents=True)
    writer = NumpyFilesWriter(str(fbank / "arrays"))
    for u in range(12):
        frames = 3 * (30 + 10 * u)
        array = np.random.default_rng(u).normal(size=(frames, 20)).astype(np.float32)
        recording = Recording(f"u{u}", [], 16000, 160 * frames, frames / 100)
        features = Features(
            type="fbank", num_frames=frames, num_features=20, frame_shift=0.01, sampling_rate=16000, start=0,
            duration=frames / 100, storage_type=writer.name, storage_path=str(writer.storage_path),
            storage_key=writer.write(f"u{u}", array), recording_id=f"u{u}", channels=0,
        )  # fmt: skip
        cuts.append(MonoCut(f"u{u}", 0.0, frames / 100, 0, features=features, recording=recording))
    CutSet.from_cuts(cuts).to_file(str(fbank / "cuts_test.jsonl.gz"))


def score_step(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
    runpy.run_path(str(Path(__file__).parents[2] / "steps" / "score.py"), run_name="__main__")


def test_a_corpus_with_both_kinds_of_encoder(egs, monkeypatch, capsys):
    write_features(egs)
    score_step(monkeypatch, egs)
    results = json.loads((egs / "exp" / "results.json").read_text(encoding="utf-8"))
    rows = {row["experiment"]: row for row in results["rows"]}
    assert list(rows) == ["baseline", *TABLE_1] and "amnet" not in rows["baseline"]
    assert results["baseline"] == "baseline, rnnt"
    assert {row["baseline"] for name, row in rows.items() if name != "baseline"} == {"rnnt"}
    assert rows["rnnt"]["relative"] is None is rows["baseline"]["relative"] and rows["mf"]["relative"] is not None
    assert rows["rnnt"]["amnet"]["saving"] == 0 and rows["rnnt"]["amnet"]["shares"] == [1.0]
    for name, config in TABLE_1.items():
        cost, run = rows[name]["amnet"], egs / "exp" / name / "decode_test_beam16"
        flops = flops_per_frame(load_model(egs / "exp" / name).model)
        everything = "".join(json.loads(line)["branches"] for line in (run / "hyp.jsonl").read_text().splitlines())
        taken = [flops["branches"][int(branch)] for branch in everything]
        expected = flops["arbitrator"] + flops["output"] + np.mean(taken)
        assert cost["mflop"] * 1e6 == pytest.approx(expected, abs=100) and cost["mu"] == 20e3
        assert cost["rho"] == 33.3333 and len(cost["shares"]) == max(1, len(config.amnet.compression))
    assert (egs / "exp" / "branches.png").read_bytes().startswith(PNG) and (egs / "exp" / "wer_vs_params.png").exists()
    assert "mf_amr" in capsys.readouterr().out


def test_without_features_or_with_damaged_ones_the_picture_has_no_sound(egs, monkeypatch, capsys):
    figures = []
    monkeypatch.setattr(timeline, "save", lambda figure, picture: figures.append(figure))
    score_step(monkeypatch, egs)
    assert "cannot be read" not in capsys.readouterr().err
    write_features(egs)
    score_step(monkeypatch, egs)
    next(egs.rglob("u11.npy")).write_bytes(b"gone")
    score_step(monkeypatch, egs)
    assert "the features of u11 cannot be read" in capsys.readouterr().err
    arbitrated = sum(len(config.amnet.compression) > 1 for config in TABLE_1.values())
    assert [len(figure.axes) for figure in figures] == [arbitrated + 1, arbitrated + 2, arbitrated + 1]


def runs_of(egs: Path) -> list:
    return [score_run(folder) for folder in find_runs(egs / "exp", ["test"])]


def test_what_a_row_is_compared_with(egs):
    rows = compare(runs_of(egs), "mf")
    assert {row.baseline for row in rows} == {"mf"} and rows[1].experiment == "mf"
    for missing, expected in {"baseline": {"rnnt"}, "rnnt": {"baseline"}}.items():
        kept = [run for run in runs_of(egs) if run.row.experiment != missing]
        assert {row.baseline for row in compare(kept)} == expected


def test_the_table_tells_costs_and_what_they_mean(egs):
    rows = compare(runs_of(egs))
    results = Results(corpus="x", split="test", baseline="baseline, rnnt", command="c", commit="c", rows=rows)
    header, lines = cells(results)
    shown = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert (shown["sparse_avg"]["compression %"], shown["mf"]["compression %"]) == ("15 / 80", "35")
    assert shown["mf"]["branches %"] == shown["rnnt"]["branches %"] == shown["baseline"]["latency ms"] == "-"
    slow, fast = map(int, shown["mf_amr"]["branches %"].split(" / "))
    assert slow + fast == 100
    cost = rows[-1].amnet
    assert shown["mf_amr"]["MFLOP/frame"] == f"{cost.mflop:.3f} ({-cost.saving:+.1f}%)"
    late = asdict(cost.latency_ms)
    assert shown["mf_amr"]["latency ms"] == "{mean:.0f} ({median:.0f}, {p90:.0f}, {p99:.0f})".format(**late)
    text = render_markdown(results)
    assert "of `baseline` (Transformers) or `rnnt` (recurrent encoders) with" in text
    assert "0.02 MFLOP/s, of which 0.0006 MFLOP are free per frame" in text
    pruned = {row.experiment: row.parameters["pruned"] for row in rows[1:]}
    assert pruned["sparse_avg"] > pruned["sparse"] > pruned["rnnt"] == 0
    assert f"sparse_avg {pruned['sparse_avg'] / 1e6:.3f}M" in text


def test_branches_that_a_model_lacks_end_in_a_sentence(egs):
    write_decoded(egs, "mf", ["0"] * 11 + ["01"])
    with pytest.raises(UserError, match="exp/mf/decode_test_beam16/hyp.jsonl names branches"):
        score_run(egs / "exp" / "mf" / "decode_test_beam16")
    write_decoded(egs, "mf", None)  # decoded before branches were written down
    scored = score_run(egs / "exp" / "mf" / "decode_test_beam16")
    assert scored.row.amnet is None and not scored.branched


@pytest.mark.parametrize("name", ["rnnt", "sparse_avg", "mf_amr"])
def test_decoding_writes_down_the_branches_that_were_computed(egs, name):
    write_features(egs)
    cuts = list(CutSet.from_file(egs / "data" / "fbank" / "cuts_test.jsonl.gz"))[:3]
    for cut in cuts:
        cut.supervisions = [SupervisionSegment(cut.id, cut.id, 0, cut.duration, text="a")]
    bundle = load_model(egs / "exp" / name)
    encoder, settings = bundle.model.encoder, DecodeConfig(kind="greedy", max_batch_s=6.0)
    if encoder.arbitrator is not None:
        with torch.no_grad():  # without biases it follows the noise, so that both branches are taken
            for bias in (*encoder.arbitrator.bias, encoder.arbitrator.out.bias):
                bias.zero_()
            encoder.arbitrator.input[0].mul_(5)
    records, streamed = (decode_cuts(bundle, settings, cuts, streaming).records for streaming in (False, True))
    assert [record["branches"] for record in records] == [record["branches"] for record in streamed]
    for cut, record in zip(cuts, records, strict=True):
        features, state, taken = torch.from_numpy(cut.load_features())[None], encoder.init_state(1), []
        for window in features.split(3, dim=1):
            _, state = encoder.step(window, torch.tensor([window.shape[1]]), state)
            taken.append(int(state.branch))
        assert record["branches"] == "".join(map(str, taken)) and len(taken) == -(-cut.num_frames // 3)
    assert set("".join(record["branches"] for record in records)) == set("01" if encoder.num_branches == 2 else "0")


def write_controls(egs: Path, name: str) -> None:
    for by, branches in (("random", "01"), ("oracle", "10"), ("slow", "00")):
        told = {"branches": {"by": by, "slow_share": 0.5}}
        write_decoded(egs, name, [branches] * 12, f"decode_test_beam16_{by}", told)


def test_controls_are_rows_of_their_own_compared_with_the_baseline_and_in_no_picture(egs, monkeypatch):
    write_controls(egs, "mf_avg")
    write_features(egs)
    score_step(monkeypatch, egs)
    results = Results.read(egs / "exp" / "results.json")
    rows = [row for row in results.rows if row.experiment == "mf_avg"]
    assert [row.name for row in rows] == ["mf_avg", "mf_avg:oracle", "mf_avg:random", "mf_avg:slow"]
    assert all(row.baseline == "rnnt" and row.comparison.relative is not None for row in rows)
    flops = flops_per_frame(load_model(egs / "exp" / "mf_avg").model)
    slow, fast = (flops["output"] + each for each in flops["branches"])
    expected = [(slow + fast) / 2, (slow + fast) / 2, slow]
    assert [row.amnet.mflop for row in rows[1:]] == pytest.approx([each / 1e6 for each in expected], abs=1e-4)
    text = (egs / "exp" / "RESULTS.md").read_text(encoding="utf-8")
    assert "| mf_avg | beam16_random |" in text
    assert [score["run"] for score in scores_of(egs / "exp" / "mf_avg")] == ["decode_test_beam16"]  # of a model's card
    assert "search ..._oracle, ..._random, ..._slow: the branches were not the arbitrator's" in text
    points = []
    monkeypatch.setattr(plots, "_draw_points", lambda axis, given, **_: points.extend(given))
    plots.against_parameters(results, egs)
    assert sorted(point.name for point in points) == sorted(["baseline", *TABLE_1])


def test_the_papers_table_shows_controls_beside_their_amnet(egs, monkeypatch):
    write_controls(egs, "mf_avg")
    conf = Path(__file__).parents[2] / "conf" / "mini"
    monkeypatch.setattr(sys, "argv", ["table.py", str(egs), "--table", "amnets", "--conf", str(conf)])
    monkeypatch.chdir(conf.parents[1])
    runpy.run_path("steps/table.py", run_name="__main__")
    table = PaperTable.read(egs / "exp" / "tables" / "amnets.json")
    row = next(row for row in table.rows if row.name == "MF AmNet L_avg")
    assert [cell.experiment for cell in row.controls] == ["static_mf_avg", "mf_avg:random", "mf_avg:oracle"]
    assert row.controls[0].ours is None
    assert [cell.ours.sets["test"].amnet.shares for cell in row.controls[1:]] == [[0.5, 0.5]] * 2
    (chance,) = (claim for claim in table.claims if "than chance" in claim.says)
    judged = {pair.experiments: pair.verdict for pair in chance.pairs}
    assert judged["mf_avg", "mf_avg:random"] == "within chance" and judged["mf_amr", "mf_amr:random"] == "not measured"
    text = (egs / "exp" / "tables" / "amnets.md").read_text(encoding="utf-8")
    lines = [line[2:].partition(" | ")[0] for line in text.splitlines() if line.startswith("| MF AmNet L_avg")]
    assert lines[:3] == ["MF AmNet L_avg", "MF AmNet L_avg: random", "MF AmNet L_avg: oracle"]
    assert "`static_mf_avg`" in next(line for line in text.splitlines() if line.startswith("Not measured: "))
    orderings, controls = text.index("## The paper's orderings"), text.index("## Against the controls")
    assert orderings < text.index("L_amr makes fewer errors") < controls < text.index("makes fewer errors than chance")
