"""The encoder chunk by chunk against the full pass, and the choice of the search."""

import pytest
import torch
from support.decoding import FRAMES, features_of

from residualformer.config.schema import DecodeConfig
from residualformer.decode.encode import encode, encode_chunks
from residualformer.decode.recognize import search
from residualformer.model.checkpoint import load_model


def test_streaming_equals_the_masked_pass(setup):
    model = load_model(setup[0]).model
    lengths = torch.tensor([FRAMES[name] for name in FRAMES])
    arrays = [torch.from_numpy(features_of(name)) for name in FRAMES]
    features = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
    whole, sizes, _ = encode(model, features, lengths)
    chunks, chunk_sizes, _ = encode(model, features, lengths, streaming=True)
    assert torch.equal(sizes, chunk_sizes) and whole.shape == chunks.shape
    for a, b, size in zip(whole, chunks, sizes, strict=True):
        torch.testing.assert_close(a[:size], b[:size], atol=1e-5, rtol=0)
    counted = sum(real for _, real, _ in encode_chunks(model, features, lengths))
    assert torch.equal(counted, sizes)


def test_long_audio_goes_chunk_by_chunk_because_a_full_mask_would_not_fit(setup, monkeypatch):
    model = load_model(setup[0]).model
    features, lengths = torch.randn(1, 6002, 80), torch.tensor([6002])
    whole = model.encoder(features, lengths)[0]
    monkeypatch.setattr(model.encoder, "forward", lambda *_: pytest.fail("the full pass was taken"))
    torch.testing.assert_close(encode(model, features, lengths)[0], whole, atol=1e-5, rtol=0)


def test_the_search_is_chosen_by_the_settings(setup):
    model = load_model(setup[0]).model
    encoded, lengths = torch.randn(2, 5, 8), torch.tensor([5, 2])
    assert [len(nbest) for nbest in search(model, encoded, lengths, DecodeConfig(kind="greedy"))] == [1, 1]
    assert [len(nbest) for nbest in search(model, encoded, lengths, DecodeConfig(nbest=3))] == [3, 3]
