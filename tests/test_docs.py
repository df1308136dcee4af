"""Links in the documents lead somewhere, and what they show of the library runs as it stands."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile

from residualformer.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
DOCUMENTS = [name for name in LISTED if (ROOT / name).is_file()]
LINK = re.compile(r"\]\(([^)\s]+)\)")
LABEL, LABELED = re.compile(r"\]\[([^\]]+)\]"), re.compile(r"^\[([^\]]+)\]: (https://\S+)$", re.MULTILINE)
COMPARISON = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue  # another site
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        assert target.exists(), f"{document} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{document} links to {link}, a heading that is not there"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_labels_of_links_are_defined_once_and_used(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    defined = [label for label, _ in LABELED.findall(text)]
    assert len(defined) == len(set(defined))
    if defined:
        assert set(LABEL.findall(text)) == set(defined)


def commands(text: str) -> list[list[str]]:
    """Return the calls of `residualformer` in a document, in blocks and in lines, as words without comments."""
    inline = re.findall(r"`(residualformer [^`]+)`", text)
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = inline + re.findall(r"^(?:.*\| )?(residualformer .+)$", "\n".join(lines), re.MULTILINE)
    return [re.split(r"[|>]", " ".join(shlex.split(call, comments=True)))[0].split() for call in found]


def options(command: str) -> set[str]:
    """Return the options of a command of the package."""
    parser = argparse.ArgumentParser()
    import_module(f"residualformer.cli.{command}").add_arguments(parser)
    listed = re.findall(r"^  (-.+?)(?:  .*)?$", parser.format_help(), re.MULTILINE)
    return {option for line in listed for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_their_options_exist(document):
    for _, command, *rest in commands((ROOT / document).read_text(encoding="utf-8")):
        assert command in COMMANDS, f"{document} shows 'residualformer {command}'"
        unknown = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)} - options(command)
        assert not unknown, f"{document} shows options that 'residualformer {command}' does not have: {unknown}"


def cells() -> list[list[str]]:
    """Return the rows of all tables of the comparison, without their heads."""
    rows = [line.strip("|").split("|") for line in COMPARISON.splitlines() if re.match(r"\| [^|]", line)]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_comparison_says_where_it_has_it_from():
    rows = cells()
    assert len(rows) > 50
    for feature, _, *peers in rows:
        assert len(peers) == 4, feature
        for cell in peers:
            assert LABEL.search(cell) or cell.startswith(("-", "not found", "through sherpa-onnx")), (feature, cell)


def test_what_the_comparison_names_of_ours_exists():
    keys = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for feature, ours, *_ in cells():
        for word in [word for span in re.findall(r"`([^`]+)`", ours) for word in span.split()]:
            if re.fullmatch(r"(\./)?[\w/]+\.(py|sh)", word):
                assert (ROOT / word).is_file(), (feature, word)
            elif re.fullmatch(r"(decode|data|train|features|encoder|amnet)(\.\w+)+", word):
                assert f"`{word}`" in keys, (feature, word)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder in which everything is that the documents name: a run, its export and recordings."""
    from support.exported import RATE, exported, random_bundle, utterances  # imports torch, which few tests here need

    from residualformer.model.checkpoint import save_model

    folder = tmp_path_factory.mktemp("docs")
    bundle = random_bundle("transformer", "lstm", "sherpa")
    for run in (folder / "exp/residual", folder / "egs/mini/exp/residual"):
        run.mkdir(parents=True)
        save_model(run / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    exported(bundle, "nemo", folder / "exp/residual/export")
    first, second = utterances()[:2]
    soundfile.write(folder / "a.wav", first, RATE)
    soundfile.write(folder / "b.wav", second, RATE)
    soundfile.write(folder / "call.wav", np.stack([first, second[: len(first)]], axis=1), RATE)
    return folder


def blocks(document: str) -> str:
    """Return all Python of a document, one block after another."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.M | re.S))


@pytest.mark.parametrize("document", ["README.md", "docs/library.md"])
def test_what_is_shown_of_the_library_runs(document, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    samples, _ = soundfile.read("b.wav", dtype="float32")
    exec(compile(blocks(document), document, "exec"), {"samples": samples, "microphone": np.split(samples[:48000], 30)})
    assert len(capsys.readouterr().out.splitlines()) >= 2


@pytest.mark.parametrize("model", ["exp/residual", "exp/residual/export"])
def test_the_example_runs(model, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    example = runpy.run_path(str(ROOT / "docs/library_example.py"))
    example["main"](model, ["a.wav", "missing.wav", "b.wav"])
    printed = capsys.readouterr().out
    assert "missing.wav: missing.wav is not a file" in printed and printed.count("# ") == 4 and " s ... " in printed
