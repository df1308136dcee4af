"""Adapters: a base with one is the adapted model bit by bit, in PyTorch and as an exported folder on each engine."""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.exported import RATE, exported, random_bundle, utterances

import residualformer
from residualformer.cli import adapter as command
from residualformer.errors import UserError
from residualformer.model.adapter import apply_adapter, load_adapted, write_adapter
from residualformer.model.checkpoint import Bundle, read_model, read_run, save_model
from residualformer.runtime import load_exported
from residualformer.runtime.adapter import adapted_weights
from residualformer.runtime.settings import read_settings
from residualformer.runtime.weights import MappedWeights
from residualformer.tensor_files import read_arrays


def changed(bundle: Bundle, *names: str) -> Bundle:
    """A copy of a model with other numbers in the parameters whose names end so."""
    model = copy.deepcopy(bundle.model)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(names):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return replace(bundle, model=model)


def saved(bundle: Bundle, path: Path) -> Path:
    save_model(path, bundle.model.state_dict(), bundle.config, bundle.tokenizer, {"seed": 3})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a model adapted in residuals, norms, biases and statistics, both exported, and the adapter."""
    folder = tmp_path_factory.mktemp("adapter")
    base = random_bundle("transformer", "lstm", "sherpa")
    adapted = changed(base, ".A", ".B", ".D", "norm1.weight", "norm2.bias", "bank.0.up.bias", "encoder.mean")
    for name, bundle in (("base", base), ("adapted", adapted)):
        saved(bundle, folder / f"{name}.safetensors")
        exported(bundle, "nemo", folder / name, int8=True)
    files = [read_model(folder / f"{name}.safetensors") for name in ("base", "adapted")]
    write_adapter(folder / "adapter", *files)
    return folder


def test_the_file_holds_what_differs_and_the_base_with_it_is_the_adapted_model(made, tmp_path):
    base, adapted = (read_model(made / f"{name}.safetensors") for name in ("base", "adapted"))
    arrays, _ = read_arrays(made / "adapter", "an adapter")
    differing = {name for name in base.weights if not torch.equal(base.weights[name], adapted.weights[name])}
    assert arrays.keys() == differing and 0 < len(differing) < len(base.weights)
    assert all(np.array_equal(array, adapted.weights[name].numpy()) for name, array in arrays.items())
    found = apply_adapter(base, made / "adapter")
    assert found.weights.keys() == adapted.weights.keys() and found.config == adapted.config
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in adapted.weights.items())
    loaded = load_adapted(made / "base.safetensors", made / "adapter").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in adapted.weights.items())


def test_the_command_writes_adapters_and_whole_models(made, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    base, adapted = str(made / "base.safetensors"), str(made / "adapted.safetensors")
    command.run(parser.parse_args([base, adapted, "-o", str(tmp_path / "adapter")]))
    assert (tmp_path / "adapter").read_bytes() == (made / "adapter").read_bytes()
    assert "tensors differ" in capsys.readouterr().out
    command.run(parser.parse_args([base, str(tmp_path / "adapter"), "--merge", "-o", str(tmp_path / "whole")]))
    whole, wanted = read_run(tmp_path / "whole"), read_run(Path(adapted))
    assert all(torch.equal(whole.weights[name], tensor) for name, tensor in wanted.weights.items())
    assert (whole.config, whole.info) == (wanted.config, wanted.info)


@pytest.mark.parametrize("precision", ["", ".int8"])
def test_the_weights_of_an_adapted_export_are_those_of_the_export_of_the_adapted_model(made, precision):
    weights = MappedWeights(made / "base" / f"encoder{precision}.onnx")
    weights.replace(adapted_weights(made / "adapter", read_settings(made / "base")))
    found = onnx.load_from_string(weights.content()).graph.initializer
    wanted = {each.name: each for each in onnx.load(made / "adapted" / f"encoder{precision}.onnx").graph.initializer}
    for each in found:
        assert np.array_equal(numpy_helper.to_array(each), numpy_helper.to_array(wanted[each.name])), each.name
    assert len(found) == len(wanted)


@pytest.mark.parametrize(("int8", "lean"), [(False, False), (True, False), (False, True), (True, True)])
def test_an_exported_folder_with_an_adapter_computes_what_that_of_the_adapted_model_does(made, int8, lean):
    outputs = []
    for name, adapter in (("base", None), ("base", made / "adapter"), ("adapted", None)):
        model = load_exported(made / name, int8=int8, lean=lean, adapter=adapter)
        features = np.random.default_rng(2).normal(-8, 3, (1, model.window, model.features.num_mel_bins))
        frames, state = model.encode(features.astype(np.float32), np.array([model.window]), [model.encoder_state()])
        frames2, _ = model.encode(features.astype(np.float32), np.array([model.window]), state)
        outputs.append(np.concatenate([frames, frames2]))
    base, with_adapter, adapted = outputs
    assert np.array_equal(with_adapter, adapted) and not np.allclose(base, adapted)


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_a_program_loads_the_adapted_model(made, suffix):
    sound = np.concatenate(utterances())
    found, wanted, base = (
        residualformer.load(made / f"{name}{suffix}", adapter=adapter).transcribe(sound, RATE)
        for name, adapter in (("base", made / "adapter"), ("adapted", None), ("base", None))
    )
    assert (found.text, found.score, found.times) == (wanted.text, wanted.score, wanted.times)
    assert found.score != base.score


def test_what_does_not_belong_together_is_refused(made, tmp_path):
    base = read_model(made / "base.safetensors")
    adapted = read_model(made / "adapted.safetensors")
    with pytest.raises(UserError, match="is an adapter of another model .weights .* give the model that it was"):
        apply_adapter(adapted, made / "adapter")
    with pytest.raises(UserError, match="is an adapter of another model"):
        load_exported(made / "adapted", adapter=made / "adapter")
    with pytest.raises(UserError, match="holds a model, where an adapter is needed"):
        apply_adapter(base, made / "base.safetensors")
    with pytest.raises(UserError, match="is missing"):
        load_exported(made / "base", adapter=tmp_path / "none")
    content = bytearray((made / "adapter").read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    for load in (lambda file: apply_adapter(base, file), lambda file: load_exported(made / "base", adapter=file)):
        with pytest.raises(UserError, match="is damaged"):
            load(tmp_path / "damaged")

    bundle = base.build()
    wider = saved(changed(bundle, "joiner.vocabulary.bias"), tmp_path / "joiner.safetensors")
    write_adapter(tmp_path / "of joiner", base, read_model(wider))
    with pytest.raises(UserError, match="changes joiner.vocabulary.bias, which exported folders store .* --merge"):
        load_exported(made / "base", adapter=tmp_path / "of joiner")
    fewer = {name: tensor for name, tensor in adapted.weights.items() if name != "encoder.layers.0.attention.q.D"}
    write_adapter(tmp_path / "of fewer", base, replace(adapted, weights=fewer))
    with pytest.raises(UserError, match="of a model without encoder.layers.0.attention.q.D, which an exported folder"):
        load_exported(made / "base", adapter=tmp_path / "of fewer")
    exported(bundle, "nemo", tmp_path / "merged", weights="merged")
    with pytest.raises(UserError, match="weights are merged, not factored"):
        load_exported(tmp_path / "merged", adapter=made / "adapter")
    other = random_bundle("transformer", "stateless", "sherpa")
    with pytest.raises(UserError, match="no adaptation of .*: predictor.kind is stateless instead of lstm"):
        write_adapter(tmp_path / "x", base, read_model(saved(other, tmp_path / "other.safetensors")))
