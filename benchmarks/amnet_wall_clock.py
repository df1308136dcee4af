"""Wall clock of the AmNets paper's table 1 at paper size: one stream, frame by frame, one thread, random weights.

    . ./path.sh && python benchmarks/amnet_wall_clock.py [--rounds 8] [--block 1] [--clock wall]

Encoder and its projection to the vocabulary (4,097), which the paper's count includes, fp32. The arbitrator runs, but
decisions are drawn from `--seed` in the paper's ratios and forced on it. The baseline goes through torch's own LSTM
cell; torch's LSTM layer, which re-orders its weights at each call, is printed for comparison. Rows take turns of a
second of audio (33 frames) in one process; of each frame the fastest turn counts. A saving is that against the
baseline; `ratio` is wall-clock saving / FLOP saving. On a busy machine `--clock cpu` leaves the waiting out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from residualformer.config.loading import load_config
from residualformer.errors import run_main
from residualformer.nn.branches import BranchWeights
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.workflow.options import OptionParser

CONF = Path(__file__).parent.parent / "conf" / "librispeech_amnet"
ROWS = {  # name: configuration, share of slow frames
    "baseline": ("rnnt", 1.0),
    "sparse baseline 15%": ("sparse", 1.0),
    "sparse AmNet 57/43": ("sparse_avg", 0.57),
    "sparse AmNet 48/52": ("sparse_avg", 0.48),  # L_amr and biased L_avg
    "MF baseline 35%": ("mf", 1.0),
    "MF AmNet 38/62": ("mf_avg", 0.38),
    "MF AmNet 23/77": ("mf_avg", 0.23),  # L_amr and biased L_avg
}
VOCABULARY, FRAMES, WARM_UP = 4097, 33, 2


class Loaded(NamedTuple):
    """The work of each frame, and its FLOPs by branch."""

    encoder: RecurrentEncoder
    output: nn.Linear
    flops: list[float]


def load(name: str, block: int) -> Loaded:
    config = load_config(CONF / f"{name}.yaml")
    encoder = RecurrentEncoder(config.encoder, replace(config.amnet, block=block), config.features.num_mel_bins).eval()
    for weights in (module for module in encoder.modules() if isinstance(module, BranchWeights)):
        for weight, sparsity in zip(weights, config.amnet.compression, strict=True):
            w, v = weight.mask.shape
            weight.mask.copy_((torch.rand(w, -(-v // block)) >= sparsity).repeat_interleave(block, 1)[:, :v])
    output = nn.Linear(encoder.dim, VOCABULARY)
    rest = encoder.arbitrator_flops() + output.weight.numel()
    return Loaded(encoder, output, [rest + cells for cells in encoder.branch_flops()])


def draw(slow: float, seed: int) -> list[int]:
    """Branches of the frames, `slow` of them 0, in random order."""
    branches = torch.ones(FRAMES, dtype=torch.long)
    branches[torch.randperm(FRAMES, generator=torch.Generator().manual_seed(seed))[: round(slow * FRAMES)]] = 0
    return branches.tolist()


def run(model: Loaded, features: Tensor, branches: list[int], clock: Callable[[], float]) -> list[float]:
    """Seconds of each frame of features (T, 1, window, F)."""
    encoder, output, times = model.encoder, model.output, []
    state, lengths = encoder.init_state(1), torch.tensor([encoder.window])
    for window, branch in zip(features, branches, strict=True):
        if encoder.arbitrator is not None:
            encoder.arbitrator.out.bias.fill_(-1e3)[branch] = 1e3
        started = clock()
        frame, state = encoder.step(window, lengths, state)
        output(frame)
        times.append(clock() - started)
        assert state.branch.item() == branch
    return times


def run_layer(layer: nn.LSTM, output: nn.Module, frames: int, clock: Callable[[], float]) -> float:
    """Time of a second of audio through torch's LSTM layer, from the fastest of a few frames."""
    state, times = None, []
    for _ in range(frames):
        x = torch.randn(1, 1, layer.input_size)
        started = clock()
        y, state = layer(x, state)
        output(y)
        times.append(clock() - started)
    return FRAMES * min(times)


@torch.inference_mode()
def measure(rounds: int, block: int, seed: int, clock: Callable[[], float]) -> list[tuple[str, float, float]]:
    """Of each row: name, FLOPs per frame, milliseconds per second of audio; torch's LSTM layer comes last."""
    loaded = {name: load(name, block) for name in dict.fromkeys(conf for conf, _ in ROWS.values())}
    base = loaded[ROWS["baseline"][0]]
    encoder = base.encoder
    audio = torch.randn(FRAMES + WARM_UP, 1, encoder.window, encoder.mean.numel())
    branches = {row: draw(slow, seed) for row, (_, slow) in ROWS.items()}
    fastest = {row: [float("inf")] * FRAMES for row in ROWS}
    for turn in range(rounds + 1):  # the first one packs, compiles and warms up
        for row, (conf, _) in ROWS.items():
            times = run(loaded[conf], audio, branches[row][:1] * WARM_UP + branches[row], clock)[WARM_UP:]
            fastest[row] = [min(pair) for pair in zip(fastest[row], times, strict=True)] if turn else fastest[row]
    results = []
    for row, (conf, _) in ROWS.items():
        flops = sum(loaded[conf].flops[branch] for branch in branches[row]) / FRAMES
        results.append((row, flops, 1000 * sum(fastest[row])))
    layer = nn.LSTM(encoder.window * encoder.mean.numel(), encoder.dim, len(encoder.layers)).eval()
    return [*results, ("torch.nn.LSTM", results[0][1], 1000 * run_layer(layer, base.output, 5, clock))]


def print_savings(results: list[tuple[str, float, float]]) -> None:
    """Print name, FLOPs per frame and milliseconds per second of audio of each row, and what it saves of the first."""
    _, base_flops, base_ms = results[0]
    print(f"{'':22} FLOPs/frame   saving   ms per s of audio   saving   ratio")
    for name, flops, ms in results:
        saved_flops, saved_ms = 1 - flops / base_flops, 1 - ms / base_ms
        ratio = f"{saved_ms / saved_flops:5.2f}" if saved_flops > 0 else "    -"
        print(f"{name:22} {flops / 1e6:10.1f}M {saved_flops:8.1%} {ms:19.1f} {saved_ms:8.1%}   {ratio}")


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="timed turns of each row")
    parser.add_argument("--block", type=int, default=1, help="columns that the masks keep or drop together: 1, 4 or 8")
    parser.add_argument("--seed", type=int, default=1, help="of weights and decisions")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="passing time, or computing time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    results = measure(args.rounds, args.block, args.seed, clock)
    print(f"{args.clock} clock, block {args.block}")
    print_savings(results)


if __name__ == "__main__":
    run_main(main)
