"""The branch of an AmNet, or the depth of a chunk, in an exported model is that of PyTorch, step by step."""

import itertools
import json

import numpy as np
import pytest
import torch
from support.export_models import config_of, random_bundle
from support.exported import exported

from residualformer.data.fbank import compute_fbank
from residualformer.decode.encode import encode
from residualformer.errors import UserError
from residualformer.export.audio import noise
from residualformer.runtime.loading import load_exported
from residualformer.runtime.recognizer import Recognizer

KINDS = [("nemo", "lstm", "sherpa"), ("ebranchformer", "one label", "kaldi")]


@torch.no_grad()
@pytest.mark.parametrize(
    ("encoder", "lean"),
    [
        ("factorised branches", False),
        ("sparse branches", False),
        *itertools.product(["depths", "depths by backlog, no look-back"], [False, True]),
    ],
)
@pytest.mark.parametrize(("kind", "predictor", "preset"), KINDS)
def test_it_is_that_of_pytorch(tmp_path, encoder, lean, kind, predictor, preset):
    bundle = random_bundle(config_of(encoder, predictor, preset=preset), seed=1)
    if "branches" in encoder:
        bundle.model.encoder.arbitrator.out.weight.mul_(8)  # so that all are taken
    model = load_exported(exported(bundle, kind, tmp_path / "export"), lean=lean)
    features = compute_fbank(noise(16000)[0].samples, bundle.config.features)
    reference, state = bundle.model.encoder, model.encoder_state()
    theirs, found, expected = reference.init_state(1), [], []
    for start in range(0, len(features) - model.window, model.shift):
        window = features[None, start : start + model.window]
        _, [state] = model.encode(window, np.array([model.window]), [state])
        _, theirs = reference.step(torch.from_numpy(window), torch.tensor([model.window]), theirs)
        found.append(model.branch(state))
        expected.append(int(theirs.branch) if "depths" in encoder else int(theirs.decision[0].argmax()))
    assert found == expected and model.num_branches == reference.num_branches
    assert len({*found}) >= (2 if "backlog" in encoder else model.num_branches)  # what is chosen changes the backlog


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["factorised branches", "sparse branches", "depths"])  # the first: with delay 1
@pytest.mark.parametrize(("kind", "predictor", "preset"), KINDS)
def test_a_stream_tells_the_branch_of_every_step(tmp_path, encoder, kind, predictor, preset):
    bundle = random_bundle(config_of(encoder, predictor, preset=preset), seed=1)
    if "branches" in encoder:
        bundle.model.encoder.arbitrator.out.weight.mul_(8)  # so that all are taken
    recognizer = Recognizer(exported(bundle, kind, tmp_path / "export"))
    samples = noise(16000)[0].samples
    features = torch.from_numpy(compute_fbank(samples, bundle.config.features))[None]
    expected = encode(bundle.model, features, torch.tensor([features.size(1)])).branches[0].tolist()
    told, untold = recognizer.create_stream(), recognizer.create_stream()
    told.branches = []
    for stream in (told, untold):
        stream.accept_waveform(samples, 16000)
        stream.finish()
    recognizer.decode([told, untold])
    assert len({*expected}) == recognizer.model.num_branches and untold.branches is None
    if kind == "nemo":
        assert told.branches == expected
    else:  # what takes no lengths hears silence where a last, short window ends
        assert told.branches[: len(expected) - 1] == expected[:-1] and len(told.branches) - len(expected) in (0, 1)


def test_depths_that_are_not_those_of_the_weights_are_refused_by_the_lean_engine(tmp_path):
    folder = exported(random_bundle(config_of("depths")), "nemo", tmp_path / "export")
    settings = json.loads((folder / "model.json").read_text())
    assert settings["branches"] == 3 and settings["encoder"]["depth"] == {"loops": [3, 2, 1], "arbitrator": True}
    settings["encoder"]["depth"]["loops"] = [3, 1]
    (folder / "model.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="encoder.depth.loops does not fit the weights"):
        load_exported(folder, lean=True)


@torch.no_grad()
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize(("kind", "weights"), [(KINDS[0], "factored"), (KINDS[1], "merged")], ids=str)
def test_any_sequence_of_depths_is_that_of_pytorch(tmp_path, lean, kind, weights):
    """Files that differ in the arbitrator's bias alone choose one depth each, and take turns at one stream."""
    kind, predictor, preset = kind
    bundle = random_bundle(config_of("depths", predictor, preset=preset))
    encoder, models = bundle.model.encoder, []
    for depth in range(encoder.num_branches):
        encoder.arbitrator.out.bias.fill_(-1e3)[depth] = 1e3
        models.append(load_exported(exported(bundle, kind, tmp_path / str(depth), weights), lean=lean))
    features, full = compute_fbank(noise(16000)[0].samples, bundle.config.features), encoder.window
    chunks = range(0, len(features) - full, encoder.shift)
    random = np.random.default_rng(1).integers(0, 3, (3, len(chunks))).tolist()
    constant = [[depth] * len(chunks) for depth in range(3)]
    for sequence in [*constant, [0, 2] * len(chunks), [2, 1] * len(chunks), *random]:
        state, theirs = models[0].encoder_state(), encoder.init_state(1)
        for start, depth in zip(chunks, sequence, strict=False):
            window = features[None, start : start + full]
            frames, [state] = models[depth].encode(window, np.array([full]), [state])
            x, sizes = torch.from_numpy(window), torch.tensor([full])
            expected, theirs = encoder.step_through(x, sizes, theirs, torch.tensor([depth]))
            expected = bundle.model.joiner.project_encoder(expected).numpy()
            # float32 in another order of summation, five layers deep; values are of the order of 1
            np.testing.assert_allclose(frames, expected, atol=2e-5, rtol=0)
            assert models[depth].branch(state) == depth


def test_other_models_have_none(tmp_path):
    model = load_exported(exported(random_bundle(config_of("lstm")), "nemo", tmp_path / "export"))
    assert model.num_branches == 1 and model.branch(model.encoder_state()) is None
