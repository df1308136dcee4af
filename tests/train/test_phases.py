"""The phases of a training of branches: who learns when, masks, costs, the teacher, and resuming to the bit."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from support.toy_training import CONFIG, TOKENIZER, learned, make_trainer, no_transcripts, one_batch, stop_at

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.schema import (
    Config,
    DecodeConfig,
    EncoderConfig,
    JoinerConfig,
    LossConfig,
    SpecAugmentConfig,
)
from residualformer.config.training import OptimizerConfig
from residualformer.decode.greedy import greedy_search
from residualformer.decode.teacher import Teacher
from residualformer.errors import UserError
from residualformer.loss.amortized import amortized_latency, average_cost
from residualformer.model import checkpoint
from residualformer.model.cost import flops_per_frame
from residualformer.nn.arbitrator import GumbelSoftmax, OneBranch, one_hot, uniform_branch
from residualformer.train import setup
from residualformer.train.loop import Trainer
from residualformer.train.optimizer import learning_rate_factor
from residualformer.train.phases import BranchPhases, build_phases
from residualformer.train.weight_controller import WeightController

MU = 60e3  # FLOP/s at which the toy model's slow branch is behind and its fast branch is not
RNNT = dataclasses.replace(
    CONFIG,
    encoder=EncoderConfig(kind="lstm", num_layers=2, dim=16, dropout=0.0),
    joiner=JoinerConfig("additive"),
    loss=LossConfig(kind="simple", ctc_scale=0.3),
    train=dataclasses.replace(CONFIG.train, optimizer=OptimizerConfig(kind="adamw", lr=3e-3, warmup_steps=2)),
)


def branches(method: str = "sparse", cost: CostConfig | None = None, **arbitrator) -> Config:
    """Six steps: two of pre-training, two of pruning (when sparse), two of Gumbel-softmax."""
    given = ArbitratorConfig(8, 2, **({"teacher": "rnnt", "pretrain_steps": 2, "entropy_threshold": 1.5} | arbitrator))
    amnet = AmNetConfig(
        method, [0.15, 0.8] if method == "sparse" else [0.2, 0.7], prune_fraction=0.5, prune_every_steps=1,
        arbitrator=given, cost=cost or CostConfig("avg", 5.0, MU),
    )  # fmt: skip
    return dataclasses.replace(RNNT, amnet=amnet)


@pytest.fixture(scope="module", autouse=True)
def fast_validation():
    with no_transcripts():
        yield


@pytest.fixture(scope="module")
def rnnt(toy_cuts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exp") / "rnnt"
    make_trainer(toy_cuts, folder, RNNT).run()
    return folder


@pytest.fixture
def trainer(toy_cuts, rnnt, tmp_path):
    """Make the trainer of a configuration, with the teacher it needs."""

    def _make(config: Config, slow_share: float | None = None, folder: str = "run") -> Trainer:
        made = make_trainer(toy_cuts, tmp_path / folder, config)
        made.phases = build_phases(config, made.model, Teacher(rnnt, config), slow_share)
        return made

    return _make


@pytest.mark.parametrize("arbitrator", [{}, {"use_state": True, "use_decision": True, "delay": 1}])
def test_who_learns_and_how_branches_are_chosen(toy_cuts, trainer, arbitrator):
    run, batch = trainer(branches(**arbitrator)), one_batch(toy_cuts)
    everything = {name for name, _ in run.model.named_parameters()}
    own = {name for name in everything if ".arbitrator." in name}
    samplers, learners = [], []
    for _ in range(6):
        learners.append(learned(run, batch))
        samplers.append(run.phases.sampler())
    assert samplers[:5] == [one_hot] * 2 + [uniform_branch] * 2 + [GumbelSoftmax(1.0)]
    assert samplers[5] == GumbelSoftmax(0.75, 1.0)  # halfway from 1.0 to 0.5; the noise stays unless told otherwise
    assert learners[0] == learners[1] == own
    assert learners[4] == learners[5] == everything
    assert learners[2] | own == learners[3] | own == everything  # drawn evenly: the transducer loss teaches no choice
    assert not learners[2] & own


def test_some_batches_take_one_branch_alone_and_no_cost(toy_cuts, trainer):
    run, batch, seen = trainer(config := branches("factorised")), one_batch(toy_cuts), set()
    run.phases.config = dataclasses.replace(config, amnet=dataclasses.replace(config.amnet, alone_share=0.5))
    run.phases.begin_update(4)
    run.model.train()
    for seed in range(12):
        torch.manual_seed(seed)
        sampler = run.phases.sampler()
        torch.manual_seed(seed)
        assert ("cost" in run.phases.losses(batch, batch.features).sums) == (not isinstance(sampler, OneBranch))
        seen.add(sampler)
    assert seen == {OneBranch(0), OneBranch(1), GumbelSoftmax(0.75)}
    assert run.model.eval() and run.phases.sampler() is one_hot


def test_masks_follow_their_branches_and_recover(toy_cuts, trainer):
    run, batch = trainer(branches()), one_batch(toy_cuts)
    matrix = run.model.encoder.layers[1].recurrent
    shares = []
    for _ in range(6):
        run.update([(0, batch)])
        run.step += 1
        shares.append([float((~each.mask).float().mean()) for each in matrix])
    rounding = 1 / matrix[0].mask.numel()
    for step, share in enumerate(shares):
        for found, final in zip(share, (0.15, 0.8), strict=True):
            m = min(max(step - 2, 0), 2)
            assert found == pytest.approx(final * (1 - (1 - m / 2) ** 3), abs=rounding)
    with torch.no_grad():
        held = matrix[1].W[~matrix[1].mask]
    assert held.abs().min() > 0  # they wait


def test_one_sparse_branch_is_pruned_without_an_arbitrator(toy_cuts, tmp_path):
    config = dataclasses.replace(RNNT, amnet=AmNetConfig("sparse", [0.5], prune_fraction=0.5, prune_every_steps=1))
    info = make_trainer(toy_cuts, tmp_path, config).run()
    bundle = checkpoint.load_model(tmp_path)
    masks = [mask for name, mask in bundle.model.named_buffers() if name.endswith("mask")]
    assert len(masks) == 4 and all(int(mask.sum()) == mask.numel() / 2 for mask in masks)
    assert "slow_share" not in info["valid"]


@pytest.mark.parametrize("kind", ["avg", "amr"])
def test_the_cost_loss_is_the_weighted_cost_of_the_decisions(toy_cuts, trainer, kind):
    run, batch = trainer(branches("factorised", CostConfig(kind, 3.0, MU))), one_batch(toy_cuts)
    phases, model = run.phases, run.model
    model.train()
    phases.begin_update(4)
    for dropout in model.modules():
        if hasattr(dropout, "p"):
            dropout.p = 0.0
    torch.manual_seed(5)
    losses = phases.losses(batch, batch.features)
    torch.manual_seed(5)
    encoded = model.encoder.encode(batch.features, batch.feature_lens, phases.sampler())
    flops = flops_per_frame(model)
    taken = torch.nn.functional.one_hot(encoded.decisions.argmax(2), 2).float().requires_grad_()
    q = flops["arbitrator"] + flops["output"] + taken @ torch.tensor(flops["branches"])
    measure = average_cost if kind == "avg" else amortized_latency
    wanted = 3.0 * measure(q, encoded.lengths, MU, 100 / 3).sum()
    torch.testing.assert_close(losses.sums["cost"], wanted)
    parts = losses.sums["transducer"] + 0.3 * losses.sums["ctc"] + losses.sums["cost"]
    torch.testing.assert_close(losses.sums["loss"], parts)
    bias = model.encoder.arbitrator.out.bias
    (of_whole,) = torch.autograd.grad(wanted, taken)
    (soft,) = torch.autograd.grad(encoded.decisions, bias, of_whole)  # the gradient goes to the soft decisions
    (gradient,) = torch.autograd.grad(losses.sums["cost"], bias)
    torch.testing.assert_close(gradient, soft)
    assert gradient[0] > 0 > gradient[1]  # the slow branch costs


def test_validation_tells_what_one_hot_decisions_cost(toy_cuts, trainer):
    run = trainer(branches("factorised"))
    values = run.validate()
    flops, slow, cost, delay, frames = flops_per_frame(run.model), 0, [], [], 0
    for batch in run.dev:
        encoded = run.model.encoder.encode(batch.features, batch.feature_lens, one_hot)
        for n, length in enumerate(encoded.lengths.tolist()):
            taken = encoded.decisions[n, :length].argmax(1)
            q = [flops["branches"][branch] + flops["arbitrator"] + flops["output"] for branch in taken.tolist()]
            lag = 0.0
            for each in q:
                lag = max(lag + each - MU * 0.03, 0.0)
            slow, frames = slow + int((taken == 0).sum()), frames + length
            cost.append(sum(q) / length / (MU * 0.03))
            delay.append(lag / MU)
    assert values["slow_share"] == pytest.approx(slow / frames)
    assert values["real_time_factor"] == pytest.approx(sum(cost) / len(cost), rel=1e-5)
    assert values["delay_s"] == pytest.approx(sum(delay) / len(delay), rel=1e-5)


def test_the_entropy_is_that_of_the_greedy_path(toy_cuts, rnnt):
    teacher, batch = Teacher(rnnt, branches()), one_batch(toy_cuts)
    model = teacher.model
    features = batch.features + 5 * torch.randn(batch.features.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # of decided outputs, so that labels are written now and then
        model.joiner.project_encoder.weight *= 20
        model.joiner.project_predictor.weight *= 20
        found = teacher.entropy(features, batch.feature_lens)
        encoded, lengths = model.encoder(features, batch.feature_lens)
        hypotheses = greedy_search(model, encoded, lengths, DecodeConfig())
        assert 0 < sum(len(each.tokens) for each in hypotheses) < 5 * int(lengths.sum())  # five a frame at most
        for n, (each, length) in enumerate(zip(hypotheses, lengths.tolist(), strict=True)):
            for t in range(0, length, 7):
                before = [token for token, frame in zip(each.tokens, each.frames, strict=True) if frame < t]
                history = model.predictor(torch.tensor([before], dtype=torch.long))[0, -1]
                p = model.joiner(encoded[n, t], history).softmax(0)
                assert float(found[n, t]) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-4)


def test_what_a_training_needs_is_asked_of_its_siblings(rnnt, tmp_path):
    config, exp = branches(cost=CostConfig("avg", 1.0, MU, match="rnnt")), rnnt.parent / "mf_biased"
    assert setup.teacher_of(config, exp) == rnnt / "model.safetensors" and setup.teacher_of(RNNT, exp) is None
    with pytest.raises(UserError, match="model.safetensors has no slow frames whose share could be matched"):
        setup.slow_share_to_match(config, exp)
    assert setup.slow_share_to_match(branches(), exp) is None
    stated = branches(cost=CostConfig("avg", 1.0, MU, slow_share=0.3))
    assert setup.slow_share_to_match(stated, exp) == 0.3
    lost = tmp_path / "mf_biased"
    with pytest.raises(UserError, match="the arbitrator of .* learns from .*, which holds no model.safetensors: train"):
        setup.teacher_of(config, lost)
    (tmp_path / "rnnt").mkdir()
    trained = {"valid": {"slow_share": 0.4}}
    checkpoint.save_model(tmp_path / "rnnt" / "model.safetensors", {}, RNNT, TOKENIZER, trained)
    assert setup.slow_share_to_match(config, lost) == 0.4


def test_a_teacher_with_other_frames_is_refused(rnnt):
    other = dataclasses.replace(RNNT, encoder=dataclasses.replace(RNNT.encoder, stack_frames=4))
    with pytest.raises(UserError, match="cannot teach an arbitrator with frames of 40 ms: its own are 30 ms"):
        Teacher(rnnt, other)


def test_the_arbitrator_learns_what_its_teacher_finds_uncertain(toy_cuts, trainer):
    config = branches(pretrain_steps=60, entropy_threshold=math.log(3))
    optimizer = dataclasses.replace(config.train.optimizer, lr=1e-2)
    train = dataclasses.replace(config.train, max_steps=80, optimizer=optimizer)
    data = dataclasses.replace(config.data, specaugment=SpecAugmentConfig(start_step=80))
    run = trainer(dataclasses.replace(config, train=train, data=data))
    run.phases.teacher.entropy = lambda features, lengths: features[:, ::3, 0].sign() + 1  # a target it can see
    batch = one_batch(toy_cuts)
    batch = dataclasses.replace(batch, features=batch.features + 20 * torch.randn(batch.features.shape))
    first = None
    for _ in range(60):
        ((_, losses),), _ = run.update([(0, batch)])
        bce, frames = losses.ratios["arbitrator_bce"]
        first = first or float(bce) / frames
        run.step += 1
    assert float(bce) / frames < first / 2


def test_a_training_of_phase_1_alone_changes_the_arbitrator_alone_and_meets_the_share(trainer):
    config = branches("factorised", pretrain_steps=4)
    run = trainer(dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=4)), 0.4)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.run()
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("encoder.arbitrator.") for name in changed)
    assert run.validate()["slow_share"] == pytest.approx(0.4, abs=0.05)  # dev has few frames


@pytest.mark.parametrize(("method", "stop"), [("sparse", 1), ("sparse", 3), ("sparse", 4), ("factorised", 4)])
def test_an_interrupted_run_of_branches_ends_with_the_same_bits(trainer, method, stop):
    config = branches(method)
    info = trainer(config, 0.4, "straight").run()
    first = trainer(config, 0.4, "broken")
    stop_at(first, stop + 1)
    second = trainer(config, 0.4, "broken")
    assert second.resume() and second.step == stop + 1
    assert second.run()["fingerprint"] == info["fingerprint"]


def test_the_weight_leads_to_the_wanted_share_and_is_held():
    """A plant as the controller believes it to be, and others: slower or faster, and more or less willing."""
    for lag, gain in ((100, 0.15), (50, 0.1), (200, 0.3)):
        controller, share, noise = WeightController(0.25, 0.0), 0.6, torch.Generator().manual_seed(1)
        pace = learning_rate_factor(OptimizerConfig(schedule="hold", warmup_steps=0, hold_fraction=0.6), 1500)
        highest, lowest = 0.6, 0.6
        for step in range(1200):
            wanted = min(max(0.6 - gain * math.log(controller.weight), 0.0), 1.0)
            share += (wanted - share) * pace(step) / lag
            highest = max(highest, share)
            controller.observe(share + 0.03 * float(torch.randn((), generator=noise)), pace(step), step / 1200)
            lowest = min(lowest, share)
        assert share == pytest.approx(0.25, abs=0.03), (lag, gain)
        settled = 0.6 - gain * math.log(controller.final_weight)
        assert settled == pytest.approx(0.25, abs=0.05) and highest < 0.61
        assert lowest > 0.2  # it does not swing below, from where an arbitrator hardly finds back


def test_the_share_that_is_matched_is_that_of_the_dev_set():
    controller = WeightController(0.3, 0.0)
    controller.calibrate(0.9)  # nothing seen yet: ignored
    assert controller.offset == 0
    controller.observe(0.35, 0.0, 1.0)
    controller.calibrate(0.3)
    assert controller.weight == pytest.approx(1.0)  # 0.35 in training is the wanted 0.3 on dev
    other = WeightController(0.3, 9.0)
    other.load_state_dict(controller.state_dict())
    assert other == controller


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_final_model_has_the_wanted_share_on_the_dev_set(trainer, share):
    run = trainer(branches("factorised"), share)
    info = run.run()
    above = frames = ties = 0
    with torch.no_grad():
        for batch in run.dev:
            encoded = run.model.encoder.encode(batch.features, batch.feature_lens, one_hot)
            for decisions, logits, length in zip(
                encoded.decisions, encoded.arbitrator_logits, encoded.lengths, strict=True
            ):
                tied = (logits[:length, 0] - logits[:length, 1]).abs().lt(1e-7)
                above += int(decisions[:length, 0][~tied].sum())
                frames, ties = frames + int(length), ties + int(tied.sum())
    # Counted, not approximated: the threshold lies between two frames, but for those that float32 cannot tell apart,
    # which a training of six updates leaves.
    assert above <= round(share * frames) <= above + ties and ties < 0.05 * frames
    saved = checkpoint.load_model(run.folder).model.encoder.arbitrator.out.bias
    assert torch.equal(saved, run.model.encoder.arbitrator.out.bias)
    assert info["valid"]["slow_share"] == pytest.approx(share, abs=0.05)  # in the training's precision


def test_the_weight_is_held_at_the_end(trainer):
    phases = trainer(branches("factorised"), 0.1).phases
    assert isinstance(phases, BranchPhases) and phases.adapt_until == 6 - 0.2 * 4
    phases.step = 5  # before 5.2

    def weight_after(slow_share: float) -> float:
        phases.end_update([slow_share * 1000, 1000])
        return phases.cost_weight()

    assert weight_after(0.9) < weight_after(0.9)
    phases.step = 6
    assert phases.observed([]) == []
    assert weight_after(0.9) == phases.cost_weight() == phases.controller.final_weight
