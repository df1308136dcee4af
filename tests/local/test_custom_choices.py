"""What is chosen for data of any amount and script can be trained, and grows with the amount."""

from __future__ import annotations

import re

import pytest
import yaml

from local.common.splits import LARGEST, hold_out
from local.custom_data.choices import FEWEST_STEPS, SIZES, as_yaml, choose, choose_tokens, passes
from residualformer.config.loading import load_config

ENGLISH = [" ".join(f"{a}{b}{c}" for c in "abcdefghij") for a in "klmnopqrst" for b in "aeiouklmnopqrstuvw"] * 6
HOURS = (0.01, 0.64, 1.0, 3.0, 5.1, 29.0, 60.0, 201.0, 5000.0)


@pytest.mark.parametrize("name", ["baseline", "shared", "residual", "control"])
@pytest.mark.parametrize("hours", HOURS)
def test_the_values_make_a_configuration_with_every_experiment(hours, name, root, tmp_path):
    path = tmp_path / "chosen.yaml"
    path.write_text(as_yaml(choose(hours, ENGLISH, "text", 30.0), hours, 10))
    config = load_config(root / "conf/custom" / f"{name}.yaml", [f"@{path}"])
    row = next(row for row in SIZES if hours <= row.hours)
    assert config.encoder.dim == row.dim and config.tokens.target == "text"
    train = config.train
    assert train.max_steps == pytest.approx(max(FEWEST_STEPS, hours * 3600 * passes(hours) / row.batch_s), rel=0.05)
    assert train.optimizer.warmup_steps < config.data.specaugment.start_step <= train.max_steps / 9
    assert train.average_last * train.save_every_steps <= train.max_steps / 5
    assert config.data.max_utterance_s * 0.9 >= 30.0
    assert path.read_text().startswith(f"# Chosen for {hours:.2f} h")
    assert yaml.safe_load(path.read_text()) == choose(hours, ENGLISH, "text", 30.0)


def test_more_speech_never_gets_a_smaller_model_or_less_training():
    chosen = [choose(hours, ENGLISH, "text", 30.0) for hours in HOURS]
    for key in ("dim", "num_layers", "conv_channels"):
        sizes = [values["encoder"][key] for values in chosen]
        assert sizes == sorted(sizes)
    seen = [values["train"]["max_steps"] * values["data"]["max_batch_s"] for values in chosen]  # seconds
    assert seen == sorted(seen)


def test_tokens():
    letters = len(set("".join(ENGLISH)))  # the space is among them
    assert choose_tokens(3, ENGLISH) == {"kind": "char", "vocab_size": letters + 2}
    assert choose_tokens(50, ENGLISH) == {"kind": "char", "vocab_size": letters + 2}  # 1,800 words make no 500 pieces
    many = [f"{text} {i}" for i, text in enumerate(ENGLISH * 2)]
    assert choose_tokens(50, many) == {"kind": "bpe", "vocab_size": 500}
    assert choose_tokens(500, many)["vocab_size"] == 500 and choose_tokens(29, many)["kind"] == "char"
    assert choose_tokens(500, ["".join(chr(0x4E00 + i) for i in range(3000))]) == {"kind": "char", "vocab_size": 3003}
    assert choose(1, ["".join(chr(0x4E00 + i) for i in range(300))], "text", 30)["loss"]["kind"] == "pruned"


def test_translation_hears_the_transcript():
    values, text = (choose(3, ENGLISH, target, 30.0) for target in ("translation", "text"))
    assert values["loss"]["ctc_target"] == "transcript" and values["predictor"]["kind"] == "stateless"
    assert "ctc_target" not in text["loss"] and "kind" not in text["predictor"]
    assert values["decode"] == {"token_reward": 1.0, "length_norm": True} and "decode" not in text


@pytest.mark.parametrize("groups", [{f"s{i}": 60.0 + i for i in range(n)} for n in (5, 6, 17, 300)])
def test_held_out_groups_are_disjoint_and_of_a_sensible_size(groups):
    chosen = hold_out(groups, ["test", "dev"])
    total = sum(groups.values())
    for split in ("test", "dev"):
        seconds = sum(groups[name] for name, each in chosen.items() if each == split)
        assert 0.05 * total < seconds <= LARGEST * total * 1.05
    assert set(chosen) < set(groups)


def test_held_out_groups_are_an_hour_at_most_where_there_is_much():
    groups = {f"s{i}": 600.0 for i in range(600)}
    chosen = hold_out(groups, ["test", "dev"])
    assert [list(chosen.values()).count(split) for split in ("test", "dev")] == [6, 6]


def test_few_or_large_groups_are_not_held_out():
    assert hold_out({"a": 100.0, "b": 100.0, "c": 100.0}, ["test", "dev"]) is None
    assert hold_out({"a": 1000.0, "b": 30.0, "c": 30.0}, ["test", "dev"]) is not None


def test_the_document_has_the_table(root):
    lines = (root / "docs/own_data.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if re.match(r"\| (up to|more)", line)]
    assert len(rows) == len(SIZES)
    for cells, size in zip(rows, SIZES):
        numbers = [int(number) for number in re.findall(r"\d+", " ".join(cells[1:]))]
        assert numbers == [size.layers, size.dim, *size.predictor[1:], size.batch_s]
