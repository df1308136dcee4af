"""The folder of the page without a server: what is in it, and what is refused. No network is needed."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from residualformer.cli import main
from residualformer.config.schema import FeatureConfig
from residualformer.demo import static_page
from residualformer.demo.static_page import RUNTIME_FILES, feature_settings, write_static_page
from residualformer.errors import UserError
from residualformer.runtime.endpoint import ENDPOINT_RULES

ADVICE = "unpack onnxruntime-web@1.30.0 from elsewhere and give its folder with --onnxruntime-web."


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A folder with the names of onnxruntime-web's files, whose contents have the check sums that are asked for."""
    package = tmp_path / "package"
    (package / "dist").mkdir(parents=True)
    sums = {}
    for name, (source, _) in RUNTIME_FILES.items():
        (package / "dist" / source).write_text(f"// {source}")
        sums[name] = (source, hashlib.sha256(f"// {source}".encode()).hexdigest())
    monkeypatch.setattr(static_page, "RUNTIME_FILES", sums)
    return package


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_all_that_the_page_asks_for(folder, package, tmp_path):
    size = write_static_page(folder, tmp_path / "site", package=package)
    written = contents(tmp_path / "site")
    assert size == sum(map(len, written.values()))
    settings = json.loads(written["settings.json"])
    assert settings["files"] == sorted(written)
    for name in ("encoder", "decoder", "joiner"):
        assert written[f"{name}.onnx"] == (folder / f"{name}.onnx").read_bytes()
    for name, (source, _) in RUNTIME_FILES.items():
        assert written[name] == (package / "dist" / source).read_bytes()
    for name, content in written.items():
        if name.endswith((".js", ".html")) and name not in RUNTIME_FILES:
            asked = re.findall(r'(?:from |href=|src=|addModule\(|fetch\()"([^"]+)"', content.decode())
            assert {each.removeprefix("./") for each in asked} <= written.keys(), name
    assert {"style.css", "main.js", "app.js", "recorder.js"} <= written.keys()


def test_the_page_may_load_nothing_from_elsewhere(folder, package, tmp_path):
    write_static_page(folder, tmp_path / "site", package=package)
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|\*|unsafe-inline|'unsafe-eval'", policy)
    assert html.index(policy) < html.index("<link") < html.index("<script")  # a policy holds for what comes after it


def test_the_settings_are_those_of_the_runtime(folder, package, tmp_path):
    write_static_page(folder, tmp_path / "site", beam=3, package=package)
    settings = json.loads((tmp_path / "site" / "settings.json").read_text(encoding="utf-8"))
    assert settings["search"] == {
        **{"kind": "beam", "beam": 3, "max_symbols": 5, "blank_penalty": 0.0, "token_reward": 0.0},
        **{"length_norm": False, "restart_frames": 0, "separator": None},
    }
    assert settings["endpoint_rules"] == [vars(rule) for rule in ENDPOINT_RULES]
    assert settings["model"]["pieces"] == ["\u2581a", "\u2581b", "<blk>"]


def test_features_are_told_in_numbers():
    kaldi = feature_settings(FeatureConfig(preset="kaldi", sample_rate_hz=8000, num_mel_bins=40, level="normalized"))
    assert (kaldi["low_freq"], kaldi["high_freq"], kaldi["preemphasis"]) == (20, 3600, 0.97)
    assert kaldi["level"] == {"target_db": 0.0, "most_db": 40.0, "fade_db": 0.03}
    assert kaldi["floor"] == pytest.approx(np.log(np.finfo(np.float32).eps))
    assert feature_settings(FeatureConfig(preset="sherpa"))["level"] is None


def test_only_a_page_is_replaced(folder, package, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    write_static_page(folder, site, package=package)
    write_static_page(folder, site, package=package)
    (site / "CNAME").write_text("speech.example")
    before = contents(site)
    with pytest.raises(UserError, match="holds other things than a page of this command: give another folder"):
        write_static_page(folder, site, package=package)
    with pytest.raises(UserError, match="holds other things"):
        write_static_page(folder, folder, package=package)
    assert contents(site) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package", "site"]


def test_language_models_are_refused(folder, package, tmp_path, monkeypatch):
    load = static_page.load_exported

    def with_lm(*args, **options):
        model = load(*args, **options)
        model.decode = replace(model.decode, kind="beam", lm="lm.arpa")
        return model

    monkeypatch.setattr(static_page, "load_exported", with_lm)
    with pytest.raises(UserError, match="has no language models: add --greedy"):
        write_static_page(folder, tmp_path / "site", package=package)
    write_static_page(folder, tmp_path / "site", greedy=True, package=package)


def test_another_version_is_refused(folder, package, tmp_path):
    (package / "dist" / "ort.wasm.min.mjs").write_text("// another")
    with pytest.raises(UserError, match="dist: ort.wasm.min.mjs is not that of onnxruntime-web@1.30.0: give a folder"):
        write_static_page(folder, tmp_path / "site", package=package)
    (package / "dist" / "ort.wasm.min.mjs").unlink()
    with pytest.raises(UserError, match="dist has no ort.wasm.min.mjs: give a folder of onnxruntime-web@1.30.0"):
        write_static_page(folder, tmp_path / "site", package=package)
    assert not (tmp_path / "site").exists()


def npm(folder: Path, script: str, monkeypatch) -> None:
    """Put a program of the name npm, and nothing else, on PATH."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!{sys.executable}\n{script}")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(sys.platform == "win32", reason="programs have another form")
def test_npm_downloads_what_is_not_given(folder, package, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as tar:
        tar.add(package, "package")
    script = "import shutil, sys\nassert sys.argv[1:4] == ['pack', 'onnxruntime-web@1.30.0', '--pack-destination']\n"
    script += f"shutil.copy({str(tmp_path / 'package.tgz')!r}, sys.argv[4])\n"
    npm(tmp_path / "bin", script, monkeypatch)
    write_static_page(folder, tmp_path / "site", package=None)
    write_static_page(folder, tmp_path / "other", package=package)
    assert contents(tmp_path / "site") == contents(tmp_path / "other")


@pytest.mark.skipif(sys.platform == "win32", reason="programs have another form")
def test_npm_may_fail_or_be_missing(folder, tmp_path, monkeypatch):
    npm(tmp_path / "bin", "import sys\nprint('npm error network', file=sys.stderr)\nsys.exit(1)\n", monkeypatch)
    with pytest.raises(UserError) as told:
        write_static_page(folder, tmp_path / "site")
    network = "npm cannot download onnxruntime-web@1.30.0 (npm error network): try again with a network, or "
    assert str(told.value) == network + ADVICE
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as told:
        write_static_page(folder, tmp_path / "site")
    missing = "npm, which downloads onnxruntime-web@1.30.0, is not installed: install it, or "
    assert str(told.value) == missing + ADVICE
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--static", "SITE", "--port", "1"], "--port: --static serves nothing, so this means nothing: leave it out."),
        (["--static", "SITE", "--host", "::", "--name", "box"], "--host and --name: --static serves nothing"),
        (["--onnxruntime-web", "FOLDER"], "--onnxruntime-web is for the page without a server: give --static FOLDER"),
        (["--static", "SITE", "--int8"], "holds no int8 files: export it again with --int8."),
        (["--static", "SITE", "--beam", "0"], "decode.beam is 0; allowed: 1 or more."),
    ],
)
def test_what_means_nothing_is_refused(folder, package, tmp_path, monkeypatch, capsys, words, told):
    given = [str(tmp_path / "site") if word == "SITE" else word for word in words]
    monkeypatch.setattr(sys, "argv", ["residualformer", "demo", str(folder), *given])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err and not (tmp_path / "site").exists()


def test_the_command_says_how_to_try_it(folder, package, tmp_path, monkeypatch, capsys):
    words = ["demo", str(folder), "--static", str(tmp_path / "site"), "--onnxruntime-web", str(package)]
    monkeypatch.setattr(sys, "argv", ["residualformer", *words])
    main()
    assert f"python -m http.server --directory {tmp_path / 'site'}" in capsys.readouterr().out
