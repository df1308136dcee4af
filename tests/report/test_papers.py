"""The papers' tables as data: printed values lead to the printed gaps, sizes are those of the models, names exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from residualformer.config.composition import experiment_names
from residualformer.errors import UserError
from residualformer.report.papers import find_table, paper_gaps, read_table

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "conf" / "tables"
FILES = sorted(TABLES.glob("*.yaml"))

# The rows "rel. gap from baseline (%)" as the ResidualTransformer paper prints them; table 1 and 2 print none.
PRINTED = {
    "table3": [[4.0], [9.9], [16.6], [30.0], [1.8], [6.3], [10.1], [21.2]],
    "table4": [
        [10.4, 3.4, 3.7], [17.1, 7.7, 6.8], [20.8, 9.6, 9.9], [35.9, 21.0, 16.7],
        [3.4, 0.3, 1.4], [11.1, 4.6, 3.7], [15.8, 6.8, 7.1], [27.2, 14.5, 13.3],
    ],
    "table5": [[1.8], [1.7], [2.0], [1.9], [2.3], [10.1], [10.9], [11.6], [12.0], [12.6]],
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_gaps_follow_from_the_values_as_printed(name):
    table = find_table(TABLES, name)
    gaps = [found for cell in table.cells() if (found := paper_gaps(table, cell))]
    for found, printed in zip(gaps, PRINTED[name], strict=False):  # table 3's last rows are from the text
        assert found == pytest.approx(printed, abs=0.0501)  # printed to one digit


def test_the_savings_of_the_amnets_follow_from_their_flops_as_printed():
    table = find_table(TABLES, "amnets")
    flops = [cell.mflop for cell in table.cells()]
    printed = [0.0, 13.1, 35.2, 40.8, 40.8, 28.8, 42.3, 45.6, 45.6]
    for mflop, saved in zip(flops, printed, strict=True):
        assert 100 * (1 - mflop / flops[0]) == pytest.approx(saved, abs=0.2)  # both are rounded


def test_sizes_are_those_that_follow_from_the_papers_dimensions():
    def layers(sets: int, rank: int = 0) -> float:
        residual = 18 * (rank * (4 * 1024 + 2 * 2560) + 6 * 512) if rank else 0
        return (sets * 3_150_336 + residual) / 1e6

    expected = {"baseline": layers(18), "shared": layers(6), "shared6": layers(3), "shared9": layers(2)}
    expected |= {"shared18": layers(1), "last_unique": layers(7), "four_sets": layers(4)}
    expected |= {f"shallow{n}": layers(n) for n in (6, 3, 2, 1)}
    for k, sets in (("", 6), ("6", 3), ("9", 2), ("18", 1)):
        expected |= {f"residual{k}": layers(sets, 16)}
        expected |= {f"residual{k}_r{r}": layers(sets, r) for r in (8, 4, 2, 1)}
    cells = [cell for file in FILES if file.stem != "amnets" for cell in read_table(file).cells() if cell.parameters]
    assert len(cells) == 9 + 9 + 11 + 9 + 10
    for cell in cells:  # printed to one digit; 22.0 of the last unique layer is cut off, not rounded
        assert cell.parameters == pytest.approx(expected[cell.experiment], abs=0.053), cell.experiment


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_name_is_an_experiment(file):
    recipe = ROOT / "conf" / ("mini" if file.stem == "amnets" else "mini_deep")
    assert set(read_table(file).experiments) <= set(experiment_names(recipe))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_residual_cell_has_a_control_that_starts_from_the_same_model(file):
    for cell in read_table(file).cells():
        assert (cell.control is not None) == cell.experiment.startswith("residual")
        if cell.control:
            k = cell.experiment.removeprefix("residual").partition("_")[0]
            assert cell.control == f"control{k}"


def test_the_test_sets_of_translation_are_the_papers():
    assert find_table(TABLES, "4").sets == find_table(TABLES, "2").sets == ["CoVoST", "MSLT", "internal"]


def test_a_table_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no table '7' in .*; there are: amnets, table1"):
        find_table(TABLES, "7")
    good = (TABLES / "table6.yaml").read_text(encoding="utf-8")
    for wrong, words in {
        good.replace("value:", "valeu:"): "unexpected keyword argument 'valeu'",
        good.replace("metric: WER", "metric: PER"): "metric is 'PER'; it must be one of WER, BLEU",
        good.replace("[with diagonal, without diagonal]", "[with]"): "row 'D1.*' has 2 cells for 1 columns",
        good.replace(
            "cells:", "controls: {a: 'b:random'}\n    cells:", 1
        ): "has controls, which only a table of layout lines",
        good.replace("cells:", "controls: {a: 'b:chance'}\n    cells:", 1).replace("rows:", "layout: lines\nrows:"): (
            "'chance' chooses no branches; it must be one of slow, fast, random, loud, oracle"
        ),
        good.replace("value: 13.51", "value: [13.51, 1.0]"): "residual_nodiag has 2 values for 1 sets",
        good.replace("[with diagonal, without diagonal]", "7"): "is not the definition of a table",
        "rows: 3": "is not the definition of a table",
        "a list": "is not the definition of a table",
    }.items():
        (tmp_path / "table6.yaml").write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError, match="table6.yaml.*" + words):
            find_table(tmp_path, "6")
