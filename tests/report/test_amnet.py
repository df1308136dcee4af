"""Shares, FLOPs and latency of AmNets against sums by hand and the paper's table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from residualformer.errors import UserError
from residualformer.report.amnet import Device, Latency, measure_cost, read_decisions, shared_utterance
from residualformer.report.compare import with_savings
from residualformer.report.results import Row

MU, RHO = 650e6, 100 / 3


def paper_device(slow: float, fast: float) -> Device:
    """FLOPs per frame of the branches with arbitrator and projection, as the paper counts them."""
    output, arbitrator = 1024 * 4097, 295_168
    branches = [flops - output - arbitrator for flops in (slow, fast)]
    return Device({"arbitrator": arbitrator, "output": output, "branches": branches}, MU, RHO)


def row_of(experiment: str, mflop: float | None) -> Row:
    """A row that tells nothing but what a frame costs."""
    cost = None
    if mflop is not None:
        cost = measure_cost(
            Device({"arbitrator": 0.0, "output": 0.0, "branches": [mflop * 1e6]}, MU, RHO), [np.zeros(1, int)]
        )
    names = dict.fromkeys(["run", "split", "search", "metric"], "")
    return Row(experiment=experiment, **names, utterances=0, missing=0, scores={}, amnet=cost)


@pytest.mark.parametrize(
    "slow, fast, rows",
    [
        (30.4e6, 21.05e6, {0.62: (24.6, 42.3), 0.77: (23.2, 45.6)}),  # factorised
        (39e6, 12.5e6, {0.43: (27.7, 35.2), 0.52: (25.3, 40.8)}),  # sparse
    ],
)
def test_the_papers_table(slow, fast, rows):
    """Both rows of a method follow from the FLOPs of its two branches, to what the table's digits leave open."""
    device = paper_device(slow, fast)
    dense = row_of("rnnt", 42.73)
    for share, (mflop, saving) in rows.items():
        decisions = (np.arange(1000) < 1000 * share).astype(np.int64)
        cost = measure_cost(device, [decisions[:300], decisions[300:]])
        assert cost.shares == [round(1 - share, 4), share] and cost.mflop == pytest.approx(mflop, abs=0.15)
        row = with_savings([dense, replace(dense, experiment="amnet", amnet=cost)])[1]
        assert row.amnet.saving == pytest.approx(saving, abs=0.4)


def test_latency_and_its_percentiles_are_those_of_the_backlog_by_hand():
    device = Device({"arbitrator": 10.0, "output": 20.0, "branches": [170.0, 20.0]}, mu=1000.0, rho=10.0)
    assert device.per_branch.tolist() == [200, 50]  # 100 are free per frame
    late, early = np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    assert device.backlog_s(late).tolist() == pytest.approx([0, 0, 0.1, 0.2])
    assert device.backlog_s(early).tolist() == pytest.approx([0.1, 0.2, 0.15, 0.1])
    cost = measure_cost(device, [late, early, np.array([1]), np.array([], dtype=np.int64)], [0.1, 0.8])
    assert cost.latency_ms == Latency(mean=75, median=50, p90=170, p99=197)  # of 0, 0, 100, 200
    assert (cost.frames, cost.mflop, cost.shares) == (9, round((4 * 200 + 5 * 50) / 9e6, 4), [0.4444, 0.5556])
    assert cost.compression == [0.1, 0.8] and measure_cost(device, [np.array([], dtype=np.int64)]) is None


def test_a_baseline_that_is_too_slow_is_late_by_the_same_for_every_frame():
    """The paper's 6154 ms are 172 frames' worth."""
    device = Device({"arbitrator": 0.0, "output": 4_195_328.0, "branches": [38_559_745.0]}, MU, RHO)
    cost = measure_cost(device, [np.zeros(172, dtype=np.int64)])
    assert cost.latency_ms.mean == pytest.approx(6153.6, abs=0.1) and cost.shares == [1.0]


def test_decisions_are_read_or_refused():
    assert read_decisions("0102", 3, "x").tolist() == [0, 1, 0, 2] and len(read_decisions("", 2, "x")) == 0
    for wrong in ("012", "0-1", "0a"):
        with pytest.raises(UserError, match="hyp.jsonl names branches that its model does not have.*0 to 1"):
            read_decisions(wrong, 2, "hyp.jsonl")


def test_savings_need_a_baseline():
    rows = [row_of("mf", 3.0), row_of("shared", None)]
    assert with_savings(rows) == rows and rows[0].amnet.saving is None is rows[1].amnet


def test_the_utterance_of_the_picture():
    frames = {"a": 90, "b": 250, "c": 250, "d": 400, "e": 299}
    first = {name: np.zeros(count) for name, count in frames.items()}
    assert shared_utterance([first], RHO) == "e"
    second = {name: first[name] for name in "dcba"}
    assert shared_utterance([first, second], RHO) == "b"  # the first of equals
    assert shared_utterance([{"d": first["d"]}], RHO) == "d" and shared_utterance([first, {}], RHO) is None
