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


def test_what_a_caller_changes_is_his_alone():
    load_yaml("a: [1]")["a"].append(2)
    assert load_yaml("a: [1]") == {"a": [1]}


def test_a_known_document_that_is_too_deep_to_be_copied_is_a_yaml_error(monkeypatch):
    def too_deep(value: object) -> None:
        raise RecursionError("too deep")

    assert load_yaml("[[1]]") == [[1]]
    monkeypatch.setattr("residualformer.config.yaml_loader.deepcopy", too_deep)
    with pytest.raises(yaml.YAMLError, match="RecursionError: too deep"):
        load_yaml("[[1]]")
