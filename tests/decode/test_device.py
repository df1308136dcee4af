"""The device of a search: that of the model for every tensor, and what `--device` asks for."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from support.commands import decode_step, transcribe
from support.decoding import features_of, write_cuts
from support.transducers import save_random_run

from residualformer.config.amnet import AmNetConfig
from residualformer.config.schema import Config, DecodeConfig, EncoderConfig, PredictorConfig, TokenConfig
from residualformer.data.tokenizer import train_tokenizer
from residualformer.decode.recognize import recognize
from residualformer.library.torch_model import TorchModel
from residualformer.model.checkpoint import Bundle, load_model
from residualformer.nn.transducer import Transducer, build_model
from residualformer.runtime import Recognizer


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("settings", [DecodeConfig(kind="greedy"), DecodeConfig(beam=3)], ids=["greedy", "beam"])
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
@pytest.mark.parametrize(("encoder", "amnet"), [("transformer", "none"), ("lstm", "none"), ("gru", "sparse")])
def test_every_tensor_is_made_on_the_models_device(encoder, amnet, predictor, settings, streaming):
    """A tensor that names no device is made on the default one: here one that cannot be mixed with any other."""
    torch.manual_seed(1)
    config = Config(
        encoder=EncoderConfig(kind=encoder, num_layers=1, dim=8, num_heads=2, ffn_dim=16, conv_channels=2),
        predictor=PredictorConfig(kind=predictor, embedding_dim=6, hidden_dim=7, num_layers=1),
        amnet=AmNetConfig(method=amnet, compression=[] if amnet == "none" else [0.2, 0.6]),
    )
    model = build_model(config, 9).eval()
    features = [features_of("u1"), features_of("u2")]
    expected = recognize(model, settings, features, streaming)
    with torch.device("meta"):
        assert torch.zeros(1).device.type == "meta"
        assert recognize(model, settings, features, streaming) == expected
    if streaming:
        bundle = Bundle(model, config, train_tokenizer(["abc defgh"], TokenConfig(kind="char")), {})
        live = live_tokens(bundle, settings)
        with torch.device("meta"):
            assert live_tokens(bundle, settings) == live


def live_tokens(bundle: Bundle, settings: DecodeConfig) -> list[int]:
    """The tokens that a stream writes of half a second of noise."""
    recognizer = Recognizer(TorchModel(bundle), settings)
    stream = recognizer.create_stream()
    stream.accept_waveform(np.random.default_rng(0).uniform(-1, 1, 8000))
    recognizer.decode([stream])
    return recognizer.partial(stream).nbest[0].tokens


@pytest.fixture
def moves(monkeypatch):
    """A machine that seems to have a GPU: the devices to which models were moved; nothing really is."""
    moved: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("residualformer.provenance.hardware", lambda: "a GPU")
    monkeypatch.setattr(Transducer, "to", lambda self, device: moved.append(torch.device(device).type) or self)
    return moved


@pytest.mark.parametrize(
    ("options", "device"), [([], "cuda"), (["--device", "cuda"], "cuda"), (["--device", "cpu"], "cpu")]
)
def test_decoding_moves_the_model_to_the_gpu_where_there_is_one(moves, monkeypatch, tmp_path, options, device):
    config = save_random_run(tmp_path / "model")
    cuts = write_cuts(tmp_path / "fbank", config)
    decode_step(monkeypatch, tmp_path / "model", "--cuts", cuts, "--set", "decode.kind=greedy", *options)
    assert moves == [device]
    summary = json.loads((tmp_path / "model" / "decode_test_greedy" / "decode.json").read_text())
    assert summary["device"] == "cpu"  # where the model really is


@pytest.mark.parametrize(("options", "device"), [([], "cuda"), (["--device", "cpu"], "cpu")])
def test_transcribing_moves_the_model_too(moves, tmp_path, options, device):
    save_random_run(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 8000), 16000)
    transcribe("--model", tmp_path / "model", tmp_path / "a.wav", *options)
    assert moves == [device]


def test_the_model_stays_on_the_cpu_unless_a_device_is_named(tmp_path):
    save_random_run(tmp_path / "model")
    assert load_model(tmp_path / "model").device == torch.device("cpu")


def test_one_file_is_recognized_without_lhotse(root):
    modules = "residualformer.library.trained"
    code = f"import sys, {modules}; sys.exit('lhotse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)}).returncode == 0
