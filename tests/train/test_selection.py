"""What the dev set decides: which weights become the model, and when a training ends early."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from support.toy_training import CONFIG, changed, make_trainer, stop_at

from residualformer.config.amnet import AmNetConfig
from residualformer.config.loading import load_config
from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.model.tensors import read_tensors
from residualformer.train.selection import Validations, candidates, takes_over
from residualformer.train.state import CheckpointFolder

MINI = Path(__file__).resolve().parents[2] / "conf" / "mini"


def values(wer: float, loss: float) -> dict[str, float]:
    return {"greedy_wer": wer, "greedy_cer": wer, "transducer_per_token": loss, "loss_per_frame": loss}


def measured(*pairs: tuple[float, float]) -> Validations:
    return Validations({"step": 10 * n, "values": values(*pair)} for n, pair in enumerate(pairs, 1))


def test_the_best_validations_are_those_of_the_least_error_and_of_the_least_loss_where_equal():
    found = measured((100, 4.0), (40, 0.9), (30, 1.0), (40, 0.8), (30, 1.0))
    assert found.best(4) == [50, 30, 40, 20] and found.best(0) == []
    translation = Validations(
        {"step": step, "values": {"greedy_bleu": bleu, "transducer_per_token": 1.0}}
        for step, bleu in ((1, 9.0), (2, 11.0))
    )
    assert translation.best(1) == [2]


def test_a_training_that_improves_in_either_measure_goes_on():
    assert measured((100, 4.0), (100, 3.0), (100, 2.0)).without_improvement() == 0
    assert measured((40, 0.5), (35, 0.6), (36, 0.7), (35, 0.5)).without_improvement() == 2
    assert measured((40, 0.5), (41, 0.6), (42, 0.6)).are_enough(2) and not measured((40, 0.5), (41, 0.6)).are_enough(0)


def test_another_candidate_is_taken_if_it_is_better_than_the_first_by_both_measures_and_has_the_least_error():
    first, second = values(30, 1.0), values(28, 0.9)
    assert takes_over(second, first, first)
    for new in (values(28, 1.1), values(31, 0.9), values(30, 0.9)):
        assert not takes_over(new, first, first)
    assert takes_over(values(27, 0.95), first, second) and not takes_over(values(29, 0.8), first, second)


def test_an_average_leaves_out_checkpoints_from_before_the_last_part_of_the_updates(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=10)
    for step in range(169, 1300, 169):
        folder.save_weights({}, step)
    folder.save_weights({}, 1300)
    half, all_of_them = (
        candidates(folder, Validations(), changed("train", average_last=10, average_share=share), 1300)[0].files
        for share in (0.5, 1.0)
    )
    assert [path.name for path in half] == [f"step-{step}.safetensors" for step in (676, 845, 1014, 1183, 1300)]
    assert len(all_of_them) == 8


def test_models_with_branches_are_not_compared_by_errors_alone(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (4, 6):
        folder.save_weights({}, step)
    branches = dataclasses.replace(CONFIG, amnet=AmNetConfig("factorised", [0.35, 0.6]))
    assert [len(candidates(folder, Validations(), config, 6)) for config in (CONFIG, branches)] == [2, 1]


def run_with(trainer, *pairs):
    """Run a trainer whose validations give these values, the last of them for ever."""
    given = itertools.chain(pairs, itertools.repeat(pairs[-1]))
    trainer.validate = lambda: values(*next(given))
    return trainer.run()


def test_the_last_checkpoint_is_kept_where_the_average_is_worse_on_dev(toy_cuts, tmp_path, caplog):
    # The values are those of the last update, of the average, and of the last checkpoint alone.
    info = run_with(make_trainer(toy_cuts, tmp_path), (53, 1.0), (87, 2.0), (53, 1.0))
    assert info["averaged"] == ["step-6.safetensors"] and info["valid"] == values(53, 1.0)
    assert [each["valid"]["greedy_wer"] for each in info["candidates"]] == [87, 53]
    assert "the last checkpoint is kept, which is better on dev (WER 53.00%, 1.000 nats/token) than the average" in (
        caplog.text
    )
    weights = checkpoint.read_model(tmp_path / "model.safetensors").weights
    for name, tensor in read_tensors(tmp_path / "checkpoints" / "step-6.safetensors", "weights")[0].items():
        assert torch.equal(weights[name], tensor), name


@pytest.mark.parametrize("kind", ["average", "single"])
def test_the_best_checkpoints_on_dev_are_kept_and_may_become_the_model(toy_cuts, tmp_path, kind):
    config = changed("train", max_steps=8, valid_every_steps=2, average_best=2)
    dev = [(90, 3.0), (30, 1.0), (31, 1.0), (60, 1.5)]  # after 2, 4, 6 and 8 updates
    ends = {"average": [(29, 0.9), (30, 1.0)], "single": [(29, 1.6), (30, 1.0)]}[kind]
    info = run_with(make_trainer(toy_cuts, tmp_path, config), *dev, (50, 1.4), (60, 1.5), *ends)
    best = [f"best-{step}.safetensors" for step in (4, 6)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("best-*")) == best
    assert info["averaged"] == (best if kind == "average" else best[:1])
    assert [each["files"] for each in info["candidates"]][2:] == [best, best[:1]]
    assert not info["stopped_early"]


def test_a_training_ends_when_dev_has_not_improved_for_long_enough_and_does_so_after_an_interruption(
    toy_cuts, tmp_path
):
    config = changed("train", max_steps=60, valid_every_steps=2, patience=2, average_best=1)
    dev = (90, 3.0), (30, 1.0), (31, 1.1), (32, 1.2)  # after 2, 4, 6 and 8 updates

    info = run_with(make_trainer(toy_cuts, tmp_path / "straight", config), *dev)
    assert info["steps"] == 8 and info["stopped_early"]
    for stop in (5, 8):  # in the middle, and where the training has ended but the model is not written
        broken, folder = make_trainer(toy_cuts, tmp_path / f"broken{stop}", config), tmp_path / f"broken{stop}"
        stop_at(broken, stop, partial(run_with, broken, *dev))
        again = make_trainer(toy_cuts, folder, config)
        assert again.resume() and again.step == stop
        assert run_with(again, *dev[stop // 2 :], dev[-1])["fingerprint"] == info["fingerprint"]
        assert again.step == 8


@pytest.mark.parametrize("key", ["average_best", "patience"])
def test_phases_of_a_training_are_not_compared(key):
    with pytest.raises(UserError, match=f"train.{key} is 3, but with amnet.method = factorised"):
        load_config(MINI / "mf.yaml", [f"train.{key}=3"])
    assert getattr(load_config(MINI / "baseline.yaml", [f"train.{key}=3"]).train, key) == 3
    assert CONFIG.train.patience == CONFIG.train.average_best == 0
