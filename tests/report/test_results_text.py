"""Results as text."""

from __future__ import annotations

from types import SimpleNamespace

from support.decoded_runs import results

from residualformer.metrics.bootstrap import NO_GAP, Gap
from residualformer.report.results import NO_COMPARISON, Comparison, Decoding, Training
from residualformer.report.results_text import aligned, baselines, cells, render_markdown


def test_an_infinite_end_of_a_gap_is_shown():
    gap = Gap(relative=300.0, relative_low=0.0, p_value=0.1)
    header, ((*row,),) = cells(results(comparison=Comparison.of(gap, NO_GAP)))
    assert dict(zip(header, row, strict=True))["vs baseline"] == "+300.0% [+0.0, inf]"


def test_tables_show_the_numbers():
    header, ((*row,),) = cells(results())
    shown = dict(zip(header, row, strict=True))
    assert shown["WER % [95%]"] == "9.50 [8.00, 11.25]" and shown["ins/del/sub"] == "1/2/30"
    assert (shown["vs baseline"], shown["p"], shown["Transformer M"]) == ("-4.2%", "0.031", "1.500")
    assert "BLEU [95%]" not in shown and "missing" not in shown
    header, ((*row,),) = cells(results(missing=2))
    assert dict(zip(header, row, strict=True))["missing"] == "2"
    text = render_markdown(results())
    assert "Do not edit" in text.splitlines()[0] and "| a\\|b |" in text and "- time: 1.5 min" in text
    widths = {len(line) for line in aligned(results()).splitlines()}
    assert len(widths) <= 2


def test_a_row_without_model_or_decoding_record_still_shows():
    bare = results(parameters={}, training=Training(), decoding=Decoding(), description="", comparison=NO_COMPARISON)
    assert "9.50 [8.00, 11.25]" in render_markdown(bare) and "Transformer M" not in aligned(bare)


def test_each_baseline_is_named_with_the_rows_that_it_is_compared_with():
    def row(experiment, baseline, transformer=True):
        return SimpleNamespace(experiment=experiment, baseline=baseline, of_transformer=transformer)

    rows = [row("baseline", "baseline"), row("shared", "baseline")]
    assert baselines(rows, ["baseline"]) == "`baseline`"
    recurrent = [*rows, row("rnnt", "rnnt", False), row("mf", "rnnt", False)]
    assert baselines(recurrent, ["baseline", "rnnt"]) == "`baseline` (Transformers) or `rnnt` (recurrent encoders)"
    deep = [*rows, row("depth", "depth"), row("depth_avg", "depth"), row("depth_avg", "depth")]
    assert baselines(deep, ["baseline", "depth"]) == "`baseline` or `depth` (of depth, depth_avg)"
