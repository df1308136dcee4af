"""How often the host would wait for a GPU in an update, counted without one."""

import dataclasses

import pytest
import torch
from support.counting import CountingDevice
from support.toy_training import changed, make_trainer

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.schema import Config, EncoderConfig, VariationConfig
from residualformer.train.losses import LossTracker
from residualformer.train.ranks import Ranks

EXACT = changed("loss", kind="exact", ctc_scale=0.0)
PRUNED = changed("loss", kind="pruned", ctc_scale=0.0)
AMNET = dataclasses.replace(
    EXACT,
    encoder=EncoderConfig(kind="lstm", num_layers=1, dim=8, dropout=0.0),
    amnet=AmNetConfig(
        "sparse",
        [0.2, 0.6],
        prune_fraction=0.0,
        arbitrator=ArbitratorConfig(4),
        cost=CostConfig("avg", 0.1, slow_share=0.5),
    ),
)
DEPTHS = dataclasses.replace(
    EXACT,
    encoder=dataclasses.replace(EXACT.encoder, depth=DepthConfig([2, 1], True)),
    amnet=AmNetConfig(arbitrator=ArbitratorConfig(4), cost=CostConfig("avg", 0.1, slow_share=0.5)),
)
AUGMENTED = changed("data", EXACT, variation=VariationConfig(warp=0.1, noise_probability=0.5, gain_db=3.0))
LOSS_FILES = {"arcs.py", "pruning.py", "fused_joiner.py", "tanh_joiner.py", "recursion.py"}


@pytest.mark.parametrize(
    ("config", "in_loss", "elsewhere"),
    [
        (EXACT, 3, 1),  # is the loss finite, and the nodes of the lattice twice; the norm of the gradient
        (PRUNED, 5, 1),  # also the simple loss, and how wide the windows must be
        (AUGMENTED, 3, 1),
        (AMNET, 3, 2),  # also the share of slow frames, to which the weight of the cost loss adapts
        (DEPTHS, 3, 2),
    ],
    ids=["exact", "pruned", "augmented", "amnet", "depths"],
)
def test_the_host_waits_little_in_an_update(toy_cuts, tmp_path, config: Config, in_loss: int, elsewhere: int):
    with CountingDevice() as device:
        ranks = Ranks(device=torch.device("cuda"))
        trainer = make_trainer(toy_cuts, tmp_path / "exp", config, ranks=ranks, slow_share=config.amnet.cost.slow_share)
        tracker, updates = LossTracker(), trainer.batches.updates(trainer.position, 1, 0, 1)
        for _ in range(2):  # the second has nothing to set up
            device.reset()
            for batch, losses in trainer.update(next(updates).batches)[0]:
                tracker.add(losses, batch)
            trainer.step += 1
        waits = {name: count for name, count in device.waits.items() if name.split(":")[0] not in LOSS_FILES}
        assert sum(waits.values()) <= elsewhere, waits
        assert device.waits.total() - sum(waits.values()) <= in_loss, device.waits
        device.reset()
        assert tracker.take(ranks)["loss_per_frame"] > 0
        assert all(name.startswith("losses.py") for name in device.waits)  # only here are sums of losses read
