"""Small random models that are sure enough of themselves to be compared token by token, and their exported folders."""

from pathlib import Path

import numpy as np
import torch
from support.transducers import BLANK

from residualformer.config.schema import (
    Config,
    DecodeConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    PredictorConfig,
    ResidualConfig,
    TokenConfig,
)
from residualformer.constants import MODEL_FILE
from residualformer.data.fbank import compute_fbank
from residualformer.data.tokenizer import train_tokenizer
from residualformer.export.contracts import CONTRACTS
from residualformer.export.folder import encoder_graph, write_folder
from residualformer.model.checkpoint import Bundle, save_model
from residualformer.nn.transducer import build_model
from residualformer.runtime import Recognizer, Stream

RATE = 16000


def random_bundle(kind: str, predictor: str, preset: str, frame_ms: int = 40) -> Bundle:
    """A small random recognizer of the letters a-e, sure enough of itself that rounding decides nothing."""
    torch.manual_seed(5)
    recurrent = dict(kind="lstm", num_layers=2, dim=16)
    transformer = dict(num_layers=3, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=3, frame_ms=frame_ms)
    config = Config(
        features=FeatureConfig(preset),
        tokens=TokenConfig(kind="char"),
        encoder=EncoderConfig(**recurrent)
        if kind == "lstm"
        else EncoderConfig(**transformer, residual=ResidualConfig(2, True)),
        predictor=PredictorConfig(kind=predictor, embedding_dim=6, hidden_dim=7, num_layers=2),
        joiner=JoinerConfig(dim=9),
        decode=DecodeConfig(kind="greedy", max_symbols=3),
    )
    tokenizer = train_tokenizer(["abc de"], config.tokens)
    model = build_model(config, tokenizer.vocab_size).eval()
    with torch.no_grad():
        model.encoder.mean.fill_(-8.0)
        model.encoder.std.fill_(3.0)
        for parameter in (*model.predictor.parameters(), *model.joiner.parameters()):
            torch.nn.init.normal_(parameter)
        _balance(model, config.features)
    return Bundle(model, config, tokenizer, {})


def _balance(model, features: FeatureConfig) -> None:
    """Let what is heard decide, not a liking for a label; the blank is liked a little."""
    x = torch.from_numpy(compute_fbank(np.concatenate(utterances()), features))[None]
    frames = model.encoder(x, torch.tensor([x.shape[1]]))[0][0]
    side, histories = model.joiner.project_encoder, torch.randint(1, model.vocab_size, (1, 100))
    side.weight.div_(frames.std(0))
    side.bias.copy_(-side.weight @ frames.mean(0))
    logits = model.joiner(frames[::3, None], model.predictor(histories)[0, 1:])
    model.joiner.vocabulary.bias.sub_(logits.mean((0, 1)))
    model.joiner.vocabulary.bias[BLANK] += 0.5


def run_and_export(bundle: Bundle, folder: Path) -> None:
    """Write `bundle` as the run folder `run` and, of type nemo, the exported folder `export`."""
    (folder / "run").mkdir()
    save_model(folder / "run" / MODEL_FILE, bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    exported(bundle, "nemo", folder / "export")


def exported(bundle: Bundle, name: str, folder: Path, weights: str = "factored", int8: bool = False) -> Path:
    folder.mkdir()
    contract = CONTRACTS[name](bundle.model, encoder_graph(bundle.model, weights == "merged"))
    write_folder(folder, "random", bundle, contract, weights, int8)
    return folder


def utterances() -> list[np.ndarray]:
    """Noise that comes and goes, of 0.05 to 3.1 s."""
    rng = np.random.default_rng(3)
    found = []
    for seconds in (1.0, 3.1, 0.05, 0.77):
        size = round(seconds * RATE)
        loudness = np.exp(3 * np.sin(np.arange(size) / RATE * 12) - 5)
        found.append((rng.standard_normal(size) * loudness).astype(np.float32))
    return found


def by_runtime(recognizer: Recognizer, signals: list[np.ndarray]) -> list[Stream]:
    """Fed in pieces of 100 ms, all streams together."""
    streams = [recognizer.create_stream() for _ in signals]
    for start in range(0, max(map(len, signals)), 1600):
        for stream, samples in zip(streams, signals, strict=True):
            stream.accept_waveform(samples[start : start + 1600])
        recognizer.decode(streams)
    for stream in streams:
        stream.finish()
    recognizer.decode(streams)
    return streams
