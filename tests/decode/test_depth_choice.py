"""A model whose arbitrator chooses depths: decoded, scored with its costs, at a fixed depth, and its export."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.commands import decode_step
from support.decoding import FRAMES, features_of, write_cuts
from support.depths import MU, bundle_of
from support.exported import RATE, exported, utterances

import residualformer
from residualformer.config.amnet import AmNetConfig
from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.decode.control import Control, plan_branches
from residualformer.decode.corpus import decode_batch, read_cuts_with_features
from residualformer.decode.encode import encode
from residualformer.decode.teacher import Teacher
from residualformer.errors import UserError
from residualformer.model.adapter import load_adapted
from residualformer.model.checkpoint import load_model, save_model
from residualformer.model.cost import flops_per_frame, parameter_table
from residualformer.report.compare import compare
from residualformer.report.results import Results
from residualformer.report.results_text import cells, render_markdown
from residualformer.report.scoring import find_runs, score_run

CHUNKS = {name: -(-frames // 16) for name, frames in FRAMES.items()}  # of 160 ms


def save(folder, made):
    folder.mkdir(parents=True)
    info = {"parameters": parameter_table(made.model)}
    save_model(folder / "model.safetensors", made.model.state_dict(), made.config, made.tokenizer, info)


@pytest.fixture
def run(tmp_path):
    """A run folder of depths 3, 2 and 1 with an arbitrator, and the manifest of a test set."""
    made = bundle_of(3, [3, 2, 1], ctc=True, arbitrated=True)
    save(tmp_path / "exp" / "depth_avg", made)
    return tmp_path / "exp" / "depth_avg", write_cuts(tmp_path / "fbank", made.config)


def test_each_chunk_has_its_depth_streamed_and_whole(run):
    folder, manifest = run
    bundle = load_model(folder)
    cuts = read_cuts_with_features(manifest, bundle.config.features)
    whole, streamed = (decode_batch(bundle, bundle.config.decode, cuts, way) for way in (False, True))
    taken = {record["id"]: record["branches"] for record in whole.records}
    assert {name: len(digits) for name, digits in taken.items()} == CHUNKS
    assert set("".join(taken.values())) == set("012")
    for one, other in zip(whole.records, streamed.records, strict=True):
        assert one["branches"] == other["branches"]
        assert one["ref_nats"] == pytest.approx(other["ref_nats"], abs=0.01)  # float32, another order of summation
    plan = {name: np.array([int(digit) for digit in digits]) for name, digits in taken.items()}
    assert decode_batch(bundle, bundle.config.decode, cuts, plan=plan).records == whole.records


def test_controls_keep_its_shares_and_results_tell_what_was_saved(run, monkeypatch):
    folder, manifest = run
    decode_step(monkeypatch, folder, "--cuts", manifest)
    for by in ("random", "blank", "fast"):
        decode_step(monkeypatch, folder, "--cuts", manifest, "--branches", by)
    rows = compare([score_run(each) for each in find_runs(folder.parent, ["test"])])
    costs = {row.control: row.amnet for row in rows}
    lines = (folder / "decode_test_greedy" / "hyp.jsonl").read_text().splitlines()
    taken = [[int(digit) for digit in json.loads(line)["branches"]] for line in lines]
    flops = flops_per_frame(load_model(folder).model)
    per_depth = [each + flops["arbitrator"] + flops["output"] for each in flops["branches"]]
    delays, chunks = [], sum(taken, [])
    for depths in taken:
        left_s = 0.0
        for depth in depths:
            left_s = max(left_s + 4 * per_depth[depth] / MU - 0.16, 0.0)
        delays.append(1000 * left_s)
    cost, counts = costs[""], np.bincount(chunks, minlength=3)
    assert cost.latency_ms.mean == pytest.approx(np.mean(delays), abs=1e-3) and cost.latency_ms.mean > 0
    assert cost.shares == [round(each, 4) for each in counts / len(chunks)]
    assert cost.mflop == pytest.approx(np.mean([per_depth[depth] for depth in chunks]) / 1e6, abs=1e-4)
    assert (cost.frames, cost.rho, cost.saving) == (4 * len(chunks), 25.0, None)
    assert costs["random"].shares == costs["blank"].shares == cost.shares and costs["fast"].shares == [0, 0, 1]
    assert cost.mflop - costs["random"].mflop == pytest.approx(flops["arbitrator"] / 1e6, abs=2e-4)
    told = json.loads((folder / "decode_test_greedy_blank" / "decode.json").read_text())["branches"]
    assert told["by"] == "blank" and told["shares"] == cost.shares
    results = Results(corpus="toy", split="test", baseline="", command="", commit="", rows=rows)
    header, table = cells(results)
    shown = dict(zip(header, next(row for row in table if row[header.index("search")] == "greedy"), strict=True))
    assert {"branches %", "MFLOP/frame", "latency ms"} <= set(header) and "compression %" not in header
    assert shown["MFLOP/frame"] == f"{cost.mflop:.3f}"
    text = render_markdown(results)
    assert "took each, of a Transformer of the chunks" in text and "difference to `rnnt`" not in text
    decode_step(monkeypatch, folder, "--cuts", manifest, "--loops", 2)  # a model without a choice, as it is run
    flops = flops_per_frame(load_adapted(folder, None, loops=2).model)
    found = score_run(folder / "decode_test_greedy_loops2").row
    assert found.amnet is None and found.mflop == round((flops["branches"][0] + flops["output"]) / 1e6, 4)


def test_the_oracle_takes_the_chunks_of_the_most_uncertain_frames(run, monkeypatch, capsys):
    folder, manifest = run
    save(folder.parent / "depth", bundle_of(3, [3, 2, 1], ctc=True))
    bundle = load_model(folder)
    cuts = read_cuts_with_features(manifest, bundle.config.features)
    control = Control("oracle", 0.4, oracle=folder.parent / "depth")
    teacher, found = Teacher(control.oracle, bundle.config), []
    for name, taken in plan_branches(bundle, control, cuts, 100.0).plan.items():
        features = torch.from_numpy(features_of(name))[None]
        entropy = teacher.entropy(features, torch.tensor([features.size(1)]))[0]
        found += [(-float(part.max()), int(depth)) for part, depth in zip(entropy.split(4), taken, strict=True)]
    found.sort()
    slow = round(0.4 * len(found))
    assert [taken for _, taken in found] == [0] * slow + [2] * (len(found) - slow)
    with pytest.raises(SystemExit) as ended:
        decode_step(monkeypatch, folder, "--cuts", manifest, "--branches", "oracle")
    assert ended.value.code == 2 and "had no teacher, whose entropy the oracle takes" in capsys.readouterr().err


@torch.no_grad()
def test_at_a_fixed_depth_it_is_a_model_without_an_arbitrator(run):
    folder, _ = run
    large, features, lengths = load_model(folder).model, torch.randn(2, 150, 80) * 3 - 8, torch.tensor([150, 97])
    for loops in (3, 2, 1):
        small = load_adapted(folder, None, loops=loops)
        assert small.model.encoder.arbitrator is None and small.config.amnet == AmNetConfig()
        assert config_from_dict(config_to_dict(small.config)) == small.config
        wanted, sizes = large.encoder.encode_at(features, lengths, loops)
        for streaming in (False, True):
            found = encode(small.model, features, lengths, streaming)
            assert found.branches is None
            for n, size in enumerate(sizes):
                # fp32: the same sums in another order, three layers deep
                torch.testing.assert_close(found.frames[n, :size], wanted[n, :size], rtol=0, atol=1e-5)


def test_it_is_exported_whole_or_at_one_depth(run, tmp_path):
    folder, _ = run
    samples, texts = np.concatenate(utterances()), set()
    for loops in (None, 2):
        said = residualformer.load(folder, loops=loops, greedy=True).transcribe(samples, RATE)
        export = exported(load_adapted(folder, None, loops=loops), "nemo", tmp_path / f"export{loops}")
        for lean in (False, True):
            found = residualformer.load(export, greedy=True, lean=lean).transcribe(samples, RATE)
            assert found.times == said.times and found.text.lower() == said.text.lower()  # it writes <UNK>
        assert len(said.text) > 20
        texts.add(said.text)
    assert len(texts) == 2


def test_a_teacher_of_other_frames_is_refused(run):
    folder, _ = run
    config = load_model(folder).config
    other = replace(config, encoder=replace(config.encoder, frame_ms=80))
    with pytest.raises(UserError, match="cannot teach an arbitrator with frames of 80 ms: its own are 40 ms"):
        Teacher(folder, other)
