"""Keys that mean something only with certain values of others: dropped when inherited, else refused."""

from __future__ import annotations

import pytest
import yaml

from residualformer.config.loading import (
    KEYS,
    complete,
    config_from_dict,
    config_to_dict,
    dump_config,
    flat,
    load_config,
    load_recorded,
)
from residualformer.config.schema import Config
from residualformer.errors import UserError

LSTM = ["encoder.kind=lstm"]
SPARSE = [*LSTM, "amnet.method=sparse", "amnet.compression=[0.1]"]
BRANCHES = [*LSTM, "amnet.method=sparse", "amnet.compression=[0.1, 0.5]"]
FACTORISED = [*LSTM, "amnet.method=factorised", "amnet.compression=[0.1]"]
EXACT, GREEDY = ["loss.kind=exact"], ["decode.kind=greedy"]
DEPTHS = ["encoder.sharing=3", "encoder.depth.loops=[3, 1]"]
ARBITRATED = [*DEPTHS, "encoder.depth.arbitrator=true"]

# A choice, and a key that means nothing with it.
MEANINGLESS = [
    *[(LSTM, f"encoder.{pair}") for pair in (
        "num_heads=4", "ffn_dim=8", "conv_channels=8", "frame_ms=80", "chunk_ms=320", "left_context_ms=null",
        "look_ahead_ms=0", "sharing=3", "residual.rank=4", "residual.diagonal=true", "depth.loops=[2, 1]",
    )],
    (["encoder.sharing=3", "encoder.depth.loops=[3]"], "encoder.depth.arbitrator=true"),
    *[(ARBITRATED, f"amnet.{pair}") for pair in (
        "method=sparse", "compression=[0.1, 0.5]", "match=x", "prune_fraction=0.2", "block=4",
        "arbitrator.use_state=true", "arbitrator.use_decision=true", "arbitrator.delay=1", "arbitrator.teacher=x",
    )],
    *[(DEPTHS, f"amnet.{pair}") for pair in (
        "tau_end=0.1", "controls=[slow]", "cost.kind=avg", "cost.mu=1e6", "arbitrator.hidden_dim=8",
    )],
    (LSTM, "train.optimizer.residual_factor=2"),
    ([], "encoder.stack_frames=4"),
    *[([], f"data.{pair}") for pair in (
        "concat_most=3", "pause.longest_s=2", "pause.long_probability=0.1", "pause.very_long_s=9",
        "variation.clip=true",
    )],
    ([], "amnet.method=sparse"),
    ([], "amnet.cost.mu=1e6"),
    ([], "predictor.context_size=3"),
    (["predictor.kind=stateless"], "predictor.num_layers=1"),
    (["joiner.kind=additive", "loss.kind=simple"], "joiner.dim=8"),
    *[(EXACT, f"loss.{pair}") for pair in ("prune_range=4", "simple_scale=1", "lm_scale=0.1", "am_scale=0.1")],
    ([], "loss.ctc_target=transcript"),
    ([], "train.optimizer.muon_lr=1"),
    ([], "train.optimizer.hold_fraction=0.2"),
    *[([], f"train.distill.{pair}") for pair in ("weight=2", "temperature=2")],
    *[(GREEDY, f"decode.{pair}") for pair in ("beam=4", "nbest=1", "length_norm=true", "greedy_sets=[test]")],
    (GREEDY, "decode.lm=a.arpa"),
    *[([], f"decode.{pair}") for pair in ("lm_weight=0.5", "ilm_weight=0.1")],
    *[([], f"lm.{pair}") for pair in ("text=[a.txt]", "transcripts=false")],
    *[(["lm.kind=lstm"], f"lm.{pair}") for pair in ("unit=word", "order=4", "min_count=2")],
    *[(["lm.kind=ngram"], f"lm.{pair}") for pair in (
        "embedding_dim=8", "hidden_dim=8", "num_layers=2", "dropout=0.1", "lr=0.1", "max_epochs=2", "batch_tokens=9",
    )],
    (LSTM, "amnet.compression=[0.1]"),
    (LSTM, "amnet.match=x"),
    (SPARSE, "amnet.controls=[slow]"),
    *[(FACTORISED, f"amnet.{pair}") for pair in ("block=4", "prune_fraction=0.2", "prune_every_steps=10")],
    ([*BRANCHES, "amnet.prune_fraction=0", "warm_start=x"], "amnet.prune_every_steps=10"),
    *[(SPARSE, f"amnet.{pair}") for pair in ("tau_start=2", "tau_end=0.1", "noise_start=2", "noise_end=0",
      "straight_through=true", "alone_share=0.2")],
    *[(SPARSE, f"amnet.arbitrator.{pair}") for pair in (
        "hidden_dim=8", "num_layers=1", "use_state=true", "use_decision=true", "delay=1", "pretrain_steps=9",
    )],
    (BRANCHES, "amnet.arbitrator.use_backlog=true"),
    (SPARSE, "amnet.cost.kind=avg"),
    (SPARSE, "train.optimizer.arbitrator_factor=2"),
    (BRANCHES, "amnet.arbitrator.teacher=x"),
    (BRANCHES, "amnet.arbitrator.entropy_threshold=1"),
    *[(BRANCHES, f"amnet.cost.{pair}") for pair in ("weight=1", "slow_share=0.5", "match=x")],
    *[([*BRANCHES, "amnet.cost.kind=amr", "amnet.cost.weight=1"], f"amnet.cost.{pair}") for pair in
      ("slow_share=0.5", "match=x")],
    (["data.specaugment.num_time_masks=0"], "data.specaugment.max_time_fraction=0.2"),
    (["data.specaugment.num_freq_masks=0"], "data.specaugment.max_freq_bins=4"),
    ([], "data.variation.noise_snr_db=[1, 2]"),
    *[([], f"data.waveform.{pair}") for pair in (
        "room_rt60_s=[0.1, 0.2]", "noise=[musan]", "noise_snr_db=[1, 2]", "level_db=[-6, 6]",
    )],
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Write a YAML file of `a.b=c` pairs, return its path."""

    def _write(name, *pairs, base=None):
        content = {"base": base} if base else {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            *sections, last = key.split(".")
            inner = content
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = float(value) if value == "1e6" else yaml.safe_load(value)
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return _write


def test_every_condition_of_the_schema_is_tried():
    tried = {pair.partition("=")[0] for _, pair in MEANINGLESS}
    assert {name for name, key in KEYS.items() if key.only} == tried


@pytest.mark.parametrize(("choice", "pair"), MEANINGLESS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_without_a_meaning_is_refused_with_its_source(write, choice, pair):
    key = pair.partition("=")[0]
    path = write("a.yaml", *choice, pair)
    with pytest.raises(UserError, match=rf"a\.yaml: {key} is .* has no effect with .*; leave it out, or take"):
        load_config(path)
    base = write("b.yaml", *choice)
    with pytest.raises(UserError, match=rf"--set {key}=.*: {key} is .* has no effect with"):
        load_config(base, [pair])


@pytest.mark.parametrize(
    ("choice", "dropped", "other_choice"),
    [
        ([], ["encoder.sharing=3", "encoder.chunk_ms=320", "encoder.residual.rank=4"], LSTM),
        (
            LSTM,
            [*SPARSE[1:-1], "amnet.compression=[0.1, 0.5]", "amnet.tau_end=0.1", "amnet.cost.kind=amr"]
            + ["amnet.cost.weight=2"],
            ["encoder.kind=transformer"],
        ),
        (BRANCHES, ["amnet.arbitrator.delay=1"], ["amnet.compression=[0.1]"]),
        (ARBITRATED, ["amnet.tau_end=0.1", "amnet.cost.mu=1e6"], ["encoder.depth.arbitrator=false"]),
        (ARBITRATED, ["amnet.tau_end=0.1", "encoder.depth.arbitrator=true"], ["encoder.depth.loops=[]"]),
        ([], ["predictor.num_layers=1"], ["predictor.kind=stateless"]),
        ([], ["loss.prune_range=9"], EXACT),
        (["train.optimizer.kind=muon"], ["train.optimizer.muon_lr=0.5"], ["train.optimizer.kind=adamw"]),
        (["train.optimizer.schedule=hold"], ["train.optimizer.hold_fraction=0.1"], ["train.optimizer.schedule=linear"]),
        ([], ["decode.beam=4", "decode.length_norm=true"], GREEDY),
    ],
)
def test_an_inherited_key_is_dropped_by_a_later_choice(write, choice, dropped, other_choice):
    base, defaults = write("base.yaml", *choice, *dropped), flat(Config())
    load_config(base)
    for config in (load_config(write("a.yaml", *other_choice, base="base.yaml")), load_config(base, other_choice)):
        for key in (pair.partition("=")[0] for pair in dropped):
            assert flat(config)[key] == defaults[key], key


def test_what_was_dropped_does_not_come_back(write):
    write("avg.yaml", *BRANCHES, "amnet.cost.kind=avg", "amnet.cost.weight=1", "amnet.cost.slow_share=0.5")
    write("amr.yaml", "amnet.cost.kind=amr", base="avg.yaml")
    cost = load_config(write("biased.yaml", "amnet.cost.kind=avg", "amnet.cost.match=x", base="amr.yaml")).amnet.cost
    assert cost.match == "x" and cost.slow_share is None and cost.weight == 1


def test_a_key_may_be_given_before_the_choice_that_gives_it_a_meaning(write):
    write("base.yaml", "train.optimizer.hold_fraction=0.1")
    path = write("a.yaml", "train.optimizer.schedule=hold", base="base.yaml")
    assert load_config(path).train.optimizer.hold_fraction == 0.1


def test_a_wrong_choice_is_the_only_mistake_that_is_told(write):
    with pytest.raises(UserError) as error:
        load_config(write("a.yaml", "encoder.kind=lstmm", "encoder.stack_frames=4"))
    assert str(error.value).endswith("encoder.kind is 'lstmm'; allowed: one of transformer, lstm, gru.")


def test_one_override_serves_several_experiments(write):
    assert load_config(write("a.yaml"), ["decode.beam=4"]).decode.beam == 4
    config = load_config(write("b.yaml", "decode.greedy_sets=[long]"), ["decode.beam=4"])
    assert config.decode.greedy_sets == ["long"] and config.decode.beam == 4


def test_the_former_name_of_a_key_is_refused_with_its_new_one_and_known_in_records(write, tmp_path):
    with pytest.raises(UserError, match=r"no key encoder.look_back_ms. Did you mean 'encoder.left_context_ms'\?"):
        load_config(write("a.yaml", "encoder.look_back_ms=80"))
    recorded = config_to_dict(Config())
    del recorded["encoder"]["left_context_ms"]
    recorded["encoder"]["look_back_ms"] = 80
    assert config_from_dict(recorded).encoder.left_context_ms == 80
    assert complete({"encoder.look_back_ms": 80})["encoder.left_context_ms"] == 80


def test_records_with_all_keys_load_and_lose_what_means_nothing(write, tmp_path):
    recorded = config_to_dict(load_config(write("a.yaml", *LSTM)))
    recorded["encoder"]["sharing"], recorded["amnet"]["tau_end"] = 3, 0.1
    recorded["encoder"]["dim"] = 64
    config = config_from_dict(recorded, "model.safetensors")
    assert (config.encoder.sharing, config.amnet.tau_end, config.encoder.dim) == (1, 0.5, 64)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(recorded))
    assert load_recorded(file) == config
    dump_config(config, file)
    assert load_config(file) == config and "sharing" not in file.read_text()
    values = complete({f"encoder.{key}": value for key, value in recorded["encoder"].items() if key != "residual"})
    assert values["encoder.sharing"] == 1 and values["encoder.dim"] == 64 and values["data.max_batch_s"] == 50


def test_overrides_of_a_record_are_as_strict_as_those_of_a_file():
    recorded = config_to_dict(Config())
    assert config_from_dict(recorded, "m", ["decode.kind=greedy"]).decode.kind == "greedy"
    with pytest.raises(UserError, match=r"--set decode.beam=4: decode.beam is 4, which has no effect with"):
        config_from_dict(recorded, "m", ["decode.kind=greedy", "decode.beam=4"])
