"""Random depth in training: which layers learn, that a draw belongs to its batch, and what validation tells."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.toy_training import CONFIG, make_trainer, one_batch

from residualformer.config.depth import DepthConfig
from residualformer.model.adapter import load_adapted
from residualformer.train.phases import DepthPhases
from residualformer.train.randomness import seed_batch

SERVED = [3, 2, 1]
ENCODER = dataclasses.replace(CONFIG.encoder, num_layers=5, sharing=3, depth=DepthConfig(SERVED))
CONFIG_OF_DEPTHS = dataclasses.replace(CONFIG, encoder=ENCODER)
LAYERS = {3: {0, 1, 2, 3, 4}, 2: {0, 1, 3, 4}, 1: {0, 3}}  # that are run


@pytest.fixture
def trainer(toy_cuts, tmp_path):
    return make_trainer(toy_cuts, tmp_path, CONFIG_OF_DEPTHS)


def drawn(trainer, batch, update: int, number: int) -> int:
    """The loops of a batch, by the layers that get a gradient."""
    trainer.model.train()
    trainer.model.zero_grad()
    seed_batch(1, update, number)
    trainer.phases.losses(batch, batch.features).sums["loss"].backward()
    touched = {
        number for number, layer in enumerate(trainer.model.encoder.layers) if layer.norm1.weight.grad is not None
    }
    return next(loops for loops, layers in LAYERS.items() if layers == touched)


def test_each_batch_has_a_depth_of_its_own_that_seed_update_and_number_decide(toy_cuts, trainer):
    assert isinstance(trainer.phases, DepthPhases)
    batch = one_batch(toy_cuts)
    places = [(update, number) for update in range(6) for number in range(2)]
    found = [drawn(trainer, batch, *place) for place in places]
    assert found == [drawn(trainer, batch, *place) for place in places]
    assert set(found) == set(SERVED)
    assert found[::2] != found[1::2]


def test_the_losses_are_those_of_the_encoder_at_the_depth(toy_cuts, trainer):
    batch, model = one_batch(toy_cuts), trainer.model
    phases = trainer.phases
    values = phases.losses(dataclasses.replace(batch), batch.features).sums if model.training else {}
    assert "transducer_1_loops" not in values
    model.eval()
    with torch.no_grad():
        values = phases.losses(batch, batch.features).sums
        for loops in SERVED:
            encoded = model.encoder.encode_at(batch.features, batch.feature_lens, loops)
            expected = phases.objective(model, *encoded, batch)
            name = "transducer" if loops == 3 else f"transducer_{loops}_loops"
            assert torch.equal(values[name], expected["transducer"])
    assert values["transducer_1_loops"] != values["transducer_2_loops"] != values["transducer"]


def test_a_training_tells_the_loss_at_each_depth_and_serves_them(trainer):
    info = trainer.run()
    valid = info["valid"]
    assert {"transducer_per_token", "transducer_2_loops_per_token", "transducer_1_loops_per_token"} <= set(valid)
    with torch.no_grad():
        for loops in SERVED:
            model = load_adapted(trainer.folder, None, loops=loops).model
            total = tokens = 0.0
            for batch in trainer.dev:
                encoded = model.encoder(batch.features, batch.feature_lens)
                total += float(trainer.phases.objective(trainer.model.eval(), *encoded, batch)["transducer"])
                tokens += int(batch.token_lens.sum())
            name = "transducer_per_token" if loops == 3 else f"transducer_{loops}_loops_per_token"
            assert valid[name] == pytest.approx(total / tokens, rel=1e-5)
