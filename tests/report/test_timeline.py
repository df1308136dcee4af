"""The picture of one utterance: what is drawn, and where on its axis of time."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from support.depths import bundle_of

from residualformer.errors import UserError
from residualformer.files import write_json, write_text
from residualformer.model.checkpoint import save_model
from residualformer.model.cost import flops_per_frame
from residualformer.report import timeline
from residualformer.report.amnet import Device
from residualformer.report.scoring import read_words, score_run
from residualformer.report.timeline import Heard, Track, draw_timeline, text_rows
from residualformer.words.words import Word

FRAMES = Device({"arbitrator": 1.0, "output": 2.0, "branches": [9.0, 4.0, 1.0]}, mu=200.0, rho=25.0)  # of 40 ms
CHUNKS = Device({"arbitrator": 1.0, "output": 2.0, "branches": [20.0, 9.0, 4.0]}, mu=200.0, rho=25.0, frames_per_step=4)
SOUND = np.random.default_rng(0).normal(size=(160, 20))
WORDS = [Word("one", 0.1, 0.4, 0.9), Word("$x_$", 0.4, 1.5, 0.5)]


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that are drawn, of which no file is written."""
    drawn: list = []
    monkeypatch.setattr(timeline, "save", lambda figure, picture: drawn.append(figure))
    return drawn


def strips(figure) -> list:
    """Of each strip: heights (T,) and edges (T + 1,) in seconds."""
    patches = [patch for axis in figure.axes for patch in axis.patches if isinstance(patch, StepPatch)]
    return [patch.get_data()[:2] for patch in patches]


def test_a_strip_lasts_as_long_as_its_decisions_and_the_backlog_is_the_costs(figures):
    draw = np.random.default_rng(1)
    tracks = [
        Track("frames", draw.integers(3, size=40), FRAMES),
        Track("chunks", draw.integers(3, size=10), CHUNKS, [6, 4, 1]),
    ]
    draw_timeline("x", Heard(SOUND, WORDS, "chunks"), tracks, Path("x.png"))
    (figure,) = figures
    (slow, at), (loops, of_chunks) = strips(figure)
    assert at == pytest.approx(0.04 * np.arange(41)) and of_chunks == pytest.approx(0.16 * np.arange(11))
    assert list(slow) == list(3 - tracks[0].decisions)
    assert list(loops) == [[6, 4, 1][depth] for depth in tracks[1].decisions]
    ticks = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes[2:4]]
    assert ticks == [["slow", "branch 1", "fast"], ["6 loops", "4 loops", "1 loop"]]
    for line, track, edges in zip(figure.axes[-1].lines, tracks, (at, of_chunks)):
        times, left_ms = line.get_data()
        expected = track.device.backlog_s(track.decisions)
        assert list(times[:-1]) == list(edges) and list(left_ms) == [0, *(1e3 * expected), 0]
        assert times[-1] == edges[-1] + expected[-1]  # worked off in as long as it takes
    assert len({axis.get_xlim() for axis in figure.axes}) == 1


def test_what_is_not_known_has_no_panel(figures):
    track = Track("a", np.zeros(10, int), CHUNKS, [6, 4, 1])
    for heard in (Heard(), Heard(SOUND), Heard(words=WORDS, recognizer="a"), Heard(SOUND, WORDS, "a")):
        draw_timeline("x", heard, [track], Path("x.png"))
    assert [len(figure.axes) for figure in figures] == [2, 3, 3, 4]
    assert [text.get_text() for text in figures[-1].axes[1].texts] == ["one", "$x_$"]


@pytest.mark.parametrize("models", [1, 9])
def test_any_number_of_models_and_an_endless_word_are_a_picture(tmp_path, models):
    tracks = [Track(f"m_{number}", np.arange(40) % 3, FRAMES) for number in range(models)]
    words = [*WORDS, Word(300 * "a", 1.5, 1.6, 0.1)]
    draw_timeline("x", Heard(SOUND, words, "m_0"), tracks, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_texts_do_not_overlap():
    draw = np.random.default_rng(2)
    starts = np.sort(draw.uniform(0, 8, 40))
    words = [Word("x" * draw.integers(1, 9), start, start + draw.uniform(0.02, 0.6), 1.0) for start in starts.tolist()]
    rows = text_rows(words, 0.07)
    for row in set(rows):
        own = [word for word, place in zip(words, rows) if place == row]
        for one, following in zip(own, own[1:]):
            widths = [max(word.end - word.start, 0.07 * len(word.word)) for word in (one, following)]
            apart = (following.start + following.end - one.start - one.end) / 2
            assert apart >= sum(widths) / 2 - 1e-9
    assert rows[0] == 0 and set(rows) == set(range(max(rows) + 1))


def write_depths(run: Path, words: list | None) -> dict[str, str]:
    """A decoding run of a model of three depths with an arbitrator; gives the depths of each chunk."""
    bundle = bundle_of(3, [3, 2, 1], arbitrated=True)
    run.mkdir(parents=True)
    save_model(run.parent / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    depths = {"u0": "0120", "u1": "210012"}
    told = {} if words is None else {"words": words}
    lines = [{"id": name, "ref": "a", "hyp": "a", "branches": taken} | told for name, taken in depths.items()]
    write_text(run / "hyp.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(run / "decode.json", {"target": "text", "search": "beam16", "utterances": 2, "skipped": []})
    return depths


def test_the_scores_of_depths_come_with_their_picture(tmp_path, monkeypatch, figures):
    run = tmp_path / "deep" / "exp" / "depth_avg" / "decode_test_beam16"
    spoken = {"word": "a", "start": 0.1, "end": 0.3, "confidence": 0.5}
    depths = write_depths(run, [spoken])
    monkeypatch.setattr(sys, "argv", ["score.py", str(tmp_path / "deep")])
    runpy.run_path(str(Path(__file__).parents[2] / "steps" / "score.py"), run_name="__main__")
    (figure,) = figures
    ((loops, edges),) = strips(figure)
    scored, encoder = score_run(run), bundle_of(3, [3, 2, 1], arbitrated=True).model.encoder
    chunk_s = 0.01 * encoder.stride * encoder.frames_per_step
    assert encoder.frames_per_step > 1 and edges == pytest.approx(chunk_s * np.arange(7))
    assert list(loops) == [3 - int(digit) for digit in depths["u1"]]  # the longest
    assert scored.device.flops == flops_per_frame(bundle_of(3, [3, 2, 1], arbitrated=True).model)
    assert list(figure.axes[-1].lines[0].get_ydata()[1:-1]) == list(
        1e3 * scored.device.backlog_s(scored.decisions["u1"])
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["a"]
    assert "](branches.png)" in (tmp_path / "deep" / "exp" / "RESULTS.md").read_text(encoding="utf-8")
    assert read_words(run / "hyp.jsonl", "u0") == [Word(**spoken)]


def test_words_of_older_decodings_and_damaged_ones(tmp_path):
    write_depths(tmp_path / "old" / "decode_test_beam16", None)
    assert read_words(tmp_path / "old" / "decode_test_beam16" / "hyp.jsonl", "u0") == []
    write_depths(tmp_path / "bad" / "decode_test_beam16", [{"word": "a", "start": "soon"}])
    with pytest.raises(UserError, match=r"does not tell the words of u0 \(words\[0\].start must be a number"):
        read_words(tmp_path / "bad" / "decode_test_beam16" / "hyp.jsonl", "u0")
