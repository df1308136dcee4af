"""The branch of an AmNet that an exported model takes is that of PyTorch, frame by frame."""

import numpy as np
import pytest
import torch
from support.export_models import config_of, random_bundle
from support.exported import exported

from residualformer.data.fbank import compute_fbank
from residualformer.export.audio import noise
from residualformer.runtime.loading import load_exported


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["factorised branches", "sparse branches"])
@pytest.mark.parametrize(
    ("kind", "predictor", "preset"), [("nemo", "lstm", "sherpa"), ("ebranchformer", "one label", "kaldi")]
)
def test_it_is_that_of_pytorch(tmp_path, encoder, kind, predictor, preset):
    bundle = random_bundle(config_of(encoder, predictor, preset=preset), seed=1)
    bundle.model.encoder.arbitrator.out.weight.mul_(8)  # so that all branches are taken
    model = load_exported(exported(bundle, kind, tmp_path / "export"))
    features = compute_fbank(noise(16000)[0].samples, bundle.config.features)
    reference, state = bundle.model.encoder, model.encoder_state()
    theirs, found, expected = reference.init_state(1), [], []
    for start in range(0, len(features) - model.window, model.shift):
        window = features[None, start : start + model.window]
        _, [state] = model.encode(window, np.array([model.window]), [state])
        _, theirs = reference.step(torch.from_numpy(window), torch.tensor([model.window]), theirs)
        found.append(model.branch(state))
        expected.append(int(theirs.decision[0].argmax()))
    assert found == expected and len({*found}) == model.num_branches == reference.num_branches


def test_other_models_have_none(tmp_path):
    model = load_exported(exported(random_bundle(config_of("lstm")), "nemo", tmp_path / "export"))
    assert model.num_branches == 1 and model.branch(model.encoder_state()) is None
