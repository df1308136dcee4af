"""Which stage trains an experiment, after which others: what run.sh asks before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from residualformer.errors import UserError
from residualformer.workflow.plan import Experiment, in_order, plan, plan_with_needs

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
def conf(tmp_path) -> Path:
    for name, text in CONFS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def lines(experiments: list[Experiment]) -> list[str]:
    return [" ".join([each.name, str(each.stage), *each.needs]) for each in experiments]


def test_stages_needs_and_order(conf):
    experiments = plan(conf, ["mf_biased", "rnnt", "residual", "shared", "mf", "mf_avg", "mf_amr"])
    assert lines(experiments) == [
        "rnnt 4", "mf 6 rnnt", "mf_avg 6 mf rnnt", "mf_amr 6 mf_avg", "mf_biased 6 mf rnnt mf_amr",
        "shared 4", "residual 5 shared",
    ]  # fmt: skip


def test_what_is_not_asked_for_is_not_trained(conf):
    assert lines(plan(conf, ["mf_amr", "mf_biased"])) == ["mf_amr 6 mf_avg", "mf_biased 6 mf rnnt mf_amr"]
    wanted = ["rnnt 4", "mf 6 rnnt", "mf_avg 6 mf rnnt", "mf_amr 6 mf_avg"]
    assert lines(plan_with_needs(conf, ["mf_amr"])) == wanted


def test_a_need_that_is_no_experiment_is_told(conf):
    with pytest.raises(UserError, match="there is no experiment 'rnn', which lost needs"):
        plan(conf, ["lost"])


def test_experiments_that_need_each_other_are_told():
    with pytest.raises(UserError, match="a -> b -> a each needs the next"):
        in_order({"a": ["b"], "b": ["a"]})
    with pytest.raises(UserError, match="a -> a each needs the next"):
        in_order({"a": ["a"]})
