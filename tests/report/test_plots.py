"""Pictures: what is drawn, and what is not."""

from __future__ import annotations

import random

import pytest
from support.decoded_runs import results

from residualformer.files import write_text
from residualformer.metrics.bootstrap import Score
from residualformer.report.plots import against_parameters, dev_losses, pareto_front, training_curves


def test_the_pareto_front_is_what_nothing_smaller_surpasses():
    draw = random.Random(7)
    points = [(draw.randint(1, 20), draw.randint(1, 20)) for _ in range(60)]
    for sign, higher_is_better in ((1, False), (-1, True)):
        front = pareto_front(points, higher_is_better)
        beaten = {p for p in points if any(q != p and q[0] <= p[0] and sign * q[1] <= sign * p[1] for q in points)}
        assert front == sorted(set(points) - beaten)


def test_dev_losses_of_all_trainings_are_one_picture(tmp_path):
    write_text(tmp_path / "a.jsonl", '{"step": 5, "valid/transducer_per_token": 2.0}\n')
    write_text(tmp_path / "b.jsonl", '{"step": 5, "train/transducer_per_token": 2.0}\n')
    files = {name: tmp_path / f"{name}.jsonl" for name in "ab"}
    assert dev_losses(files, tmp_path / "x.png") and (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert not dev_losses({"b": files["b"]}, tmp_path / "y.png") and not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(("low", "high"), [(21.0, 25.0), (15.0, 19.0), (20.0 + 1e-14, 20.0)])
def test_an_interval_beside_its_value_is_drawn(tmp_path, low, high):
    drawn = results(split="test", search="greedy", scores={"wer": Score(value=20.0, low=low, high=high)})
    assert against_parameters(drawn, tmp_path) == [tmp_path / "wer_vs_params.png"]


def test_pictures_of_nothing(tmp_path):
    assert against_parameters(results(parameters={}), tmp_path) == [] and list(tmp_path.iterdir()) == []
    write_text(tmp_path / "metrics.jsonl", "")
    training_curves(tmp_path / "metrics.jsonl", tmp_path / "b.png")
    assert (tmp_path / "b.png").exists()
