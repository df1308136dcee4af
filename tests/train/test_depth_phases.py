"""The phases of a training of depths by an arbitrator: who learns when, costs in seconds, resuming to the bit."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from support.toy_training import CONFIG, TOKENIZER, learned, make_trainer, no_transcripts, one_batch, stop_at

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.schema import Config
from residualformer.decode.teacher import Teacher
from residualformer.errors import UserError
from residualformer.loss.amortized import amortized_latency, average_cost
from residualformer.model.cost import flops_per_frame
from residualformer.nn.arbitrator import GumbelSoftmax, one_hot
from residualformer.nn.transducer import build_model
from residualformer.train.phases import BranchPhases, build_phases
from residualformer.train.selection import candidates
from residualformer.train.warm_start import warm_start

MU = 0.27e6  # FLOP/s at which the toy model is behind at the full depth and not at the least
CHUNK_S, FRAMES = 0.16, 4  # of a chunk: seconds, encoder frames
DEPTHS = dataclasses.replace(
    CONFIG, encoder=dataclasses.replace(CONFIG.encoder, num_layers=5, sharing=3, depth=DepthConfig([3, 2, 1]))
)


def arbitrated(cost: CostConfig | None = None, **arbitrator) -> Config:
    """Six steps: two of pre-training, four of Gumbel-softmax."""
    given = ArbitratorConfig(8, 2, **({"teacher": "depth", "pretrain_steps": 2, "entropy_threshold": 1.5} | arbitrator))
    encoder = dataclasses.replace(DEPTHS.encoder, depth=DepthConfig([3, 2, 1], True))
    amnet = AmNetConfig(arbitrator=given, cost=cost or CostConfig("avg", 5.0, MU))
    return dataclasses.replace(DEPTHS, encoder=encoder, amnet=amnet)


@pytest.fixture(scope="module", autouse=True)
def fast_validation():
    with no_transcripts():
        yield


@pytest.fixture(scope="module")
def depth(toy_cuts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "depth"
    make_trainer(toy_cuts, folder, DEPTHS).run()
    return folder


@pytest.fixture
def trainer(toy_cuts, depth, tmp_path):
    """Make the trainer of a configuration, with its teacher."""

    def _make(config: Config, slow_share: float | None = None, folder: str = "run"):
        made = make_trainer(toy_cuts, tmp_path / folder, config)
        made.phases = build_phases(config, made.model, Teacher(depth, config), slow_share)
        with torch.no_grad():
            made.model.encoder.arbitrator.out.weight.mul_(20)  # so that all depths are taken
        return made

    return _make


def test_who_learns_and_how_depths_are_chosen(toy_cuts, trainer):
    run, batch = trainer(arbitrated()), one_batch(toy_cuts)
    assert isinstance(run.phases, BranchPhases)
    samplers, learners = [], []
    for _ in range(4):
        learners.append(learned(run, batch))
        samplers.append(run.phases.sampler())
    everything = {name for name, _ in run.model.named_parameters()}
    own = {name for name in everything if ".arbitrator." in name}
    assert samplers == [one_hot, one_hot, GumbelSoftmax(1.0), GumbelSoftmax(0.875)]  # from 1 to 0.5 in four
    assert learners == [own, own, everything, everything]


def by_hand(model, decisions, steps):
    """Real-time factor and delay in seconds of each utterance, chunk by chunk from the definition."""
    flops, rates, delays = flops_per_frame(model), [], []
    for taken, size in zip(decisions.argmax(2).tolist(), steps.tolist(), strict=True):
        q = [FRAMES * (flops["branches"][each] + flops["arbitrator"] + flops["output"]) for each in taken[:size]]
        left_s = 0.0
        for each in q:  # a chunk is there every 160 ms, and the work on it takes each / MU
            left_s = max(left_s + each / MU - CHUNK_S, 0.0)
        rates.append(sum(q) / MU / (size * CHUNK_S))
        delays.append(left_s)
    return rates, delays


def test_validation_tells_what_one_hot_decisions_cost(trainer):
    run = trainer(arbitrated())
    values, rates, delays, work, chunks = run.validate(), [], [], 0.0, 0
    full, middle, least = flops_per_frame(run.model)["branches"]
    for batch in run.dev:
        decisions = run.model.encoder.encode(batch.features, batch.feature_lens, one_hot).decisions
        steps = -(-batch.feature_lens // 16)
        rate, delay = by_hand(run.model, decisions, steps)
        rates, delays = rates + rate, delays + delay
        for taken, size in zip(decisions.argmax(2), steps, strict=True):
            counts = taken[:size].bincount(minlength=3).tolist()
            work, chunks = work + counts[0] + counts[1] * (middle - least) / (full - least), chunks + int(size)
    assert 0 < values["slow_share"] == pytest.approx(work / chunks) and sum(delays) > 0
    assert values["real_time_factor"] == pytest.approx(sum(rates) / len(rates), rel=1e-5)
    assert values["delay_s"] == pytest.approx(sum(delays) / len(delays), rel=1e-5)


@pytest.mark.parametrize("kind", ["avg", "amr"])
def test_the_cost_loss_is_the_weighted_cost_of_the_chunks(toy_cuts, trainer, kind):
    run, batch = trainer(arbitrated(CostConfig(kind, 3.0, MU))), one_batch(toy_cuts)
    phases, model = run.phases, run.model.train()
    for dropout in model.modules():
        if hasattr(dropout, "p"):
            dropout.p = 0.0
    phases.begin_update(4)
    torch.manual_seed(5)
    losses = phases.losses(batch, batch.features)
    torch.manual_seed(5)
    encoded = model.encoder.encode(batch.features, batch.feature_lens, phases.sampler())
    assert encoded.decisions.max(2).values.min() < 0.99  # soft
    steps = -(-batch.feature_lens // 16)
    rates, delays = by_hand(model, encoded.decisions, steps)
    torch.testing.assert_close(losses.sums["cost"], torch.tensor(3.0 * sum(rates if kind == "avg" else delays)))
    flops = flops_per_frame(model)
    taken = torch.nn.functional.one_hot(encoded.decisions.argmax(2), 3).float().requires_grad_()
    q = FRAMES * (flops["arbitrator"] + flops["output"] + taken @ torch.tensor(flops["branches"]))
    measure = average_cost if kind == "avg" else amortized_latency
    (of_whole,) = torch.autograd.grad(3.0 * measure(q, steps, MU, 1 / CHUNK_S).sum(), taken)
    bias = model.encoder.arbitrator.out.bias
    (soft,) = torch.autograd.grad(encoded.decisions, bias, of_whole)  # the gradient goes to the soft decisions
    (gradient,) = torch.autograd.grad(losses.sums["cost"], bias)
    torch.testing.assert_close(gradient, soft)
    assert gradient[0] > 0 > gradient[2]  # depth costs


def test_a_chunk_is_slow_where_the_teacher_is_uncertain_at_any_frame_of_it(toy_cuts, trainer):
    run, batch = trainer(arbitrated(entropy_threshold=math.log(3))), one_batch(toy_cuts)
    entropy = (
        torch.rand(len(batch.ids), -(-batch.features.size(1) // 4), generator=torch.Generator().manual_seed(1)) * 2
    )
    run.phases.teacher.entropy = lambda features, lengths: entropy
    run.model.train()
    run.phases.begin_update(0)
    labels, counted = run.phases.losses(batch, batch.features).ratios["teacher_slow_share"]
    slow = chunks = 0
    for values, length in zip(entropy.tolist(), batch.feature_lens.tolist(), strict=True):
        real = values[: -(-length // 4)]
        parts = [real[start : start + 4] for start in range(0, len(real), 4)]
        slow, chunks = slow + sum(max(part) > math.log(3) for part in parts), chunks + len(parts)
    assert (int(labels), counted) == (slow, chunks) and 0 < slow < chunks


@pytest.mark.parametrize(("stop", "use_backlog"), [(1, False), (4, False), (4, True)])
def test_an_interrupted_run_ends_with_the_same_bits(trainer, stop, use_backlog):
    config = arbitrated(use_backlog=use_backlog)
    info = trainer(config, 0.4, "straight").run()
    first = trainer(config, 0.4, "broken")
    stop_at(first, stop + 1)
    second = trainer(config, 0.4, "broken")
    assert second.resume() and second.step == stop + 1
    assert second.run()["fingerprint"] == info["fingerprint"]


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_final_model_does_the_wanted_work_on_the_dev_set(trainer, share):
    run = trainer(arbitrated(), share)
    info = run.run()
    steps = torch.cat([-(-batch.feature_lens // 16) for batch in run.dev])
    assert info["valid"]["slow_share"] == pytest.approx(share, abs=1 / int(steps.sum()))  # to within one decision
    assert len(info["candidates"]) == 1  # cost is measured by no error
    found = candidates(run.checkpoints, run.validations, run.config, run.step)
    assert [each.name for each in found] == ["average of the last 2 checkpoints"]


def test_it_starts_as_the_model_without_an_arbitrator(depth):
    source, target = (build_model(config, TOKENIZER.vocab_size).eval() for config in (DEPTHS, arbitrated()))
    report = warm_start(target, source.state_dict(), "depth")
    own = {name for name in target.state_dict() if name.startswith("encoder.arbitrator.")}
    assert set(report.fresh) == own and len(own) == 8
    assert set(report.mapped) == set(source.state_dict()) and not report.converted
    features, lengths = torch.randn(2, 64, 4), torch.tensor([64, 40])
    with torch.no_grad():
        given = torch.zeros(2, 4, dtype=torch.int64)
        wanted, _ = source.encoder(features, lengths)
        assert torch.equal(target.encoder.encode_through(features, lengths, given), wanted)
    again = build_model(arbitrated(), TOKENIZER.vocab_size)
    assert not warm_start(again, target.state_dict(), "depth_avg").fresh
    sees = build_model(arbitrated(use_backlog=True), TOKENIZER.vocab_size).eval()
    assert warm_start(sees, target.state_dict(), "depth_avg").fresh == ["encoder.arbitrator.backlog"]
    with pytest.raises(UserError, match="encoder.arbitrator.backlog is not part of the new model"):
        warm_start(target, sees.state_dict(), "depth_backlog")  # what an arbitrator has learned is not thrown away
    flops = flops_per_frame(sees)
    costs = [25 / MU * (each + flops["arbitrator"] + flops["output"]) for each in flops["branches"]]
    torch.testing.assert_close(sees.encoder.load, torch.tensor(costs))
    with torch.no_grad():
        logits = (each.encoder.arbitrate(features, lengths) for each in (sees, target))
        torch.testing.assert_close(*logits)
