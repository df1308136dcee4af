"""A model at a lower depth: its layers are the first of each group, and so all that is done with it follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.commands import decode_step
from support.decoding import write_cuts
from support.depths import bundle_of
from support.exported import RATE, exported, random_bundle, utterances

import residualformer
from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.decode.encode import encode
from residualformer.errors import UserError
from residualformer.model.adapter import load_adapted
from residualformer.model.checkpoint import read_run, save_model
from residualformer.model.cost import parameter_table
from residualformer.model.depth import at_depth, check_served, layers_at

SHARING = {3: [1, 2, 3], 2: [1, 2], (0, 1, 0): [1, 2]}  # of three layers


@pytest.fixture(scope="module", params=SHARING, ids=str)
def run(request, tmp_path_factory):
    """A run folder that serves all depths, with what it holds."""
    folder, served = tmp_path_factory.mktemp("run"), SHARING[request.param][::-1]
    sharing = list(request.param) if isinstance(request.param, tuple) else request.param
    made = bundle_of(sharing, served)
    torch.manual_seed(1)
    for layer in made.model.encoder.layers:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(folder / "model.safetensors", made.model.state_dict(), made.config, made.tokenizer, {})
    return folder, made


@torch.no_grad()
def test_whole_and_streamed_it_is_the_large_model_without_these_layers(run):
    folder, made = run
    features, lengths = torch.randn(2, 150, 80) * 3 - 8, torch.tensor([150, 97])
    outputs = []
    for loops in made.config.encoder.depth.loops:
        expected, sizes = made.model.encoder.encode_at(features, lengths, loops)
        small = load_adapted(folder, None, loops=loops).model
        for streaming in (False, True):
            found = encode(small, features, lengths, streaming)
            for n, size in enumerate(sizes):
                # fp32: the same sums in another order, three layers deep
                torch.testing.assert_close(found.frames[n, :size], expected[n, :size], rtol=0, atol=1e-5)
        assert len(small.encoder.init_state(1).past) == len(layers_at(made.config, loops))
        outputs.append(expected)
    assert torch.equal(outputs[0], made.model.encoder(features, lengths)[0])
    assert all((a - b).abs().max() > 0.1 for a, b in zip(outputs, outputs[1:]))  # depth matters


def test_it_holds_the_weights_of_its_layers_alone(run):
    folder, made = run
    saved = read_run(folder)
    for loops in made.config.encoder.depth.loops:
        small = at_depth(saved, loops)
        groups = small.config.encoder.sharing
        assert max(map(groups.count, groups)) == loops and small.config.encoder.num_layers == len(groups)
        assert small.info["parameters"] == parameter_table(small.build().model)
        for name, tensor in small.build().model.encoder.bank.state_dict().items():
            assert torch.equal(tensor, saved.weights[f"encoder.bank.{name}"])
    assert config_from_dict(config_to_dict(small.config)) == small.config


def test_a_depth_that_was_not_trained_is_refused(run):
    folder, made = run
    with pytest.raises(UserError, match=r"loops is 9, but .* was trained for \d.*: take one"):
        load_adapted(folder, None, loops=9)
    with pytest.raises(UserError, match=r"loops is 1, but x was trained for one depth alone .*: leave it out"):
        check_served(random_bundle("transformer", "lstm", "sherpa").config, 1, "x")


def test_run_and_export_say_the_same_at_a_depth(tmp_path):
    made = bundle_of(3, [3, 2, 1])
    save_model(tmp_path / "model.safetensors", made.model.state_dict(), made.config, made.tokenizer, {})
    folder = exported(load_adapted(tmp_path, None, loops=2), "nemo", tmp_path / "export")
    samples = np.concatenate(utterances())
    runs = {loops: residualformer.load(tmp_path, loops=loops, greedy=True) for loops in (3, 2)}
    said = {loops: run.transcribe(samples, RATE) for loops, run in runs.items()}
    assert len(said[2].text) > 20 and said[2].text != said[3].text
    for lean in (False, True):
        found = residualformer.load(folder, greedy=True, lean=lean).transcribe(samples, RATE)
        assert found.times == said[2].times
    with pytest.raises(UserError, match="loops 2: the depth of .* was chosen at its export; leave the option out"):
        residualformer.load(folder, loops=2)


def test_stage_7_decodes_at_a_depth(tmp_path, monkeypatch, capsys):
    made = bundle_of(3, [3, 2, 1])
    save_model(tmp_path / "model.safetensors", made.model.state_dict(), made.config, made.tokenizer, {})
    cuts = write_cuts(tmp_path / "fbank", made.config)
    decode_step(monkeypatch, tmp_path, "--cuts", cuts, "--loops", 2)
    assert (tmp_path / "decode_test_greedy_loops2" / "hyp.jsonl").is_file()
    assert '"loops": 2' in (tmp_path / "decode_test_greedy_loops2" / "decode.json").read_text()
    assert not (tmp_path / "calibration.json").exists()  # which is of the full depth
