"""The exported folder: three models, in fp32 and optionally int8, tokens and settings."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

from residualformer.config.schema import Config, DecodeConfig
from residualformer.constants import FRAME_SHIFT_MS
from residualformer.data.tokenizer import BLANK_PIECE, UNKNOWN_PIECE, Tokenizer
from residualformer.errors import UserError, closest
from residualformer.export.contracts import CONTRACTS, Contract, Models
from residualformer.export.encoder_graphs import EncoderGraph
from residualformer.export.recurrent import RecurrentGraph
from residualformer.export.transformer import TransformerGraph
from residualformer.files import replacing_tree, write_json, write_text
from residualformer.lm.loading import SUFFIXES
from residualformer.model.checkpoint import Bundle, fingerprint
from residualformer.nn.encoder import BranchedEncoder
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.nn.transducer import Transducer
from residualformer.nn.transformer import TransformerEncoder
from residualformer.runtime.settings import (
    FINGERPRINT,
    FORMAT,
    SETTINGS_FILE,
    TOKENS_FILE,
    ModelSettings,
    PartFiles,
    Precision,
    PredictorSettings,
    StateArrays,
    is_exported,
)

WEIGHTS = ("factored", "merged")
BPE_VOCAB_FILE = "bpe.vocab"
EMISSION_MS = 300  # of silence after speech in which a model may still write its last labels


def choose_contract(config: Config, kind: str | None = None) -> type[Contract]:
    """Return the given kind of model, or without `kind` the one that fits the predictor and the features.

    Raises UserError for an unknown kind, and for a model whose predictor or features sherpa-onnx does not support.
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
            "train with features.sample_rate_hz 16000; a recognizer resamples audio of another rate."
        )
    return contract


def encoder_graph(model: Transducer, merged: bool = False) -> EncoderGraph:
    """Return the encoder's graph; with `merged`, one dense matrix where the model has factors."""
    if isinstance(model.encoder, TransformerEncoder):
        return TransformerGraph(model.encoder, model.joiner, merged)
    if isinstance(model.encoder, RecurrentEncoder):
        return RecurrentGraph(model.encoder, model.joiner, merged)
    raise TypeError(f"an encoder of the class {type(model.encoder).__name__} cannot be exported")


def write_folder(
    folder: Path, name: str, bundle: Bundle, contract: Contract, weights: str, int8: bool
) -> ModelSettings:
    """Write models, tokens and settings into `folder`, which exists; return the settings."""
    mark = fingerprint(bundle.model.state_dict())
    files: dict[Precision, PartFiles] = {"fp32": _write_models(folder, contract.models(int8=False), "", mark)}
    if int8:
        files["int8"] = _write_models(folder, contract.models(int8=True), ".int8", mark)
    pieces = token_list(bundle.tokenizer, contract)
    write_text(folder / TOKENS_FILE, "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces)))
    write_text(folder / BPE_VOCAB_FILE, sherpa_vocabulary(bundle.tokenizer.pieces))
    settings = _settings(name, bundle, contract, weights, files, mark)
    settings = replace(settings, decode=_with_its_lm(folder, settings.decode))
    write_json(folder / SETTINGS_FILE, asdict(settings))
    return settings


def token_list(tokenizer: Tokenizer, contract: Contract | type[Contract]) -> list[str]:
    """Return the pieces in the numbering of the folder.

    Raises UserError for a piece with white space, which a line of tokens.txt cannot hold.
    """
    for piece in tokenizer.pieces:
        if not piece or piece.split() != [piece]:
            raise UserError(f"the token {piece!r} is empty or holds white space: train the token set again (stage 3).")
    # sherpa-onnx takes `<unk>` for a blank if the blank comes first, and omits it from results if the blank is last.
    pieces = [UNKNOWN_PIECE.upper() if piece == UNKNOWN_PIECE else piece for piece in tokenizer.pieces]
    return [*pieces[1:], BLANK_PIECE] if contract.blank_last else pieces


def sherpa_vocabulary(pieces: list[str]) -> str:
    """Return the `bpe.vocab` by which sherpa-onnx cuts hotwords into tokens: a piece and its score a line.

    It takes the cut with the highest sum of scores. These are such that it has the fewest tokens, and of equally many
    those that were learned first, which for characters is the tokenizer's own cut, and for BPE nearly always.
    """
    return "".join(f"{piece}\t{-1 - rank * 1e-4:.4f}\n" for rank, piece in enumerate(pieces))


def folder_ids(tokens: list[int], contract: Contract, vocab_size: int) -> list[int]:
    """Return token ids of training in the numbering of the folder."""
    return [(token - 1) % vocab_size for token in tokens] if contract.blank_last else list(tokens)


def tail_padding_ms(window: int) -> int:
    """Return the silence after which every real frame is encoded: sherpa-onnx drops an incomplete window."""
    return FRAME_SHIFT_MS * window + EMISSION_MS


def replacing_folder(folder: Path) -> AbstractContextManager[Path]:
    """Yield a new folder beside `folder`; it replaces `folder` on success and is removed on failure.

    Raises UserError if `folder` exists and is neither an exported model nor an empty folder.
    """
    return replacing_tree(folder, is_exported, "is no exported model: give another folder with --out, or remove it")


def _write_models(folder: Path, models: Models, suffix: str, mark: str) -> PartFiles:
    """Write the three files; return their names."""
    names = {}
    for part, model in models._asdict().items():
        names[part] = f"{part}{suffix}.onnx"
        model.metadata_props.add(key=FINGERPRINT, value=mark)
        (folder / names[part]).write_bytes(model.SerializeToString())
    return PartFiles(**names)


def _with_its_lm(folder: Path, decode: DecodeConfig) -> DecodeConfig:
    """Copy the language model of the search, if any, into `folder`; return the settings with its name there."""
    if decode.kind != "beam" or decode.lm is None:
        return replace(decode, lm=None)
    suffix = next((each for each in SUFFIXES if decode.lm.endswith(each)), "")
    if not suffix or not Path(decode.lm).is_file():
        raise UserError(f"decode.lm is {decode.lm}, no file of a language model ({', '.join(SUFFIXES)}).")
    shutil.copyfile(decode.lm, folder / f"lm{suffix}")
    return replace(decode, lm=f"lm{suffix}")


def _settings(
    name: str, bundle: Bundle, contract: Contract, weights: str, files: dict[Precision, PartFiles], mark: str
) -> ModelSettings:
    config, encoder, tokenizer = bundle.config, bundle.model.encoder, bundle.tokenizer
    assert isinstance(encoder, BranchedEncoder)
    blank, unknown = folder_ids([tokenizer.blank_id, tokenizer.unk_id], contract, tokenizer.vocab_size)
    predictor = PredictorSettings("lstm", None)
    if config.predictor.kind == "stateless":
        predictor = PredictorSettings("stateless", config.predictor.context_size)
    return ModelSettings(
        format=FORMAT,
        name=name,
        type=contract.name,
        weights=weights,
        files=files,
        vocab_size=tokenizer.vocab_size,
        blank_id=blank,
        unk_id=unknown,
        features=config.features,
        window=encoder.window,
        shift=encoder.shift,
        subsampling=encoder.stride,
        frames_per_step=encoder.shift // encoder.stride,
        chunk_ms=FRAME_SHIFT_MS * encoder.shift,
        look_ahead_ms=FRAME_SHIFT_MS * (encoder.window - encoder.shift),
        tail_padding_ms=tail_padding_ms(encoder.window),
        joint_dim=bundle.model.joiner.project_encoder.out_features,
        encoder=asdict(config.encoder),
        predictor=predictor,
        states=StateArrays(contract.encoder_states, contract.decoder_states),
        decode=config.decode,
        fingerprint=mark,
        branches=1 if encoder.arbitrator is None else encoder.num_branches,
        branch_delay=config.amnet.arbitrator.delay,
        target=config.tokens.target,
        calibration=bundle.calibration,
    )
