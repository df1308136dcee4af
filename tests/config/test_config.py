"""Reading configurations: precedence, types, ranges, and that every mistake is told, with its place and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from residualformer.config.composition import config_chain
from residualformer.config.loading import (
    KEYS,
    config_from_dict,
    config_to_dict,
    dump_config,
    flat,
    load_config,
)
from residualformer.config.schema import Config
from residualformer.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Write a YAML file, give its path."""

    def _write(text: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def mistakes(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value)


def test_an_empty_file_is_the_defaults(write):
    assert load_config(write("# nothing differs\n")) == Config()


def test_the_nearer_source_wins(write):
    write("encoder: {dim: 64, ffn_dim: 96, num_heads: 2, num_layers: 5}", "bases/far.yaml")
    write("base: far.yaml\nencoder: {ffn_dim: 128, num_layers: 6}", "bases/near.yaml")
    path = write("base: bases/near.yaml\nencoder: {num_layers: 7}")
    config = load_config(path, ["encoder.num_heads=4", "joiner.dim=9"])
    encoder = config.encoder
    assert (encoder.dim, encoder.ffn_dim, encoder.num_layers, encoder.num_heads) == (64, 128, 7, 4)
    assert encoder.dropout == Config().encoder.dropout and config.joiner.dim == 9


def test_the_later_override_wins(write):
    assert load_config(write(""), ["joiner.dim=9", "joiner.dim=10"]).joiner.dim == 10


def test_a_file_of_values_comes_over_the_base_and_under_what_the_experiment_says(write):
    values = write("joiner: {dim: 7}\nencoder: {num_layers: 4, sharing: 2, num_heads: 2}", "values.yaml")
    base = write("encoder: {num_layers: 3, dim: 64}\njoiner: {dim: 5}", "base.yaml")
    assert load_config(base, [f"@{values}"]).joiner.dim == 7
    experiment = write("base: base.yaml\nencoder: {num_layers: 6, sharing: 3}")
    for overrides in ([f"@{values}", "encoder.num_heads=4"], ["encoder.num_heads=4", f"@{values}"]):
        config = load_config(experiment, overrides)
        encoder = config.encoder
        assert (encoder.num_layers, encoder.sharing, encoder.dim) == (6, 3, 64)
        assert (config.joiner.dim, encoder.num_heads) == (7, 4)
    write("joiner: {size: 7}", "values.yaml")
    with pytest.raises(UserError, match="values.yaml: there is no key joiner.size"):
        load_config(experiment, [f"@{values}"])
    with pytest.raises(UserError, match="nothing.yaml is not a file"):
        load_config(experiment, ["@nothing.yaml"])


def test_a_list_replaces_a_list(write):
    write("data: {speeds: [0.8, 1.0, 1.2]}", "base.yaml")
    assert load_config(write("base: base.yaml\ndata: {speeds: [1]}")).data.speeds == [1.0]


def test_overrides_are_yaml(write):
    config = load_config(
        write("encoder: {num_layers: 3}"),
        ["encoder.sharing=[0, 1, 1]", "encoder.left_context_ms=null", "encoder.residual={rank: 4}"],
    )
    assert config.encoder.sharing == [0, 1, 1] and config.encoder.left_context_ms is None
    assert config.encoder.residual.rank == 4


def test_numbers(write):
    config = load_config(
        write("{encoder: {kind: lstm}, train: {optimizer: {lr: 1e-3, clip_norm: 5}}, amnet: {cost: {mu: 31.8e6}}}")
    )
    assert config.train.optimizer.lr == 0.001 and config.amnet.cost.mu == 31_800_000
    assert type(config.train.optimizer.clip_norm) is float


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("encoder: {num_layers: true}", "encoder.num_layers is True; it must be a whole number"),
        ("encoder: {num_layers: 3.0}", "encoder.num_layers is 3.0; it must be a whole number"),
        ("encoder: {residual: {diagonal: 1}}", "encoder.residual.diagonal is 1; it must be true or false"),
        ("encoder: {dropout: high}", "encoder.dropout is 'high'; it must be a number"),
        ("encoder: {left_context_ms: x}", "encoder.left_context_ms is 'x'; it must be a whole number or null"),
        ("encoder: {sharing: [0, a]}", "it must be a whole number or a list, each item a whole number"),
        ("train: {optimizer: {lr: .inf}}", "train.optimizer.lr is inf; it must be a number"),
        ("data: {speeds: 1.0}", "data.speeds is 1.0; it must be a list, each item a number"),
        ("warm_start: 3", "warm_start is 3; it must be text or null"),
        ("encoder: 3", "encoder is 3; it is a section with the keys kind, num_layers, dim"),
        ("loss:", "loss is None; it is a section"),
    ],
)
def test_wrong_types(write, text, words):
    assert words in mistakes(write(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("encoder: {dim: 100, num_heads: 8}", "encoder.dim is 100, which encoder.num_heads = 8 does not divide"),
        ("encoder: {dim: 180, num_heads: 4}", "encoder.dim is 180, which gives each of encoder.num_heads = 4 an odd"),
        ("encoder: {num_heads: 0}", "encoder.num_heads is 0; allowed: more than 0"),
        ("encoder: {dropout: 1}", "encoder.dropout is 1; allowed: 0 or more and less than 1"),
        ("encoder: {num_layers: 4, sharing: 5}", "encoder.sharing is 5; allowed: K from 1 to encoder.num_layers = 4"),
        ("encoder: {num_layers: 4, sharing: [0, 1]}", "encoder.sharing lists 2 layers, but encoder.num_layers is 4"),
        ("encoder: {num_layers: 3, sharing: [1, 0, 1]}", "number its groups 0, 1, 2, ... in the order"),
        ("encoder: {num_layers: 3, sharing: [0, 2, 2]}", "number its groups 0, 1, 2, ... in the order"),
        ("encoder: {num_layers: 5, sharing: 3, depth: {loops: [2, 1]}}", "encoder.sharing = 3 give 3, the layers of"),
        ("encoder: {num_layers: 3, sharing: [0, 1, 0], depth: {loops: [2, 2]}}", "encoder.depth.loops is [2, 2]; with"),
        ("encoder: {sharing: 6, depth: {loops: [6, 0]}}", "encoder.depth.loops is [6, 0]; allowed: numbers"),
        ("encoder: {residual: {rank: 513}}", "encoder.residual.rank is 513; allowed: at most 512"),
        ("encoder: {residual: {rank: -1}}", "encoder.residual.rank is -1; allowed: 0 or more"),
        ("loss: {lm_scale: 0.5, am_scale: 0.5}", "it must stay below 1"),
        ("decode: {kind: beem}", "decode.kind is 'beem'; allowed: one of greedy, beam"),
        ("data: {speeds: []}", "data.speeds is []; allowed: one factor above 0 or several"),
        (
            "data: {shar: [a, b], weights: [1]}",
            "data.weights lists 1, but data.shar 2; give one weight for each",
        ),
        ("data: {weights: [1.0]}", "data.weights lists 1, but data.shar 0; give one weight for each folder"),
        (
            "data: {shar: [a], weights: [0]}",
            "data.weights is [0]; allowed: for each folder of data.shar a",
        ),
        ("data: {min_utterance_s: 40}", "it must be less than data.max_utterance_s = 30.0"),
        ("train: {optimizer: {betas: [0.9]}}", "allowed: two numbers from 0 to below 1"),
        ("data: {variation: {noise_snr_db: [30, 5]}}", "data.variation.noise_snr_db is [30, 5]; allowed: [lowest,"),
        (
            "data: {waveform: {noise_probability: 0.5, noise: [a], noise_snr_db: [-200, 5]}}",
            "data.waveform.noise_snr_db is [-200, 5]; allowed: [lowest, highest], from -100 to 100",
        ),
        (
            "data: {waveform: {room_probability: 0.5, room_rt60_s: [0, 1]}}",
            "data.waveform.room_rt60_s is [0, 1]; allowed: [shortest, longest], above 0 and up to 5",
        ),
        (
            "data: {waveform: {noise_probability: 0.5}}",
            "data.waveform.noise is empty, while data.waveform.noise_probability is 0.5; name folders of noise",
        ),
        ("features: {num_mel_bins: 10}", "data.specaugment.max_freq_bins is 20; allowed: at most"),
        ("warm_start: exp/shared", "allowed: the name of an experiment, not a path"),
    ],
)
def test_values_out_of_range(write, text, words):
    assert words in mistakes(write(text))


TWO = "encoder: {kind: lstm}, amnet: {method: sparse, compression: [0.15, 0.8]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("amnet: {method: sparse, compression: [1.0]}", "amnet.compression is [1.0]; allowed: numbers from 0 to below"),
        ("amnet: {compression: [-0.1]}", "amnet.compression is [-0.1]; allowed: numbers from 0 to below 1"),
        ("amnet: {tau_end: 0}", "amnet.tau_end is 0; allowed: more than 0"),
        ("amnet: {tau_start: -1}", "amnet.tau_start is -1; allowed: more than 0"),
        ("amnet: {cost: {mu: 0}}", "amnet.cost.mu is 0; allowed: more than 0"),
        (
            "amnet: {method: sparse, compression: [0.1]}",
            "which has no effect with encoder.kind = transformer; leave it out, or take encoder.kind = lstm",
        ),
        ("encoder: {kind: lstm, sharing: 2}", "encoder.sharing is 2, which has no effect with encoder.kind = lstm"),
        (
            "encoder: {kind: gru, residual: {rank: 2}}",
            "encoder.residual.rank is 2, which has no effect with encoder.kind = gru",
        ),
        (
            "encoder: {kind: gru, residual: {diagonal: true}}",
            "encoder.residual.diagonal is True, which has no effect with encoder.kind",
        ),
        (
            "encoder: {kind: lstm}, amnet: {method: sparse, compression: [0.1]}, train: {optimizer: {kind: muon}}",
            "train.optimizer.kind is 'muon', which would move masked weights",
        ),
        ("loss: {kind: simple}", "loss.kind is 'simple', which is the loss of joiner.kind = additive alone"),
        ("amnet: {compression: [0.1]}", "amnet.compression is [0.1], which has no effect with amnet.method = none"),
        ("encoder: {kind: lstm}, amnet: {method: sparse}", "amnet.compression is empty; with amnet.method = sparse"),
        ("encoder: {kind: lstm}, amnet: {method: factorised, compression: [0.6, 0.35]}", "the slow branch comes first"),
        (
            "encoder: {kind: lstm}, amnet: {method: factorised, compression: [0.3], block: 4}",
            "amnet.block is 4, which has no effect with amnet.method = factorised",
        ),
        (
            TWO + ", match: mf_avg}",
            "amnet.match is mf_avg, to whose cost one branch is compressed, but amnet.compression",
        ),
        ("amnet: {match: mf_avg}", "amnet.match is 'mf_avg', which has no effect with amnet.method = none"),
        ("encoder: {kind: lstm}, amnet: {controls: [slow]}", "amnet.controls is ['slow'], which has no effect with"),
        (TWO + ", controls: [chance]}", "amnet.controls is ['chance']; allowed: slow, fast, random, loud, oracle"),
        (TWO + ", prune_fraction: 0}", "amnet.prune_fraction is 0, so that nothing is pruned; give more"),
        (TWO + "}, train: {max_steps: 200}", "amnet.prune_every_steps is 100; allowed: at most the 60 steps of"),
        (TWO + ", prune_fraction: 1}", "amnet.prune_fraction is 1; allowed: 0 or more and less than 1"),
        (TWO + ", tau_start: 0.4}", "amnet.tau_end is 0.5; allowed: at most amnet.tau_start = 0.4"),
        (TWO + ", arbitrator: {pretrain_steps: 9}}", "amnet.arbitrator.teacher is missing, while"),
        (TWO + ", arbitrator: {teacher: x, pretrain_steps: 400000}}", "allowed: at most train.max_steps = 350000"),
        (
            "amnet: {arbitrator: {delay: 1}}",
            "amnet.arbitrator.delay is 1, which has no effect with amnet.compression = []",
        ),
        (
            "amnet: {arbitrator: {teacher: x}}",
            "amnet.arbitrator.teacher is 'x', which has no effect with amnet.compression = []",
        ),
        (
            "amnet: {cost: {kind: avg, weight: 1}}",
            "amnet.cost.kind is 'avg', which has no effect with amnet.compression = []",
        ),
        (TWO + ", cost: {weight: 2}}", "amnet.cost.weight is 2.0, which has no effect with amnet.cost.kind = none"),
        (TWO + ", cost: {kind: amr}}", "amnet.cost.weight is 0, so that amnet.cost.kind = amr does nothing"),
        (
            TWO + ", cost: {kind: amr, weight: 1, match: x}}",
            "match is 'x', which has no effect with amnet.cost.kind = amr",
        ),
        (TWO + ", cost: {kind: avg, weight: 1, slow_share: 1.5}}", "slow_share is 1.5; allowed: between 0 and 1"),
        (
            TWO + ", cost: {kind: amr, weight: 1, slow_share: 0.5}}",
            "slow_share is 0.5, which has no effect with amnet.cost.kind = amr",
        ),
        (TWO + ", cost: {kind: avg, weight: 1, slow_share: 0.5, match: x}}", "sets the share to reach; take one"),
        ("amnet: {cost: {match: x}}", "match is 'x', which has no effect with amnet.cost.kind = none"),
    ],
)
def test_branches_that_cannot_be(write, text, words):
    assert words in mistakes(write("{" + text + "}"))


def test_branches_that_can_be(write):
    teacher = "{teacher: x, pretrain_steps: 10, use_state: true, use_decision: true, delay: 1}"
    cost = "{kind: avg, weight: 1, match: y}"
    config = load_config(write("{" + TWO + f", arbitrator: {teacher}, cost: {cost}, block: 4}}}}"))
    assert config.amnet.compression == [0.15, 0.8] and config.amnet.cost.match == "y"
    config = load_config(write("{encoder: {kind: lstm}, joiner: {kind: additive}, loss: {kind: simple}}"))
    assert config.amnet.method == "none"


def test_the_last_valid_values_are_allowed(write):
    text = "encoder: {dim: 32, ffn_dim: 48, num_heads: 16, num_layers: 3, sharing: 3, residual: {rank: 32}}"
    assert load_config(write(text)).encoder.residual.rank == 32
    assert load_config(write("encoder: {num_layers: 3, sharing: [0, 1, 0]}")).encoder.sharing == [0, 1, 0]


def test_unknown_keys_get_the_closest_name(write):
    text = mistakes(write("encoder: {num_layer: 3}\nencodr: {}"), "sharing=3", "train.steps=4")
    assert "there is no key encoder.num_layer. Did you mean 'num_layers'?" in text
    assert "there is no key encodr. Did you mean 'encoder'?" in text
    assert "there is no key sharing. Did you mean 'encoder.sharing'?" in text
    assert "there is no key train.steps. Did you mean 'max_steps'?" in text


def test_all_problems_at_once_each_with_its_place(write):
    base = write("decode: {beam: 0}", "base.yaml")
    path = write("base: base.yaml\nencoder: {dropout: 2, dims: 4}")
    text = mistakes(path, "train.seed=x", "joiner", "encoder.residual.rank=600")
    lines = text.splitlines()
    assert lines[0].startswith("6 mistakes") and len(lines) == 7
    for start in (
        f"{base}: decode.beam",
        f"{path}: encoder.dropout",
        f"{path}: there is no key encoder.dims",
        "--set train.seed=x: train.seed",
        "--set joiner: give a key and a value",
        "--set encoder.residual.rank=600: encoder.residual.rank",
    ):
        assert sum(line.strip().startswith(start) for line in lines) == 1, start


def test_one_mistake_is_one_line(write):
    assert "\n" not in mistakes(write("encoder: {dim: -1}"))


def test_base_chains_are_followed_and_cycles_refused(write):
    a = write("base: b.yaml", "a.yaml")
    write("base: c.yaml", "b.yaml")
    c = write("joiner: {dim: 7}", "c.yaml")
    assert [path.name for path, _ in config_chain(a)] == ["c.yaml", "b.yaml", "a.yaml"]
    c.write_text("base: a.yaml")
    assert "a configuration cannot be its own base" in mistakes(a)


def test_files_that_cannot_be_read(write, tmp_path):
    write("", "baseline.yaml")
    assert "is not a file. Did you mean 'baseline.yaml'?" in mistakes(tmp_path / "base_line.yaml")
    assert "experiment.yaml: its base" in mistakes(write("base: missing.yaml"))
    assert "is not valid YAML" in mistakes(write("encoder: [1"))
    assert "the key 'dim' is given twice" in mistakes(write("encoder:\n  dim: 1\n  dim: 2\n"))
    assert "made of lines 'key: value'" in mistakes(write("- 1"))
    assert "base is 3" in mistakes(write("base: 3"))


def test_round_trips(write, tmp_path):
    config = load_config(write("encoder: {num_layers: 3, sharing: [0, 0, 1]}\ndescription: 中文, 1e-3"))
    dump_config(config, tmp_path / "dumped.yaml")
    assert load_config(tmp_path / "dumped.yaml") == config
    assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(UserError, match="model.safetensors: there is no key colour"):
        config_from_dict(config_to_dict(config) | {"colour": "red"}, source="model.safetensors")


def test_every_key_says_what_it_means_and_its_default_is_allowed():
    assert list(KEYS) == list(flat(Config()))
    assert [key.name for key in KEYS.values() if not key.doc] == []
    assert config_from_dict(config_to_dict(Config())) == Config()
