"""Parameters against the papers' (recomputed from their dimensions; they print 0.1M); FLOPs against torch's counter."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from residualformer.compress.prune import magnitude_mask
from residualformer.config.amnet import AmNetConfig, ArbitratorConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.loading import load_config
from residualformer.config.schema import (
    Config,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    LossConfig,
    PredictorConfig,
    ResidualConfig,
    TokenConfig,
)
from residualformer.errors import UserError
from residualformer.model.cost import (
    compressed_to,
    count_parameters,
    describe,
    flops_per_frame,
    parameter_table,
    planned_flops,
)
from residualformer.model.depth import config_at
from residualformer.nn.transducer import build_model

ASR, ST = "conf/paper_asr.yaml", "conf/paper_st.yaml"
LAST_UNIQUE = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 6]
FOUR_SETS = [0] * 5 + [1] * 4 + [2] * 5 + [3] * 4


def count(sharing=1, rank=0, num_layers=18):
    config = load_config(ASR)
    residual = ResidualConfig(rank, rank > 0)
    encoder = dataclasses.replace(config.encoder, sharing=sharing, residual=residual, num_layers=num_layers)
    return count_parameters(dataclasses.replace(config, encoder=encoder))


@pytest.mark.parametrize(
    "sharing, rank, layers, millions",
    [
        (1, 0, 18, 56.706), (3, 0, 18, 18.902), (6, 0, 18, 9.451), (9, 0, 18, 6.301), (18, 0, 18, 3.150),
        (3, 16, 18, 21.612), (6, 16, 18, 12.161), (9, 16, 18, 9.010), (18, 16, 18, 5.860),
        (3, 8, 18, 20.284), (3, 4, 18, 19.621), (3, 2, 18, 19.289), (3, 1, 18, 19.123),
        (9, 8, 18, 7.683), (9, 4, 18, 7.020), (9, 2, 18, 6.688), (9, 1, 18, 6.522),
        (LAST_UNIQUE, 0, 18, 22.052), (FOUR_SETS, 0, 18, 12.601),
        (1, 0, 6, 18.902), (1, 0, 3, 9.451), (1, 0, 2, 6.301), (1, 0, 1, 3.150),
    ],
)  # fmt: skip
def test_transformer_column(sharing, rank, layers, millions):
    assert round(count(sharing, rank, layers)["transformer"] / 1e6, 3) == millions


@pytest.mark.parametrize("rank, millions", [(16, 2.710), (8, 1.382), (4, 0.719), (2, 0.387), (1, 0.221)])
def test_residual_column(rank, millions):
    assert round(count(3, rank)["residual"] / 1e6, 3) == millions


@pytest.mark.parametrize("file, millions", [(ASR, 77.989), (ST, 83.909)])
def test_whole_model(file, millions):
    assert round(count_parameters(load_config(file))["total"] / 1e6, 3) == millions


@pytest.mark.parametrize(
    "file, millions", [("shared", 18.902), ("residual", 21.612), ("last_unique", 22.052), ("four_sets", 12.601)]
)
def test_paper_experiments(file, millions):
    assert round(count_parameters(load_config(f"conf/paper/{file}.yaml"))["transformer"] / 1e6, 3) == millions


def test_parts():
    parts = count()
    assert parts["subsampling"] == 3_214_592
    assert parts["layer_norm"] == 18 * 2048
    assert parts["predictor"] == 4002 * 320 + 13_910_016
    assert parts["joiner"] == 787_456 + 512 * 4002 + 4002


def paper_amnet(method="none", *compression, **encoder):
    """The AmNets paper's RNN-T: 5 x 1024 LSTM on 3 x 64 inputs, decoder 2 x 1024, 4097 word pieces."""
    return Config(
        features=FeatureConfig(num_mel_bins=64),
        tokens=TokenConfig(vocab_size=4097),
        encoder=EncoderConfig(**{"kind": "lstm", "num_layers": 5, "dim": 1024} | encoder),
        predictor=PredictorConfig(embedding_dim=480, hidden_dim=1024, num_layers=2),
        joiner=JoinerConfig(kind="additive"),
        loss=LossConfig(kind="simple"),
        amnet=AmNetConfig(method=method, compression=list(compression)),
    )


def small_amnet(method, *compression, kind="lstm"):
    config = paper_amnet(method, *compression, kind=kind, num_layers=2, dim=12)
    predictor = PredictorConfig(embedding_dim=4, hidden_dim=6, num_layers=1)
    arbitrator = ArbitratorConfig(hidden_dim=7, use_state=True, use_decision=True)
    amnet = dataclasses.replace(config.amnet, arbitrator=arbitrator)
    features, tokens = FeatureConfig(num_mel_bins=8), TokenConfig(vocab_size=9)
    return dataclasses.replace(config, features=features, tokens=tokens, predictor=predictor, amnet=amnet)


SMALL = [("none",), ("sparse", 0.15), ("sparse", 0.15, 0.8), ("factorised", 0.35), ("factorised", 0.35, 0.5, 0.6)]


def pruned(config):
    """The model of `config` with random weights, whose masks are as they are after training."""
    torch.manual_seed(0)
    model = build_model(config, config.tokens.vocab_size).eval()
    for layer in model.encoder.layers if config.amnet.method == "sparse" else ():
        for weights in (layer.input, layer.recurrent):
            for weight, compression in zip(weights, config.amnet.compression, strict=True):
                weight.mask.copy_(magnitude_mask(weight.W, compression))
    return model


def test_the_amnets_papers_baseline():
    table = count_parameters(paper_amnet())
    assert table["encoder"] == 38_555_648 + 1024 * 4097 + 4097 == 42_755_073  # 42.7M in the paper
    assert (table["arbitrator"], table["pruned"], table["training_only"]) == (0, 0, 0)
    assert round(table["total"] / 1e6, 2) == 63.48  # 63.5M in the paper
    flops = planned_flops(paper_amnet())
    assert flops["output"] + sum(flops["branches"]) == table["encoder"] - 5 * 4096 - 4097  # all but the biases


@pytest.mark.parametrize(
    "row, millions, flops",
    [
        ("rnnt", 42.755, [42.730]), ("sparse", 36.975, [36.950]), ("mf", 29.245, [29.220]),
        ("sparse_avg", 44.999, [37.245, 12.198]), ("mf_avg", 29.541, [29.515, 19.872]),
    ],
)  # fmt: skip
def test_the_rows_of_table_1(row, millions, flops):
    """Stack, projection and arbitrator by hand: (1 - c) of 38.535M, of 4.195M all, 0.295M; plus 0.026M biases."""
    config = load_config(f"conf/librispeech_amnet/{row}.yaml")
    cost = planned_flops(config)
    assert round(count_parameters(config)["encoder"] / 1e6, 3) == millions
    assert [round((cost["arbitrator"] + cost["output"] + each) / 1e6, 3) for each in cost["branches"]] == flops


@pytest.mark.parametrize("method", ["sparse", "factorised"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_branch_is_compressed_to_a_cost(method, share):
    config = paper_amnet(method, 0.35)
    dense = planned_flops(paper_amnet())["branches"][0]
    (found,) = planned_flops(compressed_to(config, (1 - 0.9 * share) * dense))["branches"]
    ranks = 4096 + 192 + 9 * (4096 + 1024) if method == "factorised" else 0  # one of each of the ten matrices
    assert (1 - 0.9 * share) * dense - ranks - 40 <= found <= (1 - 0.9 * share) * dense + 40  # c has six digits
    for wrong, flops in ((paper_amnet(), dense / 2), (config, 1.01 * dense), (config, 0.0)):
        with pytest.raises(UserError, match="cannot be reached by compression"):
            compressed_to(wrong, flops)


@pytest.mark.parametrize("method, slow, fast", [("sparse", 0.15, 0.8), ("factorised", 0.35, 0.6)])
def test_the_papers_arbitrator_is_a_small_part(method, slow, fast):
    table, alone = count_parameters(paper_amnet(method, slow, fast)), count_parameters(paper_amnet(method, slow))
    assert round(table["arbitrator"] / 1e6, 3) == 0.296 and table["arbitrator"] < 0.025 * table["encoder"]
    if method == "factorised":  # the branches share their factors, so that only the arbitrator is new
        assert table["encoder"] == alone["encoder"] + table["arbitrator"]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("amnet", SMALL, ids=str)
def test_a_trained_model_costs_what_its_configuration_plans(amnet, kind):
    config = small_amnet(*amnet, kind=kind)
    model = pruned(config)
    table = parameter_table(model)
    assert table == count_parameters(config) and flops_per_frame(model) == planned_flops(config)
    encoder = [*model.encoder.parameters(), *model.joiner.project_encoder.parameters()]
    assert table["encoder"] + table["pruned"] == sum(parameter.numel() for parameter in encoder)
    assert table["total"] == table["encoder"] + table["predictor"] + table["joiner"]
    assert describe(config) == table | {"flops_per_frame": flops_per_frame(model)}


@pytest.mark.filterwarnings("ignore:TF32")  # of the switch for mkldnn
@pytest.mark.parametrize("amnet", [("none",), ("factorised", 0.35), ("factorised", 0.35, 0.5, 0.6)], ids=str)
def test_a_step_multiplies_as_often_as_is_counted(amnet):
    """torch's own counter, which tells two FLOPs per multiply-accumulate and sees products of plain matrices."""
    config = small_amnet(*amnet)
    model = pruned(config)
    flops = flops_per_frame(model)
    features, state = torch.randn(1, 3, 8), model.encoder.init_state(1)
    # Without mkldnn, whose LSTM the counter cannot look into.
    with torch.backends.mkldnn.flags(enabled=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        frame, state = model.encoder.step(features, torch.tensor([3]), state)
        model.joiner.project_encoder(frame)
    expected = flops["arbitrator"] + flops["output"] + flops["branches"][int(state.branch)]
    assert counter.get_total_flops() == 2 * expected


def small_transformer(**encoder):
    """A Transformer with chunks of 2 frames, 3 of left context and 1 ahead, at three depths."""
    given = {"num_layers": 5, "dim": 16, "num_heads": 2, "ffn_dim": 24, "conv_channels": 3, "sharing": 3}
    given |= {"depth": DepthConfig([3, 2, 1])}
    parts = {"features": FeatureConfig(num_mel_bins=21), "joiner": JoinerConfig(dim=9), "loss": LossConfig("exact")}
    return dataclasses.replace(small_amnet("none"), encoder=EncoderConfig(**given | encoder), **parts)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("frame_ms", [40, 80])
def test_a_chunk_multiplies_as_often_as_is_counted_at_each_depth(rank, frame_ms):
    """torch's own counter; residuals so small that a step takes their factors one by one."""
    times = {"chunk_ms": 2 * frame_ms, "left_context_ms": 3 * frame_ms, "look_ahead_ms": frame_ms}
    config = small_transformer(residual=ResidualConfig(rank, rank > 0), frame_ms=frame_ms, **times)
    cost = planned_flops(config)
    assert cost["arbitrator"] == 0 and len(cost["branches"]) == 3
    for loops, branch in zip((3, 2, 1), cost["branches"], strict=True):
        model = build_model(config_at(config, loops), 9).eval()
        assert flops_per_frame(model)["branches"] == [branch]
        encoder = model.encoder
        # Attention by plain products, for the counter cannot look into the CPU's own kernel.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            size = encoder.window
            frames, _ = encoder.step(torch.randn(1, size, 21), torch.tensor([size]), encoder.init_state(1))
            model.joiner.project_encoder(frames)
        assert counter.get_total_flops() == 2 * encoder.chunk * (branch + cost["output"])


def test_a_chunk_multiplies_for_keys_and_values_of_layers_that_it_passes():
    config = small_transformer(chunk_ms=80, left_context_ms=120, look_ahead_ms=40)
    encoder = build_model(config, 9).eval().encoder
    for number, branch in enumerate(encoder.branch_flops(by_chunk=True)):
        features, size = torch.randn(1, encoder.window, 21), torch.tensor([encoder.window])
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder.step_through(features, size, encoder.init_state(1), torch.tensor([number]))
        assert counter.get_total_flops() == 2 * encoder.chunk * branch


def arbitrated_transformer():
    config = small_transformer(chunk_ms=80, left_context_ms=120, look_ahead_ms=40, depth=DepthConfig([3, 2, 1], True))
    return dataclasses.replace(config, amnet=AmNetConfig(arbitrator=ArbitratorConfig(5, 2)))


@pytest.mark.filterwarnings("ignore:TF32")  # of the switch for mkldnn
def test_an_arbitrator_of_depths_is_charged_once_a_chunk():
    config = arbitrated_transformer()
    model = build_model(config, 9).eval()
    encoder, seen = model.encoder, set()
    cost = planned_flops(config)
    assert cost == flops_per_frame(model) and cost["branches"] == encoder.branch_flops(by_chunk=True)
    # By hand: two layers of 4 gates, over two frames of 16 and then over 5; three depths.
    assert 2 * cost["arbitrator"] == 4 * 5 * (2 * 16 + 5) + 4 * 5 * (5 + 5) + 5 * 3
    for bias in (3 * torch.eye(3)).unbind():
        encoder.arbitrator.out.bias.data.copy_(bias)
        size = torch.tensor([encoder.window])
        with torch.backends.mkldnn.flags(enabled=False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as counter:
                frames, state = encoder.step(torch.randn(1, encoder.window, 21), size, encoder.init_state(1))
                model.joiner.project_encoder(frames)
        of_frame = cost["arbitrator"] + cost["output"] + cost["branches"][int(state.branch)]
        assert counter.get_total_flops() == 2 * encoder.chunk * of_frame
        seen.add(int(state.branch))
    assert seen == {0, 1, 2}


def test_an_arbitrator_of_depths_is_counted_apart():
    config = arbitrated_transformer()
    table, alone = count_parameters(config, 9), count_parameters(small_transformer(chunk_ms=80), 9)
    weights = 4 * 5 * (2 * 16 + 5 + 1) + 4 * 5 * (5 + 5 + 1) + 3 * (5 + 1)
    assert table["arbitrator"] == weights and table["total"] == alone["total"] + weights
    assert table["transformer"] == alone["transformer"] and "arbitrator" not in alone
