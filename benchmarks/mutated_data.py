"""Data: configurations, manifests, features, shards, audio and own data."""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile
from mutated_common import CONFIG, COUNT, RATE, TEXT, TOKENS, Loader, bundle, noise

from local import custom
from residualformer.config.loading import load_config
from residualformer.data.audio import read_audio
from residualformer.data.batches import EvalBatches
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.extract import compute_corpus_features
from residualformer.data.features import read_cmvn
from residualformer.data.manifest import read_cuts
from residualformer.data.shar import find_shards, write_shar
from residualformer.data.splits import summary_file
from residualformer.data.summary import describe
from residualformer.data.utterance import read_utterances
from residualformer.data.validate import validate_cuts, write_cuts
from residualformer.decode.corpus import decode_cuts, read_cuts_with_features
from residualformer.errors import UserError
from residualformer.runtime.audio import file_blocks, standard_input_blocks


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


def read_configuration(folder: Path) -> None:
    load_config(folder / "mini" / "residual.yaml")


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
    "WAV": Loader(write_audio("a.wav"), read_audio_file),
    "WAV, 24 bits, stereo": Loader(write_audio("a.wav", "PCM_24", 2), read_audio_file),
    "FLAC": Loader(write_audio("a.flac"), read_audio_file),
    "Ogg": Loader(write_audio("a.ogg"), read_audio_file),
    "own data, table": Loader(write_table, read_custom),
    "own data, kaldi": Loader(write_kaldi, read_custom),
    "own data, pairs": Loader(write_pairs, read_custom),
    "own data, cuts": Loader(lambda folder: write_manifests(folder, ["cuts"], COUNT), read_custom, "*.jsonl.gz"),
}
