"""Every experiment of every recipe loads, and its model can be built (on torch's meta device: no memory, any size)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import yaml

from residualformer.config.composition import experiment_names
from residualformer.config.loading import flat, load_config
from residualformer.model.cost import count_parameters, planned_flops
from residualformer.workflow.plan import in_order, needs_of, stage_of

CONFS = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(path for path in CONFS.rglob("*.y*ml") if path.parent.name != "tables")
RECIPES = sorted(base.parent for base in CONFS.glob("*/base.yaml"))
EXPERIMENTS = [recipe / f"{name}.yaml" for recipe in RECIPES for name in experiment_names(recipe)]
ALONE = [path for path in FILES if path.parent == CONFS or path.name == "base.yaml"]


def name(path: Path) -> str:
    return str(path.relative_to(CONFS))


def test_there_are_configurations():
    assert {"mini/baseline.yaml", "mini/shared.yaml", "mini/residual.yaml", "paper_asr.yaml", "paper_st.yaml"} <= {
        name(path) for path in EXPERIMENTS + ALONE
    }
    assert len(RECIPES) == 20 and len(EXPERIMENTS) == 257
    assert not any(path.is_symlink() for path in CONFS.rglob("*"))  # they break on Windows and in archives


def test_every_file_is_used():
    """General experiments by some recipe; what a recipe says of its own is about one of them."""
    general = {path.stem for path in (CONFS / "experiments").glob("*.yaml")}
    assert general == {path.stem for path in EXPERIMENTS}
    own = {path for path in FILES if path not in ALONE and path.parent.name != "experiments"}
    assert own <= set(EXPERIMENTS) and {path.stem for path in own} <= general
    for recipe in RECIPES:
        for pattern in yaml.safe_load((recipe / "base.yaml").read_text(encoding="utf-8")).get("experiments", []):
            assert any(fnmatchcase(each, pattern) for each in general), (recipe, pattern)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_starts_with_its_purpose(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", EXPERIMENTS + ALONE, ids=name)
def test_its_model_can_be_built(path):
    from residualformer.nn.transducer import build_model

    config = load_config(path)
    with torch.device("meta"):
        model = build_model(config, config.tokens.vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


# What may differ between a model and the one it starts from: how it is trained, the residual, how it is compressed, and
# an arbitrator.
TRAINING = {"description", "warm_start", "data", "train", "decode", "dropout", "token_dropout"}
RESIDUAL = {"encoder.residual.rank", "encoder.residual.diagonal"}
ARBITRATOR = {"encoder.depth.arbitrator"}


def differences(path, other) -> set[str]:
    own, others = (flat(load_config(each)) for each in (path, other))
    return {key for key in own if own[key] != others[key]}


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if load_config(path).warm_start], ids=name)
def test_its_warm_start_is_a_sibling_of_the_same_shape_but_for_residual_compression_and_arbitrator(path):
    source = path.with_name(f"{load_config(path).warm_start}.yaml")
    assert source in EXPERIMENTS
    changed = {key for key in differences(path, source) if not TRAINING & set(key.split("."))}
    assert {key for key in changed if not key.startswith("amnet.")} <= RESIDUAL | ARBITRATOR


ROWS = ("rnnt", "sparse", "sparse_avg", "sparse_biased", "sparse_amr", "mf", "mf_avg", "mf_biased", "mf_amr")
TABLES = ["an4", "mini", "librispeech_amnet"]


@pytest.mark.parametrize("folder", TABLES)
def test_the_nine_rows_of_the_amnets_are_there_and_plan_themselves(folder):
    configs = {name: load_config(CONFS / folder / f"{name}.yaml") for name in ROWS}
    order = in_order({name: needs_of(config) for name, config in configs.items()})
    assert order.index("mf_amr") < order.index("mf_biased") and set(order) == set(ROWS)
    for name, config in configs.items():
        assert set(needs_of(config)) <= set(ROWS)
        assert stage_of(config) == (4 if name == "rnnt" else 6)


@pytest.mark.parametrize("folder", TABLES)
def test_mu_is_the_papers_share_of_what_the_baseline_needs(folder):
    config = load_config(CONFS / folder / "rnnt.yaml")
    flops = planned_flops(config)
    needed = (flops["branches"][0] + flops["output"]) * 100 / config.encoder.stack_frames  # FLOP/s
    assert config.amnet.cost.mu / needed == pytest.approx(650e6 / (42.7e6 * 100 / 3), rel=0.002)  # rounded to 3 digits


@pytest.mark.parametrize("folder", TABLES)
@pytest.mark.parametrize("method", ["sparse", "mf"])
def test_rows_differ_only_where_they_should(folder, method):
    row = {name: CONFS / folder / f"{method}_{name}.yaml" for name in ("avg", "biased", "amr")}
    costs = {"amnet.cost.kind", "amnet.cost.weight", "amnet.cost.match"}
    assert differences(row["biased"], row["amr"]) <= costs | {"description", "train.max_steps", "amnet.noise_start"}
    for key in differences(row["amr"], row["avg"]):
        assert key.startswith(("amnet.", "train.")) or key in ("description", "warm_start")
    assert differences(row["amr"], row["avg"]).isdisjoint({"amnet.method", "amnet.compression", "amnet.cost.mu"})


@pytest.mark.parametrize("folder", TABLES)
@pytest.mark.parametrize("name", ["sparse_avg", "sparse_amr", "mf_avg", "mf_amr"])
def test_a_static_control_is_trained_exactly_as_its_amnet(folder, name):
    """But for what only several branches have: the arbitrator, its cost, its learning rate."""
    own, path = load_config(CONFS / folder / f"static_{name}.yaml"), CONFS / folder / f"{name}.yaml"
    assert own.amnet.match == name and len(own.amnet.compression) == 1
    assert set(needs_of(own)) == {name, own.warm_start} - {None}
    found = differences(CONFS / folder / f"static_{name}.yaml", path)
    assert {key for key in found if not key.startswith("amnet.")} <= {
        "description",
        "warm_start",
        "train.optimizer.arbitrator_factor",
    }
    assert "amnet.method" not in found
    if name.endswith("avg"):
        assert "warm_start" not in found


def test_an_arbitrator_of_depths_is_trained_on_a_device_between_its_depths():
    row = {name: CONFS / "mini_deep" / f"depth_{name}.yaml" for name in ("avg", "biased", "amr")}
    costs = {"amnet.cost.kind", "amnet.cost.weight", "amnet.cost.match"}
    assert differences(row["biased"], row["amr"]) <= costs | {"description", "train.max_steps", "amnet.noise_start"}
    assert all(
        key.startswith(("amnet.", "train.", "description", "warm_start")) for key in differences(row["amr"], row["avg"])
    )
    backlog = differences(CONFS / "mini_deep" / "depth_backlog.yaml", row["amr"])
    assert backlog == {"description", "amnet.arbitrator.use_backlog"}
    config = load_config(row["avg"])
    flops = planned_flops(config)
    full, *_, least = (
        100 / config.encoder.stride * (each + flops["arbitrator"] + flops["output"]) for each in flops["branches"]
    )
    cost = config.amnet.cost
    assert cost.mu == pytest.approx(least + cost.slow_share * (full - least), rel=0.01)


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path.stem.rstrip("1689") == "residual"], ids=name)
def test_a_residual_is_trained_exactly_as_its_control(path):
    """But for the learning rate of what only the residual has."""
    found = differences(path, path.with_name(path.name.replace("residual", "control")))
    assert found - {"train.optimizer.residual_factor"} == RESIDUAL | {"description"}


@pytest.mark.parametrize("recipe", ["librispeech", "covost"])
@pytest.mark.parametrize("table", range(1, 7))
def test_real_corpora_have_all_cells_of_the_residual_transformers_tables_at_paper_size(recipe, table):
    rows = yaml.safe_load((CONFS / "tables" / f"table{table}.yaml").read_text(encoding="utf-8"))["rows"]
    cells = [cell for row in rows for cell in row["cells"] if cell]
    for cell in cells:
        config = load_config(CONFS / recipe / f"{cell['experiment']}.yaml")
        if "parameters" in cell:  # the paper rounds, and 22.052 down
            millions = count_parameters(config)["transformer"] / 1e6
            assert millions == pytest.approx(cell["parameters"], abs=0.053)
    assert cells
