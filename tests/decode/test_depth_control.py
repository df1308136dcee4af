"""Depths of chunks by chance, as a control: an exact share, streamed as whole, and what the step refuses."""

from __future__ import annotations

import json

import pytest
import torch
from support.commands import decode_step
from support.decoding import FRAMES, features_of, write_cuts
from support.depths import bundle_of

from residualformer.decode.control import Control, plan_branches
from residualformer.decode.corpus import decode_batch, read_cuts_with_features
from residualformer.model.adapter import load_adapted
from residualformer.model.checkpoint import load_model, save_model
from residualformer.model.cost import flops_per_frame
from residualformer.report.scoring import score_run

CHUNK = 16  # feature frames of 160 ms


@pytest.fixture
def run(tmp_path):
    """A run folder of depths 3, 2 and 1, and the manifest of a test set."""
    made = bundle_of(3, [3, 2, 1], ctc=True)
    torch.manual_seed(1)
    for part in (made.model.encoder.layers, made.model.training_only["ctc"]):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(tmp_path / "model.safetensors", made.model.state_dict(), made.config, made.tokenizer, {})
    return tmp_path, write_cuts(tmp_path / "fbank", made.config)


def test_a_share_of_the_chunks_of_the_set_is_run_at_the_full_depth(run):
    folder, manifest = run
    bundle = load_model(folder)
    cuts = read_cuts_with_features(manifest, bundle.config.features)
    planned = plan_branches(bundle, Control("random", 0.5), cuts, 100.0)
    chunks = {name: -(-frames // CHUNK) for name, frames in FRAMES.items()}
    assert {name: len(taken) for name, taken in planned.plan.items()} == chunks
    taken = [branch for each in planned.plan.values() for branch in each.tolist()]
    slow = round(0.5 * len(taken))
    assert (taken.count(0), taken.count(1), taken.count(2)) == (slow, 0, len(taken) - slow)
    costs = bundle.model.encoder.branch_flops(by_chunk=True)
    expected = (slow * costs[0] + (len(taken) - slow) * costs[2]) / len(taken)
    assert planned.told["mflop"] == pytest.approx(expected / 1e6, abs=1e-4)  # rounded
    settings = bundle.config.decode
    whole, streamed = (decode_batch(bundle, settings, cuts, way, plan=planned.plan) for way in (False, True))
    for one, other in zip(whole.records, streamed.records, strict=True):
        assert one["ref_nats"] == pytest.approx(other["ref_nats"], abs=0.01)  # float32, another order of summation
    plain = decode_batch(bundle, settings, cuts)
    assert any(abs(a["ref_nats"] - b["ref_nats"]) > 0.1 for a, b in zip(whole.records, plain.records, strict=True))


def test_the_chunks_of_labels_are_deep_and_those_of_blanks_shallow(run):
    """Ranked by hand: CTC on the model of the least depth, its least probability of the blank in each chunk."""
    folder, manifest = run
    bundle, least = load_model(folder), load_adapted(folder, None, loops=1).model
    cuts = read_cuts_with_features(manifest, bundle.config.features)
    planned = plan_branches(bundle, Control("blank", 0.4), cuts, 100.0)
    found: list[tuple[float, int]] = []
    with torch.no_grad():
        for cut in cuts:
            features = torch.from_numpy(features_of(cut.id))[None]
            frames = least.encoder(features, torch.tensor([features.size(1)]))[0][0]
            blank = least.training_only["ctc"](frames).softmax(1)[:, 0]
            parts = blank.split(CHUNK // 4)
            found += [(float(part.min()), int(taken)) for part, taken in zip(parts, planned.plan[cut.id], strict=True)]
    found.sort()
    slow = round(0.4 * len(found))
    assert [taken for _, taken in found] == [0] * slow + [2] * (len(found) - slow)
    assert plan_branches(bundle, Control("blank", 0.4), cuts, 1.0).told == planned.told


def test_the_step_decodes_by_chance_and_at_a_bound(run, monkeypatch, capsys):
    folder, manifest = run
    decode_step(monkeypatch, folder, "--cuts", manifest, "--branches", "random", "--slow-share", 0.3)
    decode_step(monkeypatch, folder, "--cuts", manifest, "--branches", "fast")
    decode_step(monkeypatch, folder, "--cuts", manifest, "--loops", 1)
    ends = ("random_share0.3", "fast", "loops1")
    folders = [folder / f"decode_test_greedy_{end}" for end in ends]
    chance, fast, fixed = (json.loads((each / "decode.json").read_text()) for each in folders)
    assert chance["branches"].keys() == {"by", "slow_share", "shares", "seed", "mflop"} and fixed["loops"] == 1
    nats = [
        [json.loads(line)["ref_nats"] for line in (each / "hyp.jsonl").read_text().splitlines()] for each in folders
    ]
    assert nats[1] == pytest.approx(nats[2], abs=0.01)  # all chunks at the least depth are a model of that depth
    assert nats[0] != pytest.approx(nats[1], abs=0.01)
    bundle = load_model(folder)
    output = flops_per_frame(bundle.model)["output"]
    least, least_by_chunk = (bundle.model.encoder.branch_flops(by_chunk)[2] for by_chunk in (False, True))
    rows = [score_run(each).row for each in folders]
    assert rows[2].mflop == round((least + output) / 1e6, 4)
    assert rows[1].mflop == pytest.approx((least_by_chunk + output) / 1e6, abs=1.1e-4)  # rounded, and its sum again
    assert rows[0].mflop == pytest.approx(chance["branches"]["mflop"] + output / 1e6, abs=1.1e-4)
    assert rows[0].mflop > rows[1].mflop > rows[2].mflop
    for by in ("random", "oracle", "blank"):
        with pytest.raises(SystemExit) as ended:
            decode_step(monkeypatch, folder, "--cuts", manifest, "--branches", by)
        assert ended.value.code == 2
        assert f"--branches {by}: {folder} has depths, but no arbitrator; take random" in capsys.readouterr().err
