"""The whole folder: three models, in fp32 and perhaps int8, tokens, settings and model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from residualformer.config.schema import Config
from residualformer.data.tokenizer import BLANK_PIECE, UNKNOWN_PIECE, Tokenizer
from residualformer.errors import UserError, closest
from residualformer.export.contracts import CONTRACTS, Contract, Models
from residualformer.export.encoder_graphs import EncoderGraph
from residualformer.export.recurrent import RecurrentGraph
from residualformer.export.transformer import TransformerGraph
from residualformer.files import write_json, write_text
from residualformer.model.checkpoint import Bundle, fingerprint
from residualformer.nn.transducer import Transducer
from residualformer.nn.transformer import TransformerEncoder
from residualformer.runtime.settings import FINGERPRINT, FORMAT, SETTINGS_FILE, TOKENS_FILE, is_exported

WEIGHTS = ("factored", "merged")
EMISSION_MS = 300  # of silence in which a model may still write its last labels


def choose_contract(config: Config, kind: str | None = None) -> type[Contract]:
    """The kind of model that is asked for, or, without `kind`, that fits the predictor and the features.

    Raises UserError for an unknown kind, and for a model whose predictor or features sherpa-onnx would not serve.
    """
    if kind is not None and kind not in CONTRACTS:
        raise UserError(f"--type {kind} is unknown; allowed are {', '.join(CONTRACTS)}.{closest(kind, CONTRACTS)}")
    features, predictor = config.features, config.predictor.kind
    if kind is None:
        fits = [c for c in CONTRACTS.values() if predictor in c.predictors and c.preset == features.preset]
        contract = fits[0] if fits else CONTRACTS["ebranchformer" if predictor == "stateless" else "nemo"]
    else:
        contract = CONTRACTS[kind]
    if predictor not in contract.predictors:
        raise UserError(
            f"--type {contract.name} has no place for predictor.kind '{predictor}': export it as nemo, or train with "
            f"predictor.kind {' or '.join(contract.predictors)}."
        )
    if features.preset != contract.preset:
        others = [c.name for c in CONTRACTS.values() if c.preset == features.preset and predictor in c.predictors]
        instead = f"export with --type {others[0]}, or " if others else ""
        raise UserError(
            f"the model was trained on features.preset '{features.preset}', but for type {contract.name} sherpa-onnx "
            f"computes those of '{contract.preset}': {instead}train with features.preset {contract.preset}."
        )
    if features.sample_rate_hz != 16000:
        raise UserError(
            f"the model was trained at {features.sample_rate_hz} Hz, but sherpa-onnx computes features at 16000 Hz: "
            "train with features.sample_rate_hz 16000; a recognizer resamples what comes at another rate."
        )
    return contract


def encoder_graph(model: Transducer, merged: bool = False) -> EncoderGraph:
    """The encoder of either kind; `merged`: one dense matrix where the model has factors."""
    kind = TransformerGraph if isinstance(model.encoder, TransformerEncoder) else RecurrentGraph
    return kind(model.encoder, model.joiner, merged)


def write_folder(
    folder: Path, name: str, bundle: Bundle, contract: Contract, weights: str, int8: bool
) -> dict[str, Any]:
    """Write models, tokens and settings into `folder`, which exists; gives the content of `model.json`."""
    files = {"fp32": contract.models(int8=False)}
    if int8:
        files["int8"] = contract.models(int8=True)
    mark = fingerprint(bundle.model.state_dict())
    names = {kind: _write_models(folder, models, kind, mark) for kind, models in files.items()}
    pieces = token_list(bundle.tokenizer, contract)
    write_text(folder / TOKENS_FILE, "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces)))
    settings = _settings(name, bundle, contract, weights, names) | {FINGERPRINT: mark}
    write_json(folder / SETTINGS_FILE, settings)
    return settings


def token_list(tokenizer: Tokenizer, contract: Contract | type[Contract]) -> list[str]:
    """The pieces in the numbering of the folder.

    Raises UserError for a piece with white space, which a line of tokens.txt cannot hold.
    """
    for piece in tokenizer.pieces:
        if not piece or piece.split() != [piece]:
            raise UserError(f"the token {piece!r} is empty or holds white space: train the token set again (stage 3).")
    # sherpa-onnx takes `<unk>` for a blank where the blank comes first, and leaves it out of results where it is last.
    pieces = [UNKNOWN_PIECE.upper() if piece == UNKNOWN_PIECE else piece for piece in tokenizer.pieces]
    return [*pieces[1:], BLANK_PIECE] if contract.blank_last else pieces


def folder_ids(tokens: list[int], contract: Contract, vocab_size: int) -> list[int]:
    """Token ids of training in the numbering of the folder."""
    return [(token - 1) % vocab_size for token in tokens] if contract.blank_last else list(tokens)


def tail_padding_ms(window: int) -> int:
    """Silence after which every real frame has been encoded: sherpa-onnx drops what does not fill a window."""
    return 10 * window + EMISSION_MS


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place on success and is removed on failure.

    Raises UserError if `folder` is there and is something else than an exported model or an empty folder.
    """
    folder = folder.resolve()  # '.' has no name to put another beside
    if folder.exists() and not is_exported(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and is no exported model: give another folder with --out, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{os.getpid()}.{kind}.{folder.name}") for kind in ("new", "old"))
    try:
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def _write_models(folder: Path, models: Models, kind: str, mark: str) -> dict[str, str]:
    names = {}
    for part, model in models._asdict().items():
        names[part] = f"{part}.onnx" if kind == "fp32" else f"{part}.{kind}.onnx"
        model.metadata_props.add(key=FINGERPRINT, value=mark)
        (folder / names[part]).write_bytes(model.SerializeToString())
    return names


def _settings(name: str, bundle: Bundle, contract: Contract, weights: str, files: dict) -> dict[str, Any]:
    config, encoder, tokenizer = bundle.config, bundle.model.encoder, bundle.tokenizer
    blank, unknown = folder_ids([tokenizer.blank_id, tokenizer.unk_id], contract, tokenizer.vocab_size)
    stateless = config.predictor.kind == "stateless"
    states = {"encoder": contract.encoder_states, "decoder": contract.decoder_states}
    return {
        "format": FORMAT,
        "name": name,
        "type": contract.name,
        "weights": weights,
        "files": files,
        "vocab_size": tokenizer.vocab_size,
        "blank_id": blank,
        "unk_id": unknown,
        "features": asdict(config.features),
        "window": encoder.window,
        "shift": encoder.shift,
        "subsampling": encoder.stride,
        "frames_per_step": encoder.shift // encoder.stride,
        "chunk_ms": 10 * encoder.shift,
        "look_ahead_ms": 10 * (encoder.window - encoder.shift),
        "tail_padding_ms": tail_padding_ms(encoder.window),
        "joint_dim": bundle.model.joiner.project_encoder.out_features,
        "encoder": asdict(config.encoder),
        "predictor": {
            "kind": config.predictor.kind,
            "context_size": config.predictor.context_size if stateless else None,
        },
        "states": {part: [state._asdict() for state in each] for part, each in states.items()},
        "decode": asdict(config.decode),
    }
