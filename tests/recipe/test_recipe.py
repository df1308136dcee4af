"""The whole recipe at toy size, for real: speech is synthesised, three models are trained, decoded and scored."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from support.toy_recipe import EXPERIMENTS, MODEL, Recipe, copy_of, sets

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(root, tmp_path_factory) -> tuple[Recipe, str]:
    """A recipe after its first call, and what that printed. Not to be changed by a test."""
    recipe = Recipe(copy_of(root, tmp_path_factory.mktemp("recipe")))
    return recipe, recipe.stages()


@pytest.fixture
def recipe(first, tmp_path) -> Recipe:
    """A copy of the finished recipe, to be changed (its manifests still name the audio of the original)."""
    shutil.copytree(first[0].folder, tmp_path / "recipe")
    return Recipe(tmp_path / "recipe")


def test_it_ends_in_a_table_on_the_terminal_and_in_files(first):
    recipe, printed = first
    results = recipe.results()
    rows = {row["experiment"]: row for row in results["rows"]}
    assert len(results["rows"]) == 3 and set(rows) == set(EXPERIMENTS)
    assert (results["corpus"], results["split"], results["baseline"]) == ("mini", "test", "baseline")
    words = sum(len(cut.supervisions[0].text.split()) for cut in recipe.cuts())
    markdown = (recipe.egs / "exp" / "RESULTS.md").read_text(encoding="utf-8")
    assert re.search(r"^experiment +search +WER", printed, re.MULTILINE)
    for name, row in rows.items():
        assert row["words"] == words and row["utterances"] == len(recipe.cuts()) and row["missing"] == 0
        errors = sum(row["wer"][kind] for kind in ("insertions", "deletions", "substitutions"))
        assert row["wer"]["value"] == pytest.approx(100 * errors / words, abs=0.01)
        assert row["training"]["steps"] == 8 and row["search"] == "beam4"
        decoding = json.loads((recipe.egs / "exp" / name / row["run"] / "decode.json").read_text(encoding="utf-8"))
        assert row["decoding"] | {"skipped": []} == decoding
        wer = re.escape(f"{row['wer']['value']:.2f} [")
        assert re.search(rf"^{name} +beam4 +{wer}", printed, re.MULTILINE)
        assert re.search(rf"^\| {name} \| beam4 \| {wer}", markdown, re.MULTILINE)
        assert (recipe.egs / "exp" / name / "training.png").stat().st_size > 0
    assert (recipe.egs / "exp" / "wer_vs_params.png").stat().st_size > 0
    assert [name for name in EXPERIMENTS if rows[name]["relative"] is None] == ["baseline"]


def test_parameters_are_those_of_the_command_line(first):
    recipe, _ = first
    counts = {row["experiment"]: row["parameters"] for row in recipe.results()["rows"]}
    for name in EXPERIMENTS:
        told = recipe.command("params", "--config", f"conf/mini/{name}.yaml", *sets(MODEL))
        assert counts[name] == json.loads(told)
    transformer = {name: count["transformer"] for name, count in counts.items()}
    assert transformer["baseline"] == 3 * transformer["shared"]  # three layers, one group
    assert transformer["residual"] == transformer["shared"] + counts["residual"]["residual"]
    assert counts["residual"]["residual"] > 0 == counts["shared"]["residual"] == counts["baseline"]["residual"]


def test_the_warm_start_names_every_key(first):
    exp = first[0].egs / "exp"
    lines = [line.split() for line in (exp / "residual" / "warm_start.txt").read_text().splitlines()]
    parts = {key: what for what, key in lines}
    assert len(parts) == len(lines)
    for key, what in parts.items():
        assert what == ("fresh" if key.rsplit(".", 1)[-1] in ("A", "B", "D") else "mapped")
    assert {key.rsplit(".", 1)[-1] for key, what in parts.items() if what == "fresh"} == {"A", "B", "D"}
    assert not (exp / "shared" / "warm_start.txt").exists()


def test_every_utterance_has_a_hypothesis(first):
    recipe, _ = first
    cuts = {cut.id: cut for cut in recipe.cuts()}
    for name in EXPERIMENTS:
        records = recipe.hypotheses(name)
        assert [record["id"] for record in records] == list(cuts)
        for record in records:
            assert record["ref"] == cuts[record["id"]].supervisions[0].text
            assert record["duration"] == cuts[record["id"]].duration
            assert len(record["tokens"]) == len(record["times"]) and sorted(record["times"]) == record["times"]
            scores = [entry["score"] for entry in record["nbest"]]
            assert scores == sorted(scores, reverse=True) and record["score"] == scores[0] and 1 <= len(scores) <= 4


def test_transcribing_a_file_gives_what_was_decoded(first):
    recipe, _ = first
    files = [cut.recording.sources[0].source for cut in recipe.cuts()]
    command = ["transcribe", "--model", "egs/mini/exp/residual", "--beam", "4"]
    records = recipe.hypotheses("residual")
    assert any(record["tokens"] for record in records)  # or there is nothing to compare
    told = [json.loads(line) for line in recipe.command(*command, "--json", *files).splitlines()]
    for file, one, record in zip(files, told, records, strict=True):
        assert (one["file"], one["text"]) == (file, record["hyp"])
        assert (one["tokens"], one["times"]) == (record["tokens"], record["times"])
        # alone here, in a padded batch there: float32 sums of hundreds of frames, in another order
        assert one["score"] == pytest.approx(record["score"], rel=1e-4)
    assert recipe.command(*command, files[0]) == f"{files[0]}\t{records[0]['hyp']}\n"


def test_a_second_call_skips_every_stage(recipe):
    before = {path: path.stat().st_mtime_ns for path in recipe.egs.glob("exp/*/model.safetensors")}
    results = recipe.results()
    printed = recipe.stages()
    assert printed.count("skipped, done before") == 4 + 2 * len(EXPERIMENTS)
    assert stages_run(printed) == [8]  # the table is always made
    assert before == {path: path.stat().st_mtime_ns for path in recipe.egs.glob("exp/*/model.safetensors")}
    assert recipe.results() == results


def test_another_search_decodes_and_scores_only(recipe):
    printed = recipe.stages("--set", "decode.nbest=2")
    assert stages_run(printed) == [7, 7, 7, 8]
    assert printed.count("runs again: decode.nbest 4 -> 2") == 3
    assert max(len(record["nbest"]) for record in recipe.hypotheses("shared")) == 2


def test_dev_is_decoded_and_scored_on_request(recipe):
    printed = recipe.stages("--stage", "7", "--test-set", "dev", "--experiments", "baseline")
    assert stages_run(printed) == [7, 8]
    results = recipe.results("_dev")
    assert results["split"] == "dev" and [row["run"] for row in results["rows"]] == ["decode_dev_beam4"]
    assert [record["id"] for record in recipe.hypotheses("baseline", "dev")] == [cut.id for cut in recipe.cuts("dev")]


def test_another_training_puts_the_old_one_aside(recipe):
    options = ["--stage", "4", "--stop-stage", "4", "--experiments", "baseline"]
    printed = recipe.stages(*options, "--set", "encoder.dropout=0.2")
    assert "runs again: encoder.dropout 0.1 -> 0.2" in printed
    assert "is kept in egs/mini/exp/old/baseline.1" in printed
    for folder, dropout in (("baseline", 0.2), ("old/baseline.1", 0.1)):
        assert (recipe.egs / "exp" / folder / "model.safetensors").is_file()
        config = (recipe.egs / "exp" / folder / "config.yaml").read_text()
        assert re.search(rf"^encoder:.*?^  dropout: {dropout}$", config, re.MULTILINE | re.DOTALL)


def stages_run(printed: str) -> list[int]:
    """Numbers of the stages that were begun and not skipped."""
    heads = re.findall(r"^== stage (\d): (.*)$", printed, re.MULTILINE)
    return [int(number) for number, rest in heads if "skipped, done before" not in rest]
