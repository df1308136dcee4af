"""YAML as configurations need it: any bad document is a YAMLError."""

from __future__ import annotations

import pytest
import yaml

from residualformer.config.yaml_loader import load_yaml


@pytest.mark.parametrize("text", ["2026-99-99", "!!int x", "!!bool z", "!!timestamp x", "[" * 5000, "{? [1] : 2}"])
def test_what_pyyaml_chokes_on_is_a_yaml_error(text):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_numbers_in_scientific_notation():
    assert load_yaml("[1e-3, 2E4]") == [0.001, 20000.0]
