"""Compare joiner and transducer loss, forward and backward, with peers: time, memory, fraction of the possible speed.

    . ./path.sh && python benchmarks/transducer_loss.py [--threads 2] [--rounds 7] [--bf16] [--json FILE]

The work: from encoder and predictor outputs (N, T, 512) and (N, S+1, 512) to the pruned loss (range 5) of a tanh
joiner 512 -> V plus half the smoothed loss of a linear joiner, with the gradients of all inputs and weights. Peers
without pruning compute the exact loss of the tanh joiner alone. Each contender runs in a process of its own; they take
turns.

Logits are random with a standard deviation of about `--spread`, which decides how many nodes of the lattice have a
gradient; 0.58 is that of torch's own initialization with inputs of unit variance. With 0.1 nearly all nodes have one.
With a larger spread, and in trained models, many gradients are negligible: ours skips these nodes, while others
multiply denormal float32 numbers, which is slow on a CPU unless it treats them as 0 (`--flush-denormals`).

`of floor` is the time of the unavoidable matrix products, at the rate that this run measures for such products (bf16
products on the lines of bf16), divided by the time taken. `+MB` is the growth of peak memory since the first step,
`peak MB` that of the whole process (on a GPU: of tensors). Ratios and fractions are medians over rounds, of
measurements in the same round. How to install the peers: `README.md`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

import torch
from loss_peers import CONTENDERS, Problem, Size
from loss_worker import Turn, Worker, contend, multiply

from residualformer.errors import run_main
from residualformer.files import write_json
from residualformer.workflow.options import OptionParser

CPU_SIZES = "8x250x60x500,8x250x40x4002,4x250x40x11109"
CUDA_SIZES = "32x300x40x4002"
FULL_LATTICE_COPIES = 6  # of the logits, at most, exist at a time
PRODUCTS = "products"  # the worker that measures their rate

# Allowed relative differences of WHAT, without and with bf16. In the warm-up nothing is pruned. At full size and with
# random inputs some windows of range 5 nearly tie, and rounding decides which of them is kept.
WHAT = ("loss", "norms of gradients")
SMALL_TOLERANCE = {False: (1e-4, 1e-3), True: (1e-2, 5e-2)}
TOLERANCE = {False: (2e-3, 2e-2), True: (1e-2, 5e-2)}

Turns = dict[str, dict[int, Turn]]  # of a contender, in a round
Rates = list[list[float]]  # FLOP/s in a round, of float32 and bf16 products


def measure(size: Size, args: argparse.Namespace) -> tuple[Turns, Rates]:
    """Return the turns of every contender that could be measured, and the rates of products in each round."""
    turns: Turns = {}
    warm_ups: dict[str, Turn] = {}
    workers = {PRODUCTS: Worker(multiply, PRODUCTS, size, args)}
    try:
        for name in args.only:
            worker, *first = start(name, size, args)
            if worker is None:
                print(f"{name}: not measured, {first[0]}", flush=True)
                continue
            warm_ups[name], turns[name] = first[0], {}
            if first[1].ms > 1000 * args.limit_s / 10:
                turns[name][0] = first[1]
                worker.close()
            else:
                workers[name] = worker
        rates = [play(workers, turns, number) for number in range(-1, args.rounds)][1:]  # the first is to warm up
    finally:
        for worker in workers.values():
            worker.close()
    turns = {name: measured for name, measured in turns.items() if measured}
    for line in (
        *disagreements(warm_ups, SMALL_TOLERANCE, "where nothing is pruned"),
        *disagreements({name: measured[0] for name, measured in turns.items()}, TOLERANCE, "at this size"),
    ):
        print(line)
    return turns, rates


def start(name: str, size: Size, args: argparse.Namespace) -> tuple[Worker, Turn, Turn] | tuple[None, str]:
    """Start a contender's process; return it with its warm-up and first turn, or None and the reason why not."""
    needed = FULL_LATTICE_COPIES * size.logits_mb()
    if CONTENDERS[name].lattice == "full" and needed > available_mb(args.device):
        return None, f"it may need {needed / 1024:.0f} GB"
    worker = Worker(contend, name, size, args)
    warm_up = worker.receive()
    first = warm_up
    for _ in range(1 if args.device == "cpu" else 3):  # kernels for a GPU are tuned at first
        first = first if isinstance(first, str) else worker.step()
    if isinstance(first, str):
        worker.close()
        return None, first
    return worker, warm_up, first


def play(workers: dict[str, Worker], turns: Turns, number: int) -> list[float]:
    """Play a round, one turn of each contender, and return the rates of products."""
    rates = workers[PRODUCTS].step()
    if isinstance(rates, str):
        raise RuntimeError(f"the rate of products cannot be measured: {rates}")
    for name, worker in list(workers.items())[1:] if number >= 0 else []:
        result = worker.step()
        if isinstance(result, str):
            print(f"{name}: no more turns, {result}", flush=True)
            workers.pop(name).close()
        else:
            turns[name][number] = result
            print(f"round {number + 1}, {name}: {result.ms:.0f} ms", file=sys.stderr)
    return rates


def available_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**20
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def summary(turns: Turns, rates: Rates, flops: float) -> dict[str, dict[str, float]]:
    """Return the numbers of each contender; ratios are to the first contender that was measured."""
    base = next(iter(turns.values()), {})
    return {name: numbers(measured, base, [row[CONTENDERS[name].bf16] for row in rates], flops)
            for name, measured in turns.items()}  # fmt: skip


def numbers(measured: dict[int, Turn], base: dict[int, Turn], rates: list[float], flops: float) -> dict[str, float]:
    turns = measured.values()
    ratios = [turn.ms / base[number].ms for number, turn in measured.items() if number in base]
    return {
        "ms": statistics.median(turn.ms for turn in turns),
        "best_ms": min(turn.ms for turn in turns),
        "processor_ms": statistics.median(turn.processor_ms for turn in turns),
        "ratio": statistics.median(ratios) if ratios else float("nan"),
        "of_floor": statistics.median(1000 * flops / rates[number] / turn.ms for number, turn in measured.items()),
        "added_mb": max(turn.added_mb for turn in turns),
        "peak_mb": max(turn.peak_mb for turn in turns),
        "loss": next(iter(turns)).loss,
        "turns": len(turns),
    }


def disagreements(turns: dict[str, Turn], tolerances: dict[bool, tuple[float, float]], where: str) -> list[str]:
    """Return a message per contender that differs from the first one of its lattice, given a turn of each."""
    found, references = [], {}
    for name, own in turns.items():
        other, reference = references.setdefault(CONTENDERS[name].lattice, (name, own))
        differences = (
            abs(own.loss / reference.loss - 1),
            max(abs(a / b - 1) for a, b in zip(own.norms, reference.norms, strict=True)),
        )
        for what, difference, allowed in zip(WHAT, differences, tolerances[CONTENDERS[name].bf16], strict=True):
            if not difference <= allowed:
                found.append(f"!!! {name} and {other} DISAGREE {where}: {what}, relative difference {difference:.1e}")
    return found


def report(lines: dict[str, dict[str, float]], rates: Rates) -> None:
    for kind, measured in zip(("float32", "bf16"), zip(*rates, strict=True)):
        print(f"{kind} products: {statistics.median(measured) / 1e9:.0f} GFLOP/s, at best {max(measured) / 1e9:.0f}")
    heads = {"ms": 9, "best": 9, "processor": 10, "ratio": 7, "of floor": 9, "+MB": 7, "peak MB": 8, "loss": 11}
    print(f"{'':20s}" + "".join(f"{head:>{width}s}" for head, width in heads.items()))
    for name, line in lines.items():
        times = f"{line['ms']:9.1f}{line['best_ms']:9.1f}{line['processor_ms']:10.1f}{line['ratio']:7.2f}"
        others = f"{line['of_floor']:9.1%}{line['added_mb']:7.0f}{line['peak_mb']:8.0f}{line['loss']:11.4f}"
        print(f"{name:20s}{times}{others}{' (measured once)' if line['turns'] == 1 else ''}")


def parse() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--sizes", help=f"NxTxSxV, with commas; default {CPU_SIZES}, on a GPU {CUDA_SIZES}")
    parser.add_argument("--only", help="contenders, with commas; the first is compared with: " + ", ".join(CONTENDERS))
    parser.add_argument("--bf16", action="store_true", help="measure every contender under bf16 autocast, too")
    parser.add_argument("--ragged", action="store_true", help="utterances of different lengths")
    parser.add_argument("--spread", type=float, default=0.58, help="of the logits: see above")
    parser.add_argument("--flush-denormals", action="store_true", help="tiny numbers are 0, for every contender")
    parser.add_argument("--cuda", dest="device", action="store_const", const="cuda", default="cpu", help="on a GPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine, 1 thread")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each")
    parser.add_argument("--products", type=int, default=3, help="turns of each product in a round, the best counts")
    parser.add_argument("--limit-s", type=float, default=300, help="who takes longer is stopped; a tenth: timed once")
    parser.add_argument("--trace", action="store_true", help="show the traceback of what fails")
    parser.add_argument("--json", help="write the numbers to this file as well")
    args = parser.parse_args()
    names = [name for name in CONTENDERS if args.bf16 or not CONTENDERS[name].bf16]
    args.only = args.only.split(",") if args.only else names
    if unknown := set(args.only) - set(CONTENDERS):
        parser.error(f"unknown contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    args.bf16 = any(CONTENDERS[name].bf16 for name in args.only)
    sizes = args.sizes or (CPU_SIZES if args.device == "cpu" else CUDA_SIZES)
    try:
        args.sizes = [Size(*map(int, size.split("x"))) for size in sizes.split(",")]
    except (TypeError, ValueError):
        parser.error(f"--sizes is {sizes}; it must be like {CPU_SIZES}")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(args.threads))
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    results = {"machine": machine, "torch": torch.__version__, "options": vars(args), "sizes": {}}
    for size in args.sizes:
        problem = Problem.random(size, args.ragged, args.spread, "cpu")
        own = sum(leaf.numel() for leaf in problem.leaves()) * 4 / 2**20
        print(f"\nN = {size.N}, T = {size.T}, S = {size.S}, V = {size.V}; {machine}, torch {torch.__version__}; "
              f"{problem.flops() / 1e9:.0f} GFLOP, gradients {own:.0f} MB, "
              f"{problem.share_with_gradient():.0%} of the nodes have one", flush=True)  # fmt: skip
        turns, rates = measure(size, args)
        lines = summary(turns, rates, problem.flops())
        report(lines, rates)
        results["sizes"][str(size)] = {"products": rates, "contenders": lines}
        if args.json:
            write_json(args.json, results)


if __name__ == "__main__":
    run_main(main)
