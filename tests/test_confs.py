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


@pytest.mark.parametrize("path", [path for path in FILES if load_config(path).warm_start], ids=name)
def test_its_warm_start_is_a_sibling_that_differs_by_the_residual_alone(path):
    config = load_config(path)
    source = path.with_name(f"{config.warm_start}.yaml")
    assert source.is_file()
    own, other = (dict(flatten(config_to_dict(each)["encoder"])) for each in (config, load_config(source)))
    assert {key for key in own if own[key] != other[key]} <= {"residual.rank", "residual.diagonal"}
