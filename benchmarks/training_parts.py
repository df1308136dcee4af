"""Parts of a training step on a CPU, each against torch's own: time, ratio and peak memory, measured in one run.

    . ./path.sh && python benchmarks/training_parts.py [--threads 1] [--rounds 15]

Shapes are those of a batch of about 30 s of speech in `conf/an4`: N = 20 utterances, T' = 56 frames, D = 192, 4 heads.
The two of a pair take turns within a process; peak memory is taken in a process for each.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.errors import run_main
from residualformer.kernels.attention import AttentionMask, plain_self_attention, self_attention
from residualformer.kernels.dropout import Dropout
from residualformer.nn.attention import rotary_table
from residualformer.workflow.options import OptionParser

N, HEADS, FRAMES, DIM, FFN = 20, 4, 56, 192, 768


def attention_inputs() -> tuple[Any, ...]:
    qkv = torch.randn(N, FRAMES, 3 * DIM, dtype=torch.bfloat16, requires_grad=True)
    mask = AttentionMask(torch.ones(N, 1, FRAMES, FRAMES, dtype=torch.bool).tril(4))
    return qkv, mask, rotary_table(FRAMES, DIM // HEADS, torch.device("cpu")), HEADS


def dropout_inputs() -> tuple[Tensor, ...]:
    return (torch.randn(N, FRAMES, FFN, dtype=torch.bfloat16, requires_grad=True),)


POOLED = Dropout(0.1).train()
Part = tuple[Callable[[], tuple[Any, ...]], Callable, Callable]
PARTS: dict[str, Part] = {
    "attention, one function against scaled_dot_product_attention": (
        attention_inputs,
        self_attention,
        plain_self_attention,
    ),
    "dropout, mask pool against F.dropout": (dropout_inputs, POOLED, lambda x: F.dropout(x, 0.1)),
}


def step(function: Callable, inputs: tuple[Any, ...]) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    function(*inputs).sum().backward()
    return time.perf_counter() - started


def peak_mb(name: str, which: int, threads: int, connection) -> None:
    """Send how much the peak resident memory grew over ten steps, in MB; runs in a process of its own."""
    torch.set_num_threads(threads)
    inputs = PARTS[name][0]()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = resident_peak_mb()
    for _ in range(10):
        step(PARTS[name][which], inputs)
    connection.send(resident_peak_mb() - before)


def resident_peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measured_peak_mb(name: str, which: int, threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak_mb, args=(name, which, threads, there))
    process.start()
    value = here.recv()
    process.join()
    return value


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="timed turns of each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, (make, ours, theirs) in PARTS.items():
        inputs = make()
        turns = [(step(ours, inputs), step(theirs, inputs)) for _ in range(args.rounds + 3)][3:]
        mine, peer = (1000 * statistics.median(times) for times in zip(*turns, strict=True))
        ratio = statistics.median(theirs / ours for ours, theirs in turns)
        memory = [measured_peak_mb(name, which, args.threads) for which in (1, 2)]
        print(f"{name}: {mine:.2f} ms against {peer:.2f} ms, {ratio:.1f} times as fast; "
              f"peak memory +{memory[0]:.0f} MB against +{memory[1]:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    run_main(main)
