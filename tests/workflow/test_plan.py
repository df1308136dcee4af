"""Which stage trains an experiment, after which others: what run.sh asks before it begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

from residualformer.errors import UserError
from utils.plan import in_order

BRANCHES = "encoder: {kind: lstm}, amnet: {method: factorised, compression: [0.35, 0.6]"
CONFS = {
    "base": "{}",
    "rnnt": "{encoder: {kind: lstm}}",
    "shared": "{encoder: {sharing: 3}}",
    "residual": "{encoder: {sharing: 3, residual: {rank: 4}}, warm_start: shared}",
    "mf": "{warm_start: rnnt, encoder: {kind: lstm}, amnet: {method: factorised, compression: [0.35]}}",
    "mf_avg": f"{{warm_start: mf, {BRANCHES}, arbitrator: {{teacher: rnnt, pretrain_steps: 5}}}}}}",
    "mf_biased": f"{{warm_start: mf, {BRANCHES}, arbitrator: {{teacher: rnnt, pretrain_steps: 5}}, "
    "cost: {kind: avg, weight: 1, match: mf_amr}}}",
    "mf_amr": f"{{warm_start: mf_avg, {BRANCHES}, cost: {{kind: amr, weight: 1}}}}}}",
    "lost": f"{{warm_start: mf, {BRANCHES}, arbitrator: {{teacher: rnn, pretrain_steps: 5}}}}}}",
}


@pytest.fixture
def plan(root, tmp_path):
    for name, text in CONFS.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    def run(*names: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "utils/plan.py", str(tmp_path), *names]
        return subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)

    return run


def test_stages_needs_and_order(plan):
    done = plan("mf_biased", "rnnt", "residual", "shared", "mf", "mf_avg", "mf_amr")
    assert done.stdout.splitlines() == [
        "rnnt 4", "mf 6 rnnt", "mf_avg 6 mf rnnt", "mf_amr 6 mf_avg", "mf_biased 6 mf rnnt mf_amr",
        "shared 4", "residual 5 shared",
    ]  # fmt: skip


def test_what_is_not_asked_for_is_not_trained(plan):
    assert plan("mf_amr", "mf_biased").stdout.splitlines() == ["mf_amr 6 mf_avg", "mf_biased 6 mf rnnt mf_amr"]


def test_a_need_that_is_no_experiment_is_told(plan):
    assert "there is no experiment 'rnn', which lost needs" in plan("lost").stderr


def test_experiments_that_need_each_other_are_told():
    with pytest.raises(UserError, match="a -> b -> a each needs the next"):
        in_order({"a": ["b"], "b": ["a"]})
    with pytest.raises(UserError, match="a -> a each needs the next"):
        in_order({"a": ["a"]})
