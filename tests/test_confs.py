"""Every YAML in conf/ loads, and its model can be built (on torch's meta device: no memory, whatever the size)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from residualformer.config import config_to_dict, flatten, load_config

CONFS = Path(__file__).resolve().parent.parent / "conf"
FILES = sorted(CONFS.rglob("*.y*ml"))


def name(path: Path) -> str:
    return str(path.relative_to(CONFS))


def test_there_are_configurations():
    assert {"mini/baseline.yaml", "mini/shared.yaml", "mini/residual.yaml", "paper_asr.yaml", "paper_st.yaml"} <= {
        name(path) for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_starts_with_its_purpose(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_its_model_can_be_built(path):
    from residualformer.nn.transducer import build_model

    config = load_config(path)
    with torch.device("meta"):
        model = build_model(config, config.tokens.vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


# What may differ between a model and the one it starts from: how it is trained, and the residual.
TRAINING = {"description", "warm_start", "data", "train", "decode", "dropout", "token_dropout"}
RESIDUAL = {"encoder.residual.rank", "encoder.residual.diagonal"}


def differences(path, other) -> set[str]:
    own, others = (dict(flatten(config_to_dict(load_config(each)))) for each in (path, other))
    return {key for key in own if own[key] != others[key]}


@pytest.mark.parametrize("path", [path for path in FILES if load_config(path).warm_start], ids=name)
def test_its_warm_start_is_a_sibling_of_the_same_shape_but_for_the_residual(path):
    source = path.with_name(f"{load_config(path).warm_start}.yaml")
    assert source.is_file()
    changed = {key for key in differences(path, source) if not TRAINING & set(key.split("."))}
    assert changed <= RESIDUAL


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "residual.yaml"], ids=name)
def test_a_residual_is_trained_exactly_as_its_control(path):
    assert differences(path, path.with_name("control.yaml")) == RESIDUAL | {"description"}
