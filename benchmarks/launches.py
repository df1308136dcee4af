"""Count what a GPU would launch, and the host wait for, without a GPU: of losses, an update and searches.

    . ./path.sh && python benchmarks/launches.py [--config conf/an4/residual.yaml] [--set a.b=c] [--where]

Tensors report `cuda` and compute on the CPU (`tests/support/counting.py`, which says what counts as a launch and as a
wait). The update is in float32, for autocast's casts cannot be counted. Counts depend on the layers of the
configuration and on the number of frames and labels, hardly on widths. Times are not measured: this says where a GPU
would idle, not how long.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from support.counting import CountingDevice

from residualformer.config.loading import load_config
from residualformer.config.schema import Config, DecodeConfig
from residualformer.data.collate import Batch
from residualformer.decode.recognize import search
from residualformer.errors import run_main
from residualformer.loss import (
    exact_joiner_loss,
    get_rnnt_prune_ranges,
    pruned_joiner_loss,
    simple_joiner_loss,
)
from residualformer.nn.transducer import build_model
from residualformer.train.optimizer import Optimizer
from residualformer.train.phases import build_phases
from residualformer.workflow.options import OptionParser

GPU = torch.device("cuda")


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(1)
    with CountingDevice() as device:
        count_losses(device, args)
        count_model(device, load_config(args.config, [*args.set, "train.precision=fp32"]), args)


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--config", type=Path, default=Path("conf/an4/residual.yaml"), help="of the update")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a configuration key")
    parser.add_argument("--size", type=int, nargs=4, default=[100, 100, 20, 4002], metavar=("N", "T", "S", "V"))
    parser.add_argument("--where", action="store_true", help="also name the lines that wait")
    return parser.parse_args()


def count_losses(device: CountingDevice, args: argparse.Namespace) -> None:
    """Count the losses, forward and backward, of N utterances of T frames and S labels of V classes."""
    N, T, S, C = args.size
    shapes = (N, T, 8), (N, S + 1, 8), (C, 8), (C,), (C, 8), (C,)
    inputs = [(0.3 * torch.randn(shape)).to(GPU).requires_grad_() for shape in shapes]
    symbols = torch.randint(1, C, (N, S)).to(GPU)
    boundary = torch.tensor([0, 0, S, T]).repeat(N, 1).to(GPU)
    joiner = inputs[:4]
    occupied: tuple[Tensor, Tensor] = simple_joiner_loss(*inputs, symbols, 0, boundary, return_grad=True)[1]
    ranges = get_rnnt_prune_ranges(*occupied, boundary, 5)
    title = f"N = {N}, T = {T}, S = {S}, V = {C}"
    for name, loss in (
        ("simple loss", lambda: simple_joiner_loss(*inputs, symbols, 0, boundary)),
        ("simple loss, lm_scale 0.25", lambda: simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25)),
        ("pruned loss, range 5", lambda: pruned_joiner_loss(*joiner, symbols, ranges, 0, boundary)),
        ("exact loss", lambda: exact_joiner_loss(*joiner, symbols, 0, boundary)),
    ):
        for each in inputs:
            each.grad = None  # as before an update
        count(device, f"{name}, {title}", lambda loss=loss: loss().backward(), args.where)


def count_model(device: CountingDevice, config: Config, args: argparse.Namespace) -> None:
    """Count an update of the model of `config`, and searches, for 4 utterances of 4 s with 20 labels."""
    N, T, S = 4, 400, 20
    model = build_model(config, config.tokens.vocab_size).to(GPU)
    phases, optimizer = build_phases(config, model), Optimizer(model, config.train)
    lengths, labels = torch.full((N,), T), torch.full((N,), S)
    features = torch.randn(N, T, config.features.num_mel_bins)
    tokens = torch.randint(1, config.tokens.vocab_size, (N, S))
    batch = Batch(["u"] * N, features, lengths, tokens, labels, ["A"] * N, ["A"] * N).to(GPU)

    def update() -> None:
        parameters = phases.begin_update(config.train.max_steps // 2)
        phases.losses(batch, batch.features).sums["loss"].backward(inputs=parameters)
        optimizer.step()

    model.train()
    update()  # makes the state of the optimizer
    title = f"N = {N}, {T // 100} s, {S} labels"
    count(device, f"update of {args.config.stem}, {title}", update, args.where)
    model.eval()
    with torch.no_grad():
        count(device, f"encoder, {title}", lambda: model.encoder(batch.features, batch.feature_lens), args.where)
        encoded, frames = model.encoder(batch.features, batch.feature_lens)
        for settings in (DecodeConfig(kind="greedy"), DecodeConfig(beam=4)):
            name = "greedy search" if settings.kind == "greedy" else "beam search of 4"
            run = lambda settings=settings: search(model, encoded, frames, settings)  # noqa: E731
            count(device, f"{name}, {int(frames[0])} frames", run, args.where)


def count(device: CountingDevice, name: str, piece: Callable[[], object], where: bool) -> None:
    """Run a piece of code and print a line on it."""
    device.reset()
    piece()
    print(f"{name:70} {device.launches.total():7} launches {device.waits.total():5} waits", flush=True)
    if where:
        for line, times in device.waits.most_common():
            print(f"    {times:5} {line}")


if __name__ == "__main__":
    run_main(main)
