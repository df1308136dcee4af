"""Controls of the arbitrator: exact shares, bounds that are the models of one branch, what changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import decode_step
from support.decoding import FRAMES, features_of, write_cuts

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.schema import (
    Config,
    DecodeConfig,
    EncoderConfig,
    JoinerConfig,
    LossConfig,
    PredictorConfig,
    TokenConfig,
)
from residualformer.data.tokenizer import train_tokenizer
from residualformer.decode.control import Control, dense_model, plan_branches
from residualformer.decode.corpus import decode_batch, decode_cuts, read_cuts_with_features
from residualformer.decode.teacher import Teacher
from residualformer.model.checkpoint import Bundle, load_model, save_model
from residualformer.model.cost import flops_per_frame
from residualformer.nn.transducer import build_model
from residualformer.report.compare import compare
from residualformer.report.results import Results
from residualformer.report.results_text import render_markdown
from residualformer.report.scoring import find_runs, score_run

SLICES = {name: -(-frames // 3) for name, frames in FRAMES.items()}  # encoder frames
TOTAL = sum(SLICES.values())
DENSE = Config(
    tokens=TokenConfig(kind="char"),
    encoder=EncoderConfig(kind="lstm", num_layers=2, dim=8),
    predictor=PredictorConfig(embedding_dim=4, hidden_dim=5, num_layers=1),
    joiner=JoinerConfig(kind="additive"),
    loss=LossConfig(kind="simple"),
    decode=DecodeConfig(beam=3),
)


def branched(compression=(0.2, 0.7), **amnet) -> Config:
    arbitrator = ArbitratorConfig(hidden_dim=4) if len(compression) > 1 else ArbitratorConfig()
    return replace(DENSE, amnet=AmNetConfig("factorised", list(compression), arbitrator=arbitrator, **amnet))


def save(folder: Path, config: Config, seed: int = 3, weights: dict | None = None) -> None:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["abcde"], config.tokens)
    model = build_model(config, tokenizer.vocab_size)
    encoder = model.encoder
    with torch.no_grad():
        encoder.mean.fill_(-8), encoder.std.fill_(3)
        model.joiner.project_encoder.bias[0] += 1.0  # blank
        if encoder.arbitrator is not None:  # one that changes its mind
            for weight in (*encoder.arbitrator.input, encoder.arbitrator.out.weight):
                weight.normal_(std=2)
            for bias in (*encoder.arbitrator.bias, encoder.arbitrator.out.bias):
                bias.zero_()
    save_model(folder / "model.safetensors", weights or model.state_dict(), config, tokenizer, {})


@pytest.fixture
def exp(tmp_path) -> Path:
    """Runs `rnnt`, `mf_avg`, which learned from it, and `mf_amr`, which starts from that."""
    taught = ArbitratorConfig(hidden_dim=4, teacher="rnnt", pretrain_steps=1)
    cost = CostConfig("avg", 1.0, 20e3)
    save(tmp_path / "exp" / "rnnt", DENSE, 5)
    first = replace(branched(cost=cost), warm_start="rnnt")
    save(tmp_path / "exp" / "mf_avg", replace(first, amnet=replace(first.amnet, arbitrator=taught)))
    save(tmp_path / "exp" / "mf_amr", replace(branched(cost=replace(cost, kind="amr")), warm_start="mf_avg"))
    return tmp_path / "exp"


@pytest.fixture
def cuts(tmp_path):
    return read_cuts_with_features(write_cuts(tmp_path / "fbank", DENSE), DENSE.features)


def chosen(bundle: Bundle, control: Control, cuts, max_batch_s: float = 200.0) -> np.ndarray:
    """The branches of all frames, in the order of the cuts, of which each has as many as the encoder gives."""
    plan, told = plan_branches(bundle, control, cuts, max_batch_s)
    assert {name: len(taken) for name, taken in plan.items()} == SLICES and list(plan) == list(FRAMES)
    everything = np.concatenate(list(plan.values()))
    assert told["by"] == control.by and told["slow_share"] == round(float((everything == 0).mean()), 4)
    return everything


def arbitrated(bundle: Bundle, cuts) -> np.ndarray:
    records = decode_cuts(bundle, DecodeConfig(kind="greedy"), cuts).records
    return np.array([int(branch) for record in records for branch in record["branches"]])


def test_as_many_frames_are_slow_as_the_arbitrator_chose(exp, cuts):
    bundle = load_model(exp / "mf_avg")
    slow = int((arbitrated(bundle, cuts) == 0).sum())
    assert 0 < slow < TOTAL  # otherwise little is tested
    oracle = Control("oracle", oracle=exp / "rnnt")
    for control in (Control("random"), Control("loud"), oracle):
        assert (chosen(bundle, control, cuts) == 0).sum() == slow
    for share in (0.0, 0.3, 1.0):
        for control in (Control("random", share), Control("loud", share), replace(oracle, slow_share=share)):
            assert (chosen(bundle, control, cuts) == 0).sum() == round(share * TOTAL)
    assert not chosen(bundle, Control("slow"), cuts).any() and chosen(bundle, Control("fast"), cuts).all()


def test_chance_depends_on_the_seed_and_the_set_alone(exp, cuts):
    bundle = load_model(exp / "mf_avg")
    first = chosen(bundle, Control("random", 0.5), cuts)
    assert np.array_equal(first, chosen(bundle, Control("random", 0.5), cuts, max_batch_s=1.0))
    assert not np.array_equal(first, chosen(bundle, Control("random", 0.5, seed=2), cuts))
    expected = np.ones(TOTAL)
    expected[np.random.default_rng(1).random(TOTAL).argsort()[: round(0.5 * TOTAL)]] = 0
    assert np.array_equal(first, expected)


def test_the_oracle_takes_the_frames_of_highest_entropy(exp, cuts):
    plan, _ = plan_branches(load_model(exp / "mf_avg"), Control("oracle", 0.4, oracle=exp / "rnnt"), cuts, 200.0)
    teacher = Teacher(exp / "rnnt", DENSE)
    slow, fast = [], []
    for name, taken in plan.items():
        features = torch.from_numpy(features_of(name))[None]
        entropy = teacher.entropy(features, torch.tensor([features.shape[1]]))[0]
        slow += entropy[taken == 0].tolist()
        fast += entropy[taken == 1].tolist()
    assert min(slow) > max(fast) - 1e-6  # in batches of another size the last bits are others


def test_the_frames_nearest_to_the_loudest_of_their_utterance_are_slow(exp, cuts):
    plan, _ = plan_branches(load_model(exp / "mf_avg"), Control("loud", 0.4), cuts, 200.0)
    slow, fast = [], []
    for name, taken in plan.items():
        energy = features_of(name).mean(1)
        steps = np.array([energy[3 * n : 3 * n + 3].max() for n in range(len(taken))])
        slow += (steps - energy.max())[taken == 0].tolist()
        fast += (steps - energy.max())[taken == 1].tolist()
    assert min(slow) > max(fast) - 1e-5  # float32, another order of summation


def test_three_branches_keep_their_shares(exp, cuts):
    save(exp / "three", branched((0.2, 0.5, 0.7)))
    bundle = load_model(exp / "three")
    wanted = np.bincount(arbitrated(bundle, cuts), minlength=3)
    assert np.array_equal(np.bincount(chosen(bundle, Control("random"), cuts), minlength=3), wanted)
    assert np.bincount(chosen(bundle, Control("random", 0.25), cuts), minlength=3)[1] == 0


@pytest.mark.parametrize("branch, by", [(0, "slow"), (1, "fast")])
def test_a_bound_is_the_model_of_that_branch_alone(exp, cuts, branch, by):
    bundle = load_model(exp / "mf_avg")
    config = branched([(0.2, 0.7)[branch]])
    weights = {name: value for name, value in bundle.model.state_dict().items() if ".arbitrator." not in name}
    for layer, parts in enumerate(bundle.model.encoder.layers):
        for kind in ("input", "recurrent"):
            for factor in ("P1", "P2"):
                name = f"encoder.layers.{layer}.{kind}.{factor}"
                weights[name] = weights[name][:, : getattr(parts, kind).ranks[branch]].contiguous()
    save(exp / "alone", config, weights=weights)
    alone = load_model(exp / "alone")
    assert flops_per_frame(alone.model)["branches"] == [flops_per_frame(bundle.model)["branches"][branch]]
    settings = DecodeConfig(kind="greedy")
    plan, _ = plan_branches(bundle, Control(by), cuts, 200.0)
    found, expected = decode_batch(bundle, settings, cuts, plan=plan), decode_batch(alone, settings, cuts)
    for ours, theirs in zip(found.records, expected.records, strict=True):
        assert ours["hyp"] == theirs["hyp"] and set(ours["branches"]) == {str(branch)}
        assert ours["ref_nats"] == pytest.approx(theirs["ref_nats"], abs=0.01)  # float32, another order of summation


def test_all_shares_slow_is_always_slow_to_the_bit_and_streaming_takes_the_same_branches(exp, cuts):
    bundle, settings = load_model(exp / "mf_avg"), DecodeConfig(kind="greedy")
    always, whole, mixed = (
        plan_branches(bundle, control, cuts, 200.0).plan
        for control in (Control("slow"), Control("random", 1.0), Control("random"))
    )
    assert (
        decode_batch(bundle, settings, cuts, plan=always).records
        == decode_batch(bundle, settings, cuts, plan=whole).records
    )
    batched, streamed = (decode_batch(bundle, settings, cuts, live, plan=mixed).records for live in (False, True))
    for ours, theirs, taken in zip(batched, streamed, mixed.values(), strict=True):
        assert ours["branches"] == theirs["branches"] == "".join(map(str, taken))
        assert ours["ref_nats"] == pytest.approx(theirs["ref_nats"], abs=0.01)


def test_the_arbitrators_own_choice_as_a_plan_changes_nothing(exp, cuts):
    bundle, settings = load_model(exp / "mf_avg"), DecodeConfig(kind="greedy")
    own = decode_batch(bundle, settings, cuts).records
    plan = {record["id"]: np.array([int(digit) for digit in record["branches"]]) for record in own}
    assert decode_batch(bundle, settings, cuts, plan=plan).records == own


def test_the_step_and_the_scores(exp, cuts, monkeypatch):
    file = exp.parent / "fbank" / "cuts_test.jsonl.gz"
    decode_step(monkeypatch, exp / "rnnt", "--cuts", file)
    decode_step(monkeypatch, exp / "mf_amr", "--cuts", file)
    for by in ("slow", "fast", "random", "oracle"):
        decode_step(monkeypatch, exp / "mf_amr", "--cuts", file, "--branches", by)
    options = ["--branches", "random", "--branch-seed", 4, "--slow-share", 0.25, "--limit", 2]
    decode_step(monkeypatch, exp / "mf_amr", "--cuts", file, *options)
    other = json.loads((exp / "mf_amr/decode_test_beam3_first2_random_seed4_share0.25/decode.json").read_text())
    assert other["branches"] == {"by": "random", "seed": 4, "slow_share": pytest.approx(0.25, abs=0.01)}
    save(exp / "static", branched([0.5], match="mf_amr"), 7)
    decode_step(monkeypatch, exp / "static", "--cuts", file)
    scored = [score_run(folder) for folder in find_runs(exp, ["test"]) if "_first2" not in folder.name]
    rows = compare(scored)
    static = rows.pop(1)
    assert [row.control for row in rows] == ["", "", "fast", "oracle", "random", "slow"]
    assert [row.search_name for row in rows[1:4]] == ["beam3", "beam3_fast", "beam3_oracle"]
    own = rows[1].scores["loss"].value
    for row in (static, *rows[2:]):
        assert row.control_of == "mf_amr"
        assert row.beside_it.loss_relative == pytest.approx(100 * (row.scores["loss"].value / own - 1), abs=0.02)
    assert not any(row.control_of for row in rows[:2])
    text = render_markdown(Results(corpus="c", split="test", baseline="", command="", commit="", rows=[static, *rows]))
    told = [line.split(" | ")[1] for line in text.partition("## Controls")[2].splitlines() if "| mf_amr |" in line]
    assert told == ["static", *(f"mf_amr:{by}" for by in ("fast", "oracle", "random", "slow"))]
    assert all(row.comparison.loss_relative is not None for row in rows[1:])  # with rnnt's beam3
    by_control = {row.control: row.amnet for row in rows if row.experiment == "mf_amr"}
    flops = flops_per_frame(load_model(exp / "mf_amr").model)
    for control, branch in (("slow", 0), ("fast", 1)):
        expected = flops["branches"][branch] + flops["output"]
        assert by_control[control].mflop == pytest.approx(expected / 1e6, abs=1e-4)  # rounded
    assert by_control["random"].shares == by_control["oracle"].shares == by_control[""].shares
    saved = by_control[""].mflop - by_control["random"].mflop
    assert saved == pytest.approx(flops["arbitrator"] / 1e6, abs=2e-4)


def test_the_oracle_is_the_teacher_and_what_the_step_refuses(exp, cuts, monkeypatch, capsys):
    assert dense_model(exp / "mf_amr", load_model(exp / "mf_amr").config) == exp / "rnnt"
    (exp / "rnnt" / "model.safetensors").rename(exp / "dense.safetensors")
    save(exp / "untaught", branched())
    (exp / "export").mkdir()
    (exp / "export" / "model.json").write_text("{}")
    file = exp.parent / "fbank" / "cuts_test.jsonl.gz"
    cases = {
        "--branches: an exported folder asks its arbitrator": (exp / "export", "--branches", "slow"),
        "has no branches to choose from so; give an AmNet": (exp / "dense.safetensors", "--branches", "random"),
        "--slow-share 0.3 is for --branches random or loud or oracle or blank": (exp / "mf_avg", "--slow-share", "0.3"),
        "--branch-seed 2 is for --branches random": (exp / "mf_avg", "--branches", "slow", "--branch-seed", "2"),
        "--branch-seed -1: give 0 or more": (exp / "mf_avg", "--branches", "random", "--branch-seed", "-1"),
        "--slow-share 1.5: give a number from 0 to 1": (exp / "mf_avg", "--branches", "random", "--slow-share", "1.5"),
        "holds no model.safetensors: train it, or give --oracle RUN": (exp / "mf_amr", "--branches", "oracle"),
        "had no teacher, whose entropy the oracle takes": (exp / "untaught", "--branches", "oracle"),
    }
    for words, (model, *options) in cases.items():
        with pytest.raises(SystemExit) as ended:
            decode_step(monkeypatch, model, "--cuts", file, *options)
        assert ended.value.code == 2 and words in capsys.readouterr().err, words
    options = ["--branches", "oracle", "--oracle", exp / "dense.safetensors", "--set", "decode.kind=greedy"]
    decode_step(monkeypatch, exp / "mf_amr", "--cuts", file, *options)
    assert (exp / "mf_amr" / "decode_test_greedy_oracle" / "hyp.jsonl").is_file()
