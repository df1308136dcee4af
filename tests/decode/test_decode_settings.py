"""Settings of a search: from the model, overrides and the test set."""

import pytest

from residualformer.config.schema import Config, DecodeConfig
from residualformer.decode.settings import decode_settings, search_name, settings_for
from residualformer.errors import UserError


def test_settings_come_from_the_model_and_take_overrides():
    config = Config(decode=DecodeConfig(beam=7))
    assert decode_settings(config, []) == config.decode
    changed = decode_settings(config, ["decode.kind=greedy", "decode.blank_penalty=0.5"])
    assert changed == DecodeConfig(kind="greedy", blank_penalty=0.5)  # greedy search has no beam
    assert (search_name(config.decode), search_name(changed)) == ("beam7", "greedy")


def test_long_test_sets_are_searched_greedily_and_their_subsets_too():
    settings = DecodeConfig(greedy_sets=["test_long"])
    kinds = {name: settings_for(settings, name).kind for name in ("test", "test_long", "test_long@a", "test_longer")}
    assert kinds == {"test": "beam", "test_long": "greedy", "test_long@a": "greedy", "test_longer": "beam"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("decode.bean=3", "Did you mean 'beam'"),
        ("decode.beam=many", "whole number"),
        ("decode.beam=0", "1 to 1000"),
        ("decode.kind=bean", "greedy, beam"),
        ("encoder.dim=8", "only takes keys of the section decode"),
        ("decode.beam", "such as decode.beam=16"),
        ("decode.beam=[", "not valid YAML"),
    ],
)
def test_wrong_overrides_are_refused(override, words):
    with pytest.raises(UserError, match=words):
        decode_settings(Config(), [override])
