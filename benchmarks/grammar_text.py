"""What `grammar.py` found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from residualformer.report.format import markdown_table


def render(found: Mapping[str, Any]) -> str:
    """Return the document of a result of `grammar.py`."""
    count = found["sentences"]
    size = "sentences without end" if count is None else f"{count:.2g} sentences"
    lines = ["<!-- Written by benchmarks/grammar.py from grammar.json. Do not edit. -->", "# A grammar", ""]
    lines += [
        f"`{found['grammar']}`, {size}, with the model {found['model']}, {found['search']}.",
        "",
        f"`{found['command']}` at commit {found['commit']}, {found['hardware']}.",
        "",
        "## Recognition",
        "",
        *_recognition(found["recognition"]),
        "",
        "## Rejection",
        "",
        *_rejection(found),
        "",
        "## Cost",
        "",
        *_cost(found["cost"]),
    ]
    return "\n".join(lines) + "\n"


def _recognition(found: Mapping[str, Any]) -> list[str]:
    total = found["utterances"]
    rows = []
    for name, title in (("free", "without the grammar"), ("grammar", "with it, nothing refused")):
        values = found[name]
        right = [f"{100 * values[key] / total:.1f}" for key in ("sentences_right", "slots_right")]
        rows.append([title, _with_interval(values["wer"]), *right])
    gap = found["relative"]
    table = markdown_table(["", "WER %", "sentences right %", "all slots right %"], rows)
    return [
        f"The {total} test utterances that the grammar has, {found['words']} words; in brackets 95% intervals from the "
        "bootstrap over utterances.",
        "",
        *table,
        "",
        f"Relative change of the WER {gap[0]:+.1f}% [{gap[1]:+.1f}, {gap[2]:+.1f}], paired p = {found['p_value']}.",
    ]


def _with_interval(values: Sequence[float]) -> str:
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"


def _rejection(found: Mapping[str, Any]) -> list[str]:
    limits = list(zip(found["shares"], found["limits"], strict=True))
    header = ["speech", "of the grammar", "not of it", "equal error %", "at distance"]
    header += [f"refused % / accepted % at {limit:.2f}" for _, limit in limits]
    rows = []
    for row in found["rejection"]:
        cells = [row["speech"], str(row["inside"]), str(row["outside"])]
        cells += [f"{100 * row['equal_error']:.1f}", f"{row['equal_limit']:.2f}"]
        for refused, accepted in zip(row["refused"], row["accepted"], strict=True):
            cells.append(f"{100 * refused / row['inside']:.1f} / {100 * accepted / row['outside']:.1f}")
        rows.append(cells)
    shares = ", ".join(f"{limit:.2f} for {share:.0%}" for share, limit in limits)
    return [
        f"Largest distances to accept, in nats per second, chosen on the {found['dev']} dev utterances that the "
        f"grammar has, by the share of them that may be refused: {shares}. Refused is speech of the grammar, accepted "
        "is speech that is not of it. `words held out`: the same test utterances with grammars that lack half of each "
        "longer list, where some have a word that is missing.",
        "",
        *markdown_table(header, rows),
    ]


def _cost(found: Mapping[str, float]) -> list[str]:
    free, grammar = found["free"], found["grammar"]
    return [
        f"Processor seconds per second of audio, encoder aside, one thread, {found['audio_s']:.0f} s of audio in "
        f"batches: {free:.4f} for beam search without the grammar, {grammar:.4f} ({grammar / free:.2f} times) with it, "
        "the greedy search beside it included.",
    ]
