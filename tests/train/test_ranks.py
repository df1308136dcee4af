"""Several ranks make the training of one: the same gradients, updates, decisions and measurements, to rounding.

All compute in float64. What is summed in another order differs by some 1e-15 of the largest terms then, and Muon's
products of bf16 numbers do not differ at all, so that a tolerance of 1e-9 tells rounding from anything that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from support.rank_scenarios import SCENARIOS, STOP_AT, together
from support.toy_training import CONFIG, changed, make_trainer

from residualformer.errors import UserError
from residualformer.train import ranks
from residualformer.train.nodes import check_ranks
from residualformer.train.ranks import Ranks

WORLDS = [2, pytest.param(3, marks=pytest.mark.slow)]
GRADIENTS = ["pruned", "exact", "distilled", "arbitrator", "uniform", "gumbel"]


@pytest.fixture(scope="module")
def results(toy_cuts, tmp_path_factory) -> Callable[[int], list[dict]]:
    """Return the results of all scenarios on each of some ranks."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}

    def of(world: int) -> list[dict]:
        for needed in (2, world):  # another number of ranks goes on with what two have begun
            if needed not in found:
                found[needed] = together(needed, toy_cuts, folder)
        return found[world]

    return of


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_are_those_of_one_process(results, world, kind):
    expected = results(1)[0][kind]["gradients"]
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-4
    for of_rank in results(world):
        assert_close(of_rank[kind]["gradients"], expected)


@pytest.mark.parametrize("world", [1, *WORLDS])
def test_the_arbitrator_alone_gets_gradients_in_its_phase(results, world):
    for of_rank in results(world):
        assert all(".arbitrator." in name for name in of_rank["arbitrator"]["gradients"])
        assert not all(".arbitrator." in name for name in of_rank["gumbel"]["gradients"])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", ["training", "branches"])
def test_six_updates_are_those_of_one_process_and_the_same_bits_on_all_ranks(results, world, kind):
    (alone,) = results(1)
    first = results(world)[0][kind]
    assert len({of_rank[kind]["fingerprint"] for of_rank in results(world)}) == 1
    assert_close(first["weights"], alone[kind]["weights"])
    assert first["valid"] == pytest.approx(alone[kind]["valid"], rel=1e-9)
    assert first["phases"] == {name: pytest.approx(state) for name, state in alone[kind]["phases"].items()}
    for of_rank in results(world):
        assert of_rank[kind]["valid"] == first["valid"] and of_rank[kind]["phases"] == first["phases"]


@pytest.mark.parametrize("world", [1, *WORLDS])
def test_a_stop_of_one_rank_saves_once_and_ends_all_at_the_same_update(results, world):
    for of_rank in results(world):
        assert of_rank["stopped"]["step"] == STOP_AT
    assert results(world)[0]["stopped"]["files"] == [
        "state-2.safetensors",
        f"state-{STOP_AT}.safetensors",
        "step-2.safetensors",
    ]


@pytest.mark.parametrize("world", [1, *WORLDS])
def test_another_number_of_ranks_goes_on_to_the_same_weights(results, world):
    for of_rank in results(world):
        assert_close(of_rank["gone_on"]["weights"], results(1)[0]["training"]["weights"])


@pytest.mark.parametrize("world", [1, *WORLDS])
@pytest.mark.parametrize(("kind", "skipped"), [("nan_loss", False), ("nan_gradient", True)])
def test_nan_on_one_rank_leads_to_the_same_decision_on_all(results, world, kind, skipped):
    (alone,) = results(1)
    for of_rank in results(world):
        found = of_rank[kind]
        assert math.isfinite(found["norm"]) != skipped and found["changed"] != skipped
        assert found["bad"] == int(skipped)
        assert found["told"] == alone[kind]["told"] and len(found["told"]) == 1
        assert_close(found["weights"], alone[kind]["weights"])
    if not skipped:  # the other batches count, and their frames alone
        assert results(world)[0][kind]["norm"] == pytest.approx(alone[kind]["norm"], rel=1e-9)


def test_every_scenario_is_looked_at():
    assert {*GRADIENTS, "training", "branches", "stopped", "gone_on", "nan_loss", "nan_gradient"} == set(SCENARIOS)


def test_more_ranks_than_batches_are_refused(toy_cuts, tmp_path):
    message = "2 processes, but an update has train.batches_per_update = 1 batches: .*at most 1 .--nproc"
    with pytest.raises(UserError, match=message):
        make_trainer(toy_cuts, tmp_path, CONFIG, ranks=Ranks(0, 2))
    check_ranks(2, changed("train", batches_per_update=2).train.batches_per_update)


def test_buckets_hold_every_parameter_once_and_are_bounded(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET_BYTES", 40)
    parameters = [torch.zeros(n, dtype=dtype) for n in (4, 20, 3, 2) for dtype in (torch.float32, torch.float64)]
    buckets = list(ranks._buckets(parameters))
    assert sorted(id(p) for bucket in buckets for p in bucket) == sorted(map(id, parameters))
    for bucket in buckets:
        assert len({p.dtype for p in bucket}) == 1
        assert len(bucket) == 1 or sum(p.nbytes for p in bucket) <= 40
    assert any(len(bucket) > 1 for bucket in buckets)
