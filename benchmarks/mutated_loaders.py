"""What reads input from outside: for each a valid sample in a folder, and a function that reads all of it."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import soundfile
import torch

from local import custom
from local.common.corpus import unpack
from residualformer.config.loading import load_config
from residualformer.config.schema import (
    Config,
    DataConfig,
    DecodeConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    PredictorConfig,
    SpecAugmentConfig,
    TokenConfig,
)
from residualformer.constants import MODEL_FILE
from residualformer.data.audio import read_audio
from residualformer.data.batches import EvalBatches
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.extract import compute_corpus_features
from residualformer.data.features import read_cmvn
from residualformer.data.manifest import read_cuts
from residualformer.data.shar import find_shards, write_shar
from residualformer.data.splits import summary_file
from residualformer.data.summary import describe
from residualformer.data.tokenizer import Tokenizer, train_tokenizer
from residualformer.data.utterance import read_utterances
from residualformer.data.validate import validate_cuts, write_cuts
from residualformer.decode.corpus import decode_cuts, read_cuts_with_features
from residualformer.decode.recognize import recognize
from residualformer.errors import UserError
from residualformer.export.contracts import CONTRACTS
from residualformer.export.folder import encoder_graph, write_folder
from residualformer.files import write_json
from residualformer.model.checkpoint import Bundle, load_model, save_model
from residualformer.nn.transducer import build_model
from residualformer.report.papers import read_table
from residualformer.report.plots import training_curves
from residualformer.report.results import Results
from residualformer.report.results_text import render_markdown
from residualformer.report.scoring import score_run
from residualformer.runtime import Recognizer
from residualformer.runtime.audio import file_blocks, standard_input_blocks
from residualformer.runtime.loading import load_exported
from residualformer.train.optimizer import Optimizer
from residualformer.train.state import CheckpointFolder
from residualformer.workflow.marker import Marker
from residualformer.workflow.pace import pace_of

matplotlib.use("agg")
RATE, BINS, TEXT, COUNT = 16000, 8, "abc de", 12  # of utterances of own data
TOKENS = train_tokenizer([TEXT], TokenConfig("char"))
CONFIG = Config(
    features=FeatureConfig(num_mel_bins=BINS),
    tokens=TokenConfig(kind="char"),
    encoder=EncoderConfig(num_layers=2, dim=8, num_heads=2, ffn_dim=8, conv_channels=2, sharing=2),
    predictor=PredictorConfig("lstm", embedding_dim=4, hidden_dim=5, num_layers=1),
    joiner=JoinerConfig(dim=6),
    data=DataConfig(specaugment=SpecAugmentConfig(max_freq_bins=2)),
    decode=DecodeConfig(kind="beam", beam=2, max_symbols=2),
)


class Loader(NamedTuple):
    """A kind of input: `build` writes a valid sample into a folder, `read` reads it; `pattern` matches its files."""

    build: Callable[[Path], object]
    read: Callable[[Path], object]
    pattern: str = "*"


def noise(seconds: float = 0.3, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(RATE * seconds), channels)).astype(np.float32)


def bundle() -> Bundle:
    torch.manual_seed(0)
    return Bundle(build_model(CONFIG, TOKENS.vocab_size).eval(), CONFIG, TOKENS, {"seed": 1, "steps": 10})


def write_configuration(folder: Path) -> None:
    conf = Path(__file__).resolve().parent.parent / "conf"
    for name in ("mini/base.yaml", *(f"experiments/{each}.yaml" for each in ("baseline", "shared", "residual"))):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text((conf / name).read_text(encoding="utf-8"), encoding="utf-8")


def write_manifests(folder: Path, splits: Sequence[str] = ("train", "dev"), count: int = 2) -> None:
    for split in splits:
        utterances = []
        for index in range(count):
            path = folder / "audio" / f"{split}{index}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise(channels=1 + index % 2, seed=index), RATE)
            utterances.append(CorpusUtterance(f"{split}{index}", path, TEXT, f"s{index}", translation="x"))
        write_cuts(utterances, split, folder / f"cuts_{split}.jsonl.gz")


def write_features(folder: Path) -> None:
    write_manifests(folder / "manifests")
    compute_corpus_features(folder / "manifests", folder, CONFIG)


def read_features(folder: Path) -> None:
    read_cmvn(folder)
    for split in ("train", "dev"):
        for _ in EvalBatches(folder / f"cuts_{split}.jsonl.gz", 100.0, TOKENS):
            pass
        cuts = read_cuts_with_features(folder / f"cuts_{split}.jsonl.gz", CONFIG.features)
        decode_cuts(bundle(), CONFIG.decode, cuts)


def write_shards(folder: Path) -> None:
    write_features(folder)
    write_shar(read_cuts(folder / "cuts_train.jsonl.gz", stage=2), folder / "shar", 3)
    for path in set(folder.iterdir()) - {folder / "shar", summary_file(folder / "shar")}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_shards(folder: Path) -> None:
    describe([folder / "shar"])
    for shard in find_shards(folder / "shar"):
        for utterance in read_utterances(shard, "text"):
            utterance.load()


def write_model(folder: Path) -> None:
    one = bundle()
    save_model(folder / MODEL_FILE, one.model.state_dict(), one.config, one.tokenizer, one.info)


def read_model(folder: Path) -> None:
    loaded = load_model(folder)
    recognize(loaded.model, loaded.config.decode, [noise(0.005).reshape(-1, BINS)])


def _optimizer() -> Optimizer:
    return Optimizer(bundle().model, CONFIG.train)


def write_state(folder: Path) -> None:
    optimizer, model = _optimizer(), bundle().model
    CheckpointFolder(folder).save_state(
        {
            **dict(identity={"config": {}}, weights=model.state_dict(), optimizer=optimizer.state_dict(), phases={}),
            **dict(step=2, epoch=0, batch_in_epoch=1, clock={"wall_s": 1.0}, changes=[]),
        }  # type: ignore[typeddict-item]
    )


def read_state(folder: Path) -> None:
    if state := CheckpointFolder(folder).load_state():
        _optimizer().load_state_dict(state["optimizer"])


def write_exported(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        one = bundle()
        contract = CONTRACTS[kind](one.model, encoder_graph(one.model))
        write_folder(folder, "sample", one, contract, "factored", int8=True)

    return write


def read_exported(lean: bool, int8: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        recognizer = Recognizer(load_exported(folder, lean=lean, int8=int8))
        stream = recognizer.create_stream()
        stream.accept_waveform(noise(0.4)[:, 0], RATE)
        stream.finish()
        recognizer.decode([stream])
        json.dumps([segment.text for segment in stream.pop_segments()])

    return read


def write_audio(name: str, subtype: str | None = None, channels: int = 1, seed: int = 0) -> Callable[[Path], None]:
    return lambda folder: soundfile.write(folder / name, noise(channels=channels, seed=seed), RATE, subtype)


def read_audio_file(folder: Path) -> None:
    path = next(folder.iterdir(), folder / "gone")
    errors = [_sentence(read_audio, path, RATE), _sentence(lambda: [0 for _ in file_blocks(path)])]
    if path.is_file() and path.suffix == ".wav":
        content = io.BytesIO(path.read_bytes())
        errors.append(_sentence(lambda: [0 for _ in standard_input_blocks(RATE, file=content)]))
    errors.append(_sentence(validate_cuts, [CorpusUtterance("u", path, TEXT, "s")], "train"))
    for error in filter(None, errors):
        raise error


def _sentence(function: Callable[..., object], *arguments: object) -> UserError | None:
    try:
        function(*arguments)
    except UserError as error:
        return error
    return None


def write_table(folder: Path) -> None:
    rows = ["client_id\tpath\tsentence\ttranslation\tsplit"]
    for index in range(COUNT):
        write_audio(f"u{index}.wav", seed=index)(folder)
        rows.append(f"s{index}\tu{index}.wav\t{TEXT} {index}\tx{index}\t")
    (folder / "all.tsv").write_text("\n".join(rows) + "\n")


def write_kaldi(folder: Path) -> None:
    names = [f"u{index}" for index in range(COUNT)]
    for seed, name in enumerate(names):
        write_audio(f"{name}.wav", seed=seed)(folder)
    (folder / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in names))
    (folder / "text").write_text("".join(f"{name} {TEXT}\n" for name in names))
    (folder / "utt2spk").write_text("".join(f"{name} s{name}\n" for name in names))
    (folder / "segments").write_text("".join(f"{name} {name} 0.0 0.25\n" for name in names))


def write_pairs(folder: Path) -> None:
    for index in range(COUNT):
        write_audio(f"u{index}.flac", seed=index)(folder)
        (folder / f"u{index}.txt").write_text(f"{TEXT}\n")


def read_custom(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        parser = argparse.ArgumentParser()
        custom.add_options(parser)
        options = parser.parse_args(["--data", str(folder)])
        out = folder.parent / "out"
        custom.inputs(options)
        custom.obtain(argparse.Namespace(**vars(options), out=out / "raw", jobs=1))
        custom.manifests(argparse.Namespace(**vars(options), corpus=out / "raw", out=out, jobs=1))


def write_decoded(folder: Path) -> None:
    records = [{"id": f"u{i}", "ref": TEXT, "hyp": "abc", "ref_nats": 3.5, "ref_tokens": 6} for i in range(3)]
    run = folder / "exp" / "base" / "decode_test_beam4"
    run.mkdir(parents=True)
    (run / "hyp.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    told = {"target": "text", "search": "beam4", "utterances": 3, "rtf": 0.1, "settings": {"beam": 4}}
    write_json(run / "decode.json", told | {"skipped": [{"id": "u9", "ref": TEXT, "reason": "gone"}]})


def read_decoded(folder: Path) -> None:
    score_run(folder / "exp" / "base" / "decode_test_beam4")


def write_results(folder: Path) -> None:
    published = Path(__file__).resolve().parent.parent / "docs" / "results" / "an4_own" / "results.json"
    (folder / "results.json").write_text(published.read_text(encoding="utf-8"), encoding="utf-8")


def write_marker(folder: Path) -> None:
    Marker(True, {"version": "1", "command": "x", "encoder.dim": 3}, {"a": "3 bytes"}).write(folder / ".x.done")


def read_marker(folder: Path) -> None:
    if marker := Marker.read(folder / ".x.done"):
        marker.changes({"version": "2"})
        sorted(marker.made.items())
        json.dumps(marker.fingerprint)


def write_log(folder: Path) -> None:
    records = [{"step": step, "train/loss": 3.0 / step, "train/wall_s": 2.0 * step} for step in (1, 2, 3)]
    records += [{"step": 3, "valid/transducer_per_token": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_configuration(folder)


def read_log(folder: Path) -> None:
    if (folder / "metrics.jsonl").exists():
        training_curves(folder / "metrics.jsonl", folder / "training.png")
    pace_of(folder)


def write_archive(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "a.txt").write_text("text")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "part", "part")


def read_configuration(folder: Path) -> None:
    load_config(folder / "mini" / "residual.yaml")


def read_papers(folder: Path) -> None:
    read_table(folder / "table3.yaml")


def write_papers(folder: Path) -> None:
    source = Path(__file__).resolve().parent.parent / "conf" / "tables" / "table3.yaml"
    (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")


def _stage_2(folder: Path) -> None:
    compute_corpus_features(folder, folder.parent / "out", CONFIG)


LOADERS: dict[str, Loader] = {
    "configuration": Loader(write_configuration, read_configuration, "*.yaml"),
    "manifests (stage 2)": Loader(write_manifests, _stage_2, "*.jsonl.gz"),
    "audio of manifests": Loader(write_manifests, _stage_2, "*.wav"),
    "features": Loader(write_features, read_features, "cuts_*.jsonl.gz"),
    "feature arrays": Loader(write_features, read_features, "*.npy"),
    "shards": Loader(write_shards, read_shards),
    "feature definition": Loader(write_features, lambda folder: read_cmvn(folder), "*.json"),
    "tokens": Loader(lambda folder: TOKENS.save(folder / "t.json"), lambda folder: Tokenizer.load(folder / "t.json")),
    "model": Loader(write_model, read_model),
    "training state": Loader(write_state, read_state),
    "exported, nemo": Loader(write_exported("nemo"), read_exported(False, False)),
    "exported, settings": Loader(write_exported("nemo"), read_exported(False, False), "*.json"),
    "exported, lean": Loader(write_exported("nemo"), read_exported(True, False)),
    "exported, lean, int8": Loader(write_exported("nemo"), read_exported(True, True), "*int8*"),
    "WAV": Loader(write_audio("a.wav"), read_audio_file),
    "WAV, 24 bits, stereo": Loader(write_audio("a.wav", "PCM_24", 2), read_audio_file),
    "FLAC": Loader(write_audio("a.flac"), read_audio_file),
    "Ogg": Loader(write_audio("a.ogg"), read_audio_file),
    "own data, table": Loader(write_table, read_custom),
    "own data, kaldi": Loader(write_kaldi, read_custom),
    "own data, pairs": Loader(write_pairs, read_custom),
    "own data, cuts": Loader(lambda folder: write_manifests(folder, ["cuts"], COUNT), read_custom, "*.jsonl.gz"),
    "hypotheses": Loader(write_decoded, read_decoded),
    "results": Loader(write_results, lambda folder: render_markdown(Results.read(folder / "results.json"), [])),
    "papers' tables": Loader(write_papers, read_papers),
    "markers": Loader(write_marker, read_marker, ".*"),
    "logs": Loader(write_log, read_log),
    "archives": Loader(write_archive, lambda folder: unpack(folder / "a.tar.gz", "part", folder / "got"), "*.gz"),
}
