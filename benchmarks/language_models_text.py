"""What `language_models.py` found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from residualformer.report.format import markdown_table, show_ends


def render(found: Mapping[str, Any]) -> str:
    """Return the table of a result of `language_models.py`."""
    rows, internal = found["rows"], found["internal"]
    lines = ["<!-- Written by benchmarks/language_models.py from language_models.json. Do not edit. -->"]
    lines += ["# Language models", ""]
    lines += [
        f"{found['model']}, beam {found['beam']}, {found['test']} utterances of {found['split']}, {rows[0]['words']} "
        f"words. Weights were chosen on the first {found['dev']} utterances of dev. Intervals of 95% and two-sided p "
        "against the search with nothing added are from the paired bootstrap over utterances, seed 0.",
        "",
        f"`{found['command']}` at commit {found['commit']}, {found['hardware']}, {found['wall_s'] / 60:.0f} minutes; "
        f"{found['versions']}.",
        "",
    ]
    header = ["language model", "lm_weight", "token_reward", "ilm_weight", "dev WER %", "test WER %", "relative %"]
    header += ["p", "inserted / deleted / substituted", "real-time factor"]
    lines += [*markdown_table(header, [_cells(row, rows[0]) for row in rows]), ""]
    lines += ["Real-time factors are the processor's time for encoder and search, by the duration of the audio.", ""]
    lines += ["## Perplexities", ""]
    lines += markdown_table(
        ["language model", "token, dev", "token, test", "word, dev", "word, test", "MB"],
        [
            *(
                _perplexities(row["lm"], row["dev_perplexity"], row["test_perplexity"], row["bytes"])
                for row in _with_lm(rows)
            ),
            _perplexities("internal", internal["dev"], internal["test"], None),
        ],
    )
    lines += [
        "",
        "The ends of sentences count as tokens and as words; `internal` knows none, so its numbers are a little low.",
    ]
    return "\n".join(lines) + "\n"


def _with_lm(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if "dev_perplexity" in row]


def _cells(row: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    has_lm = "dev_perplexity" in row
    value, low, high = row["wer"]
    relative, relative_low, relative_high = row["gap"]
    cells = [row["lm"], f"{row['lm_weight']:g}" if has_lm else "-"]
    cells += [f"{row['token_reward']:g}" if "token_reward" in row else "0", f"{row['ilm_weight']:g}" if has_lm else "-"]
    cells += [f"{row['dev_wer']:.2f}", f"{value:.2f} [{low:.2f}, {high:.2f}]"]
    differs = row is not plain and relative is not None
    cells += [f"{relative:+.1f} {show_ends(relative_low, relative_high)}", f"{row['p']:.3f}"] if differs else ["-", "-"]
    return [*cells, f"{row['insertions']} / {row['deletions']} / {row['substitutions']}", f"{row['rtf']:.4f}"]


def _perplexities(name: str, dev: Mapping[str, float], test: Mapping[str, float], size: int | None) -> list[str]:
    cells = [f"{split[unit]:.{digits}f}" for unit, digits in (("token", 3), ("word", 2)) for split in (dev, test)]
    return [name, *cells, "-" if size is None else f"{size / 1e6:.1f}"]
