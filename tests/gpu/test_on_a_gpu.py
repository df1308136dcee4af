"""A GPU against the CPU: losses, an update, decoding and AmNets. Run with `utils/test.sh -m gpu` on a machine with one.

Other runs hide GPUs from all tests (`tests/conftest.py`). These then run on the counting device only, which finds
tensors on a wrong device, but no fault of CUDA's kernels.
"""

import dataclasses
import warnings
from contextlib import nullcontext

import pytest
import torch
from support.counting import CountingDevice
from support.decoding import features_of
from support.toy_training import CONFIG, changed, make_trainer

from residualformer.config.amnet import AmNetConfig
from residualformer.config.schema import Config, DecodeConfig, EncoderConfig, PredictorConfig
from residualformer.decode.recognize import recognize
from residualformer.loss import exact_joiner_loss, get_rnnt_prune_ranges, pruned_joiner_loss, simple_joiner_loss
from residualformer.nn.transducer import build_model
from residualformer.train.ranks import Ranks

on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or hidden: run utils/test.sh -m gpu"),
]
GPU = torch.device("cuda")


@pytest.fixture(params=["counted", pytest.param("gpu", marks=on_a_gpu)])
def cuda(request):
    """A device `cuda`: the counting one, or a GPU."""
    with CountingDevice() if request.param == "counted" else nullcontext():
        yield GPU


def losses(device: torch.device, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Simple, pruned and exact loss of 6 utterances of different lengths; their gradients, and the windows."""
    generator = torch.Generator().manual_seed(0)
    N, T, S, C, D = 6, 30, 9, 300, 16
    shapes = (N, T, D), (N, S + 1, D), (C, D), (C,), (C, D), (C,)
    inputs = [0.5 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    inputs = [each.to(device, dtype).requires_grad_() for each in inputs]
    symbols = torch.randint(1, C, (N, S), generator=generator).to(device)
    boundary = torch.zeros(N, 4, dtype=torch.int64)
    boundary[:, 2], boundary[:, 3] = torch.tensor([9, 5, 0, 1, 7, 9]), torch.tensor([30, 12, 8, 1, 25, 29])
    boundary = boundary.to(device)
    simple, occupied = simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25, reduction="none", return_grad=True)
    ranges = get_rnnt_prune_ranges(*occupied, boundary, 5)
    joiner = inputs[:4]
    pruned = pruned_joiner_loss(*joiner, symbols, ranges, 0, boundary, reduction="none")
    exact = exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="none")
    (simple.sum() + pruned.sum() + exact.sum()).backward()
    return (
        [each.detach().cpu().double() for each in (simple, pruned, exact)],
        [x.grad.cpu().double() for x in inputs],
        ranges,
    )


def test_losses_and_gradients_are_those_of_the_cpu(cuda):
    """The same numbers in float64 (plain PyTorch); in float32, on Triton, but for rounding."""
    expected, expected_grads, expected_ranges = losses(torch.device("cpu"), torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        found, grads, ranges = losses(cuda, dtype)
        assert torch.equal(ranges.cpu(), expected_ranges)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(grads, expected_grads, strict=True):
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.gpu
@on_a_gpu[1]
def test_the_simple_loss_waits_as_often_as_was_counted_without_a_gpu():
    N, T, S, C = 20, 30, 8, 500
    inputs = [torch.randn(shape, device=GPU, requires_grad=True) for shape in ((N, T, 8), (N, S + 1, 8))]
    inputs += [torch.randn(shape, device=GPU, requires_grad=True) for shape in ((C, 8), (C,), (C, 8), (C,))]
    symbols, boundary = torch.randint(1, C, (N, S), device=GPU), torch.zeros(N, 4, dtype=torch.int64, device=GPU)
    boundary[:, 2], boundary[:, 3] = S, T
    simple_joiner_loss(*inputs, symbols, 0, boundary).backward()  # compiles
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            simple_joiner_loss(*inputs, symbols, 0, boundary).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing" in str(each.message) for each in caught) <= 2


@pytest.mark.parametrize(
    "config",
    [
        changed("loss", kind="exact"),
        changed("loss", kind="pruned", ctc_scale=0.0),
        dataclasses.replace(CONFIG, encoder=EncoderConfig(kind="lstm", num_layers=1, dim=16, dropout=0.0)),
    ],
    ids=["exact", "pruned", "lstm"],
)
def test_updates_are_those_of_the_cpu(cuda, toy_cuts, tmp_path, config: Config):
    found = {}
    for device in (torch.device("cpu"), cuda):
        trainer = make_trainer(toy_cuts, tmp_path / device.type, config, ranks=Ranks(device=device))
        updates = trainer.batches.updates(trainer.position, 1, 0, 1)
        found[device.type] = []
        for _ in range(3):
            results, norm = trainer.update(next(updates).batches)
            trainer.step += 1
            found[device.type].append((results[0][1].sums["loss"].item(), norm))
    # TF32 of cuDNN, and other orders of float32 sums; the third update sees what they did to the weights.
    torch.testing.assert_close(torch.tensor(found["cuda"]), torch.tensor(found["cpu"]), rtol=1e-2, atol=0)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("settings", [DecodeConfig(kind="greedy"), DecodeConfig(beam=3)], ids=["greedy", "beam"])
@pytest.mark.parametrize(("encoder", "amnet"), [("transformer", "none"), ("lstm", "none"), ("gru", "sparse")])
def test_decoding_and_amnets_are_those_of_the_cpu(cuda, encoder, amnet, settings, streaming):
    """In float64, so that rounding changes no label: tokens, their frames and branches are equal."""
    torch.manual_seed(1)
    config = Config(
        encoder=EncoderConfig(kind=encoder, num_layers=1, dim=8, num_heads=2, ffn_dim=16, conv_channels=2),
        predictor=PredictorConfig(embedding_dim=6, hidden_dim=7, num_layers=1),
        amnet=AmNetConfig(method=amnet, compression=[] if amnet == "none" else [0.2, 0.6]),
    )
    model = build_model(config, 9).double().eval()
    features = [features_of(name).astype("float64") for name in ("u1", "u2")]
    expected = recognize(model, settings, features, streaming)
    found = recognize(model.to(cuda), settings, features, streaming)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.branches == theirs.branches
        assert [(each.tokens, each.frames) for each in ours.nbest] == [
            (each.tokens, each.frames) for each in theirs.nbest
        ]
