"""Exported random models in the runtime against the PyTorch search: from a checkpoint to tokens, times and scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.exported import RATE, by_runtime, exported, random_bundle, utterances

from residualformer.config.schema import DecodeConfig
from residualformer.data.fbank import compute_fbank
from residualformer.decode.encode import encode
from residualformer.decode.greedy import GreedySearch
from residualformer.decode.recognize import search
from residualformer.hypothesis import Hypothesis
from residualformer.model.checkpoint import Bundle
from residualformer.runtime import Recognizer, load_exported


def by_torch(bundle: Bundle, settings: DecodeConfig, samples: np.ndarray) -> list[Hypothesis]:
    features = torch.from_numpy(compute_fbank(samples, bundle.config.features))[None]
    encoded = encode(bundle.model, features, torch.tensor([features.shape[1]]), streaming=True)
    with torch.no_grad():
        return search(bundle.model, encoded.frames, encoded.lengths, settings)[0]


@pytest.mark.parametrize(
    ("kind", "predictor"), [("transformer", "lstm"), ("transformer", "stateless"), ("lstm", "lstm")]
)
@pytest.mark.parametrize("settings", [dict(kind="greedy"), dict(kind="beam", beam=4, nbest=4)])
def test_the_whole_way_equals_pytorch(tmp_path, kind, predictor, settings):
    bundle = random_bundle(kind, predictor, "sherpa")
    model = load_exported(exported(bundle, "nemo", tmp_path / "export"))
    settings = replace(bundle.config.decode, **settings)
    signals = utterances()
    streams = by_runtime(Recognizer(model, settings), signals)
    written = []
    for samples, stream in zip(signals, streams, strict=True):
        expected = by_torch(bundle, settings, samples)
        found = [hypothesis for segment in stream.pop_segments() for hypothesis in segment.nbest]
        if not found:  # nothing said, no segment
            assert expected[0].tokens == []
            continue
        size = bundle.tokenizer.vocab_size  # the folder's ids are those of training less one, the blank goes last
        assert [[(token - 1) % size for token in h.tokens] for h in expected] == [h.tokens for h in found]
        assert [h.frames for h in expected] == [h.frames for h in found]
        # float32 in another order of summation: up to 100 log-probabilities of size 1 to 10
        assert [h.score for h in expected] == pytest.approx([h.score for h in found], abs=2e-3)
        written += found[0].tokens
    assert len(written) > 10 and len(set(written)) > 1


def test_a_stateless_folder_of_the_other_type(tmp_path):
    """`ebranchformer` takes no lengths: the silence behind a stream makes its last window whole."""
    bundle = random_bundle("transformer", "stateless", "kaldi")
    model = load_exported(exported(bundle, "ebranchformer", tmp_path / "export"))
    settings, encoder, signals = bundle.config.decode, bundle.model.encoder, utterances()
    written = []
    for samples, stream in zip(signals, by_runtime(Recognizer(model, settings), signals), strict=True):
        padded = np.pad(samples, (0, round(model.tail_s * RATE)))
        features = torch.from_numpy(compute_fbank(padded, bundle.config.features))[None]
        search, state = (
            GreedySearch(bundle.model, 1, DecodeConfig(max_symbols=settings.max_symbols)),
            encoder.init_state(1),
        )
        for start in range(0, features.shape[1] - encoder.window + 1, encoder.shift):
            window = features[:, start : start + encoder.window]
            with torch.no_grad():
                frames, state = encoder.step(window, torch.tensor([encoder.window]), state)
            search.feed(frames, torch.tensor([frames.size(1)]))
        [expected] = search.results()
        found = [hypothesis for segment in stream.pop_segments() for hypothesis in segment.nbest]
        assert [(h.tokens, h.frames) for h in found] == ([(expected.tokens, expected.frames)] if found else [])
        written += expected.tokens
    assert len(written) > 10 and len(set(written)) > 1
