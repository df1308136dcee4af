"""The page as a folder for any web server: the model runs in the browser, on onnxruntime-web (docs/demo.md)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.data.fbank import LOG_FLOOR, fbank_options
from residualformer.data.level import FADE_DB, MOST_DB, TARGET_DB
from residualformer.errors import UserError
from residualformer.files import read_json, replacing_tree, write_json
from residualformer.hypothesis import pause_frames, word_separator
from residualformer.runtime.endpoint import ENDPOINT_RULES
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import FRONT_STATE, ExportedModel
from residualformer.runtime.recognizer import make_search
from residualformer.runtime.search import chosen_search
from residualformer.runtime.settings import ModelSettings, Precision, read_settings

SETTINGS_FILE = "settings.json"
ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"
# Its files by their names in the folder, which end in .js since not every server knows the type of .mjs: the names in
# the package, and SHA-256.
RUNTIME_FILES = {
    "ort.wasm.min.js": ("ort.wasm.min.mjs", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm-simd-threaded.js": (
        "ort-wasm-simd-threaded.mjs",
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    ),
    "ort-wasm-simd-threaded.wasm": (
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
SHARED_FILES = ("app.js", "recorder.js", "style.css")  # of the page with a server
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "connect-src 'self'"
)
_CHARSET = '<meta charset="utf-8">\n'  # what the page's policy follows


def write_static_page(
    export: Path,
    out: Path,
    int8: bool = False,
    greedy: bool = False,
    beam: int | None = None,
    package: Path | None = None,
) -> int:
    """Write the folder; return its size in bytes.

    Args:
        export: an exported folder.
        out: a new or empty folder, or one of an earlier call, which is replaced.
        greedy: as `beam`, the search instead of the model's.
        package: a folder of the package onnxruntime-web, or of its files; without it npm downloads them.

    Raises:
        UserError: the model does not load or its search needs a language model, `out` holds something else, or the
            files of onnxruntime-web are not to be had or of another version.
    """
    precision: Precision = "int8" if int8 else "fp32"
    settings, model = read_settings(export), load_exported(export, int8=int8)
    decode = chosen_search(model.decode, greedy, beam)
    make_search(model, decode)  # refuses values out of range
    if decode.kind == "beam" and decode.lm is not None:
        raise UserError("the page without a server has no language models: add --greedy, or export without decode.lm.")
    refusal = "holds other things than a page of this command: give another folder"
    with replacing_tree(out, _is_page, refusal) as folder:
        names = asdict(settings.files[precision])
        for name in names.values():
            shutil.copyfile(export / name, folder / name)
        _write_page(folder)
        for name, file in load_runtime(package).items():
            (folder / name).write_bytes(file)
        listed = sorted([SETTINGS_FILE, *(path.name for path in folder.iterdir())])
        write_json(folder / SETTINGS_FILE, {**page_settings(settings, model, decode, precision), "files": listed})
        return sum(path.stat().st_size for path in folder.iterdir())


def page_settings(
    settings: ModelSettings, model: ExportedModel, decode: DecodeConfig, precision: Precision
) -> dict[str, Any]:
    """Return what the page must know of model, features and search, as JSON values."""
    pause = pause_frames(decode.restart_s, model.stride) if decode.restart_s else 0
    return {
        "model": {
            "name": settings.name,
            "type": settings.type,
            "fingerprint": settings.fingerprint,
            "files": asdict(settings.files[precision]),
            "pieces": model.pieces,
            "blank_id": model.blank,
            "num_mel_bins": settings.features.num_mel_bins,
            "window": model.window,
            "shift": model.shift,
            "subsampling": model.stride,
            "tail_s": model.tail_s,
            "joint_dim": settings.joint_dim,
            "num_previous": settings.predictor.num_previous,
            "states": asdict(settings.states),
            "branches": model.num_branches,
            "front": FRONT_STATE[settings.type],
        },
        "features": feature_settings(settings.features),
        "search": {
            "kind": decode.kind,
            "beam": decode.beam,
            "max_symbols": decode.max_symbols,
            "blank_penalty": decode.blank_penalty,
            "token_reward": decode.token_reward,
            "length_norm": decode.length_norm,
            "restart_frames": pause,
            "separator": word_separator(model.pieces),
        },
        "endpoint_rules": [asdict(rule) for rule in ENDPOINT_RULES],
    }


def feature_settings(config: FeatureConfig) -> dict[str, Any]:
    """Return the numbers of the filterbank of `config` that kaldi-native-fbank uses, and those of the level."""
    options = fbank_options(config)
    frame, mel = options.frame_opts, options.mel_opts
    level = {"target_db": TARGET_DB, "most_db": MOST_DB, "fade_db": FADE_DB} if config.level == "normalized" else None
    return {
        "sample_rate_hz": config.sample_rate_hz,
        "num_mel_bins": mel.num_bins,
        "frame_shift_ms": frame.frame_shift_ms,
        "frame_length_ms": frame.frame_length_ms,
        "preemphasis": round(frame.preemph_coeff, 6),
        "window_type": frame.window_type,
        "remove_dc_offset": frame.remove_dc_offset,
        "is_librosa": mel.is_librosa,
        "low_freq": mel.low_freq,
        "high_freq": mel.high_freq if mel.high_freq > 0 else config.sample_rate_hz / 2 + mel.high_freq,
        "floor": LOG_FLOOR,
        "level": level,
    }


def _is_page(folder: Path) -> bool:
    """Return whether the folder holds a page of this command and nothing else, so that nothing is lost with it."""
    if not (folder / SETTINGS_FILE).is_file():
        return False
    listed = read_json(folder / SETTINGS_FILE, "remove the folder").get("files")
    return isinstance(listed, list) and all(path.name in listed for path in folder.iterdir())


def _write_page(folder: Path) -> None:
    """Write the files of this package into `folder`."""
    page, own = files("residualformer.demo").joinpath("page"), files("residualformer.demo").joinpath("static")
    index = page.joinpath("index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    assert _CHARSET in index
    (folder / "index.html").write_text(index.replace(_CHARSET, _CHARSET + policy), encoding="utf-8")
    sources: Sequence[Traversable] = [*map(page.joinpath, SHARED_FILES), *own.iterdir()]
    for source in sources:
        if source.name.endswith((".js", ".css")):
            (folder / source.name).write_bytes(source.read_bytes())


def load_runtime(package: Path | None = None) -> dict[str, bytes]:
    """Return the files of onnxruntime-web, whose check sums are right, by their names in the folder.

    Raises UserError if they are not to be had or of another version; see `write_static_page`.
    """
    if package is not None:
        place = package / "dist" if (package / "dist").is_dir() else package
        return _checked(lambda name: (place / name).read_bytes(), str(place))
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(_packed(Path(temporary))) as tar:
        return _checked(lambda name: _member(tar, f"package/dist/{name}"), "what npm downloaded")


def _checked(read: Callable[[str], bytes], place: str) -> dict[str, bytes]:
    contents = {}
    for name, (source, expected) in RUNTIME_FILES.items():
        try:
            contents[name] = read(source)
        except (FileNotFoundError, KeyError) as error:
            raise UserError(f"{place} has no {source}: give a folder of {ONNXRUNTIME_WEB}.") from error
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise UserError(f"{place}: {source} is not that of {ONNXRUNTIME_WEB}: give a folder of this version.")
    return contents


def _packed(folder: Path) -> Path:
    """Let npm download the package, or take it from its cache; return the archive."""
    local = f"unpack {ONNXRUNTIME_WEB} from elsewhere and give its folder with --onnxruntime-web"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which downloads {ONNXRUNTIME_WEB}, is not installed: install it, or {local}.")
    command = [npm, "pack", ONNXRUNTIME_WEB, "--pack-destination", str(folder), "--prefer-offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = next(folder.glob("*.tgz"), None)
    if done.returncode or archive is None:
        told = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"npm cannot download {ONNXRUNTIME_WEB} ({told[0]}): try again with a network, or {local}.")
    return archive


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    content = tar.extractfile(name)
    if content is None:
        raise KeyError(name)
    return content.read()
