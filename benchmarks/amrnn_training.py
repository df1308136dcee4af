"""One training step of an AmRNN with two branches against the same through torch.nn.LSTM: time, ratio, peak memory.

    . ./path.sh && python benchmarks/amrnn_training.py [--rounds 3] [--only torch,scan] [--dim 256 --frames 50]

A step is forward and backward of the encoder alone. Both branches are computed, so 2 is the least ratio that products
alone allow; the goal is at most 4. The variants take turns; memory is how far the resident set grew within a step.
Where the machine has other work, compare processor time, with one thread (threads that wait for others spend it too).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from residualformer.config.amnet import AmNetConfig
from residualformer.config.schema import EncoderConfig
from residualformer.errors import run_main
from residualformer.kernels.dispatch import recursion_engine
from residualformer.kernels.recurrent import lstm_cell
from residualformer.nn.arbitrator import GumbelSoftmax
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.workflow.options import OptionParser

BINS, STACK = 64, 3
Step = tuple[torch.nn.Module, Callable[[Tensor], Tensor]]  # features (N, STACK * T, BINS) -> outputs


def torch_lstm(args: argparse.Namespace) -> Step:
    """Return the baseline: PyTorch's own layers, one branch."""
    lstm = torch.nn.LSTM(STACK * BINS, args.dim, args.layers)
    return lstm, lambda features: lstm(stacked(features).transpose(0, 1))[0]


def amrnn(method: str, args: argparse.Namespace) -> Step:
    """Return the encoder as it is trained: arbitrator, Gumbel-softmax, `kernels/scan.py`."""
    encoder = two_branches(method, args)

    def forward(features: Tensor) -> Tensor:
        lengths = torch.full((len(features),), features.size(1))
        return encoder.encode(features, lengths, GumbelSoftmax(1.0)).frames

    return encoder, forward


def on_plain(args: argparse.Namespace) -> Step:
    """Return `amrnn` whose frames are PyTorch's operators alone, without the kernels in numba."""
    encoder, forward = amrnn("sparse", args)

    def forward_on_plain(features: Tensor) -> Tensor:
        with recursion_engine("plain"):
            return forward(features)

    return encoder, forward_on_plain


def over_frames(cell: Callable[..., tuple[Tensor, Tensor]], args: argparse.Namespace) -> Step:
    """A loop over frames and branches of which autograd keeps every operation; input products are made beforehand."""
    encoder = two_branches("sparse", args)

    def forward(features: Tensor) -> Tensor:
        x = stacked(features)
        decisions = GumbelSoftmax(1.0)(encoder.arbitrator(x)[0]).unbind(1)
        inputs = [x.transpose(0, 1)] * 2
        for layer in encoder.layers:
            h = c = x.new_zeros(len(x), encoder.dim)
            recurrent = [weight.dense() for weight in layer.recurrent]
            gates = [
                torch.nn.functional.linear(y, weight.dense(), bias).unbind(0)
                for y, weight, bias in zip(inputs, layer.input, layer.bias, strict=True)
            ]
            own, combined = ([], []), []
            for t, d in enumerate(decisions):
                made = [cell(gates[n][t], h, c, recurrent[n]) for n in range(2)]
                h, c = (sum(d[:, n : n + 1] * made[n][part] for n in range(2)) for part in range(2))
                combined.append(h)
                for outputs, (h_own, _) in zip(own, made, strict=True):
                    outputs.append(h_own)
            inputs = [torch.stack(outputs) for outputs in own]
        return torch.stack(combined)

    return encoder, forward


def plain_cell(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return lstm_cell(gates + h @ weight.T, c)


def compiled(args: argparse.Namespace) -> Step:
    return over_frames(torch.compile(plain_cell), args)


VARIANTS: dict[str, tuple[Callable[[argparse.Namespace], Step], bool]] = {  # name: how to make it, bf16 autocast
    "torch": (torch_lstm, False),
    "scan": (partial(amrnn, "sparse"), False),
    "scan-factorised": (partial(amrnn, "factorised"), False),
    "scan-plain": (on_plain, False),
    "loop": (partial(over_frames, plain_cell), False),
    "loop-compiled": (compiled, False),
    "torch-bf16": (torch_lstm, True),
    "scan-bf16": (partial(amrnn, "sparse"), True),
    "scan-plain-bf16": (on_plain, True),
}


def two_branches(method: str, args: argparse.Namespace) -> RecurrentEncoder:
    config = EncoderConfig(kind="lstm", num_layers=args.layers, dim=args.dim, stack_frames=STACK, dropout=0.0)
    compression = {"sparse": [0.15, 0.8], "factorised": [0.35, 0.6]}[method]
    return RecurrentEncoder(config, AmNetConfig(method, compression), BINS)


def stacked(features: Tensor) -> Tensor:
    return features.reshape(len(features), -1, STACK * BINS)


def measure(step: Step, features: Tensor, bf16: bool) -> tuple[float, float, float]:
    """One forward and backward pass: seconds, seconds of processor time, MB by which the resident set grew at most."""
    module, forward = step
    module.zero_grad()
    before = memory_mb("VmRSS")
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # forget the peak so far
    started = time.perf_counter(), time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = forward(features)
    y.float().sum().backward()
    ended = time.perf_counter(), time.process_time()
    return ended[0] - started[0], ended[1] - started[1], memory_mb("VmHWM") - before


def memory_mb(name: str) -> float:
    """A line of this process's memory (Linux); not a number elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), float("nan"))


def parse() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each variant")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=200, help="T, encoder frames")
    parser.add_argument("--batch", type=int, default=16, help="N")
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, with commas; `torch` is always measured")
    args = parser.parse_args()
    args.only = ["torch", *(name for name in args.only.split(",") if name != "torch")]
    if unknown := set(args.only) - set(VARIANTS):
        parser.error(f"unknown variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    features = torch.randn(args.batch, STACK * args.frames, BINS)
    steps = {name: VARIANTS[name][0](args) for name in args.only}
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
    for turn in range(args.rounds + 1):
        for name, step in steps.items():
            result = measure(step, features[:, : None if turn else 2 * STACK], VARIANTS[name][1])
            if turn:  # the first, short one is to warm up
                results[name].append(result)
                print(f"turn {turn}, {name}: {result[0]:.2f} s, processor {result[1]:.2f} s", file=sys.stderr)
    print(f"{args.layers} x {args.dim}, T = {args.frames}, N = {args.batch}, {args.threads} threads")
    report(results)


def report(results: dict[str, list[tuple[float, float, float]]]) -> None:
    print(f"{'':16s} {'wall s':^15s} {'processor s':^11s} {'ratio to torch':^26s} {'peak':>8s}")
    heads = f"{'min':>7s} {'median':>7s} {'min':>11s} {'wall min':>8s} {'median':>8s} {'proc.':>8s} {'+MB':>8s}"
    print(f"{'variant':16s} {heads}")
    base = None
    for name, measured in results.items():
        wall, processor, peaks = zip(*measured, strict=True)
        values = min(wall), statistics.median(wall), min(processor)
        base = base or values
        ratios = " ".join(f"{value / of:8.2f}" for value, of in zip(values, base, strict=True))
        print(f"{name:16s} {values[0]:7.2f} {values[1]:7.2f} {values[2]:11.2f} {ratios} {max(peaks):8.0f}")


if __name__ == "__main__":
    run_main(main)
