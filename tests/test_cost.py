"""Parameter counts against the papers' (recomputed from their dimensions; the paper prints them to 0.1M)."""

import dataclasses

import pytest

from residualformer.config import load_config
from residualformer.cost import count_parameters
from residualformer.schema import ResidualConfig

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
