"""A corpus with a grammar is decoded with it as well: dev first, by which is chosen what is rejected."""

from __future__ import annotations

from pathlib import Path

from residualformer.workflow.recipe import Recipe


def test_the_steps_of_a_grammar(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    recipe = Recipe(Path("conf/phrases"), tmp_path)
    assert recipe.grammar is None and not list(recipe.grammar_decodings(["test"], "shared"))
    manifests = tmp_path / "data" / "manifests"
    manifests.mkdir(parents=True)
    (manifests / "grammar.txt").write_text("TURN IT ON\n")
    dev, tune, *tests = recipe.grammar_decodings(["test", "other@near"], "shared", jobs=2)
    run = tmp_path / "exp" / "shared"
    assert dev.out == run / "grammar" / "dev" and str(manifests / "grammar.txt") in dev.command
    assert tune.command[-1] == str(dev.out / "hyp.jsonl") and tune.after == [dev.out]
    compiled = str(run / "grammar" / "grammar.json")
    assert compiled in tune.command
    assert [step.out.name for step in tests] == ["test", "other@near"]
    for step in tests:
        assert step.command[step.command.index("--grammar") + 1] == compiled
        assert tune.output in step.after and run in step.after
    plain = recipe.decoding("test", "shared")
    assert not set(plain.makes) & {"hyp.jsonl"} and plain.marker not in {step.marker for step in tests}
