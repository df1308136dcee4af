"""Joiner and transducer loss, forward and backward: us against peers in time, memory and share of what is possible.

    . ./path.sh && python benchmarks/transducer_loss.py [--threads 2] [--rounds 7] [--bf16] [--json FILE]

The work: from encoder and predictor outputs (N, T, 512) and (N, S+1, 512) to the pruned loss (range 5) of a tanh joiner
512 -> V plus half the smoothed loss of a linear joiner, with the gradients of all inputs and weights; peers that know no
pruning compute the exact loss of the tanh joiner alone. Each contender lives in a process of its own; they take turns.

`of floor` is the time of the unavoidable matrix products at the rate that this run measures for such products (bf16 lines:
for bf16 products), over the time taken. `+MB` is the growth of peak memory over the state before the first step, `peak MB`
the whole process (on a GPU: what tensors take). Ratios are medians over rounds. How to get the peers: `README.md`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from loss_peers import CONTENDERS, DIM, PRUNE_RANGE, WARM_UP, Contender, Problem, Size
from torch import Tensor

from residualformer.errors import run_main
from residualformer.files import write_json

CPU_SIZES = "8x250x60x500,8x250x40x4002,4x250x40x11109"
CUDA_SIZES = "32x300x40x4002"
FULL_LATTICE_COPIES = 6  # of its logits are alive at a time, at most
PRODUCTS = "products"  # the worker that measures their rate
WHAT = ("loss", "norms of gradients")
TOLERANCE = {False: (1e-4, 1e-3), True: (1e-2, 5e-2)}  # of WHAT; float32, bf16


class Turn(NamedTuple):
    """One forward and backward pass."""

    ms: float
    processor_ms: float
    loss: float
    norms: list[float]  # of the gradients of `Problem.leaves`, those that there are
    added_mb: float  # peak memory so far
    peak_mb: float


Turns = dict[str, dict[int, Turn]]  # of a contender, in a round


class Clock:
    """Milliseconds of what a device did."""

    def __init__(self, device: str) -> None:
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []

    def time(self, work: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
        """(ms, ms of processor time, result)."""
        self._sync()
        started = time.perf_counter(), time.process_time()
        if self.events:
            self.events[0].record()
        result = work()
        if self.events:
            self.events[1].record()
        self._sync()
        ended = time.perf_counter(), time.process_time()
        wall = self.events[0].elapsed_time(self.events[1]) if self.events else 1000 * (ended[0] - started[0])
        return wall, 1000 * (ended[1] - started[1]), result

    def _sync(self) -> None:
        if self.events:
            torch.cuda.synchronize()


class Memory:
    """Peak memory since it was made, MB: growth, and in all."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
        self.before = self.peak()

    def peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def read(self) -> tuple[float, float]:
        peak = self.peak()
        return peak - self.before, peak


def contend(connection: Connection, name: str, size: Size, args: argparse.Namespace) -> None:
    """A contender's process: a Turn for every command, or the reason why there is none."""
    try:
        torch.set_num_threads(args.threads)
        contender = CONTENDERS[name]
        loss = contender.load()
        problem = Problem.random(size, args.ragged, args.device)
        clock = Clock(args.device)
        turn(contender, loss, Problem.random(WARM_UP, args.ragged, args.device), clock)
        memory = Memory(args.device)
        while connection.recv():
            connection.send(Turn(*turn(contender, loss, problem, clock), *memory.read()))
            if args.device == "cuda" and contender.lattice == "full":
                torch.cuda.empty_cache()  # or the others would find no memory
    except EOFError:
        pass
    except Exception as error:
        if args.trace:
            traceback.print_exc()
        connection.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def turn(contender: Contender, loss: Callable, problem: Problem, clock: Clock) -> tuple[float, float, float, list]:
    for leaf in problem.leaves():
        leaf.grad = None

    def work() -> Tensor:
        with torch.autocast(problem.am.device.type, torch.bfloat16, enabled=contender.bf16):
            value = loss(problem)
        value.backward()
        return value.detach()

    ms, processor_ms, value = clock.time(work)
    norms = [float(leaf.grad.double().norm()) for leaf in problem.leaves() if leaf.grad is not None]
    return ms, processor_ms, value.item(), norms


def multiply(connection: Connection, _: str, size: Size, args: argparse.Namespace) -> None:
    """A process that measures FLOP/s of the joiner's three products, the best of several, in [float32, bf16]."""
    torch.set_num_threads(args.threads)
    clock = Clock(args.device)
    rows = min(size.N * size.T * PRUNE_RANGE, 2048 if args.device == "cpu" else 2**16)  # larger ones are no faster
    x, w, y = torch.randn(rows, DIM), torch.randn(size.V, DIM), torch.randn(rows, size.V)
    operands = [
        [tensor.to(args.device, dtype) for tensor in (x, w, y)]
        for dtype in (torch.float32, torch.bfloat16)[: 1 + args.bf16]
    ]
    while connection.recv():
        rates = []
        for x, w, y in operands:
            products = (lambda: x @ w.T), (lambda: y @ w), (lambda: y.T @ x)  # noqa: B023
            ms = min(clock.time(product)[0] for product in products for _ in range(args.products))
            rates.append(2 * rows * DIM * size.V / ms * 1000)
        connection.send(rates)


class Worker:
    """A process that does one thing whenever it is told to."""

    def __init__(self, target: Callable, name: str, size: Size, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=target, args=(there, name, size, args), daemon=True)
        self.process.start()
        there.close()
        self.limit_s = args.limit_s

    def step(self):
        """What it sends back; a string says why there is nothing."""
        try:
            self.connection.send(True)
            if self.connection.poll(self.limit_s):
                return self.connection.recv()
            return f"stopped, it took more than {self.limit_s:g} s"
        except (EOFError, OSError):
            return "its process died; out of memory?"

    def close(self) -> None:
        self.process.kill()
        self.process.join()


def measure(size: Size, args: argparse.Namespace) -> tuple[Turns, list[list[float]]]:
    """Turns of every contender that could be measured, and the rates of products in each round."""
    turns: Turns = {}
    workers = {PRODUCTS: Worker(multiply, PRODUCTS, size, args)}
    try:
        for name in args.only:
            needed = FULL_LATTICE_COPIES * size.logits_mb()
            if CONTENDERS[name].lattice == "full" and needed > available_mb(args.device):
                print(f"{name}: not measured, it may need {needed / 1024:.0f} GB", flush=True)
                continue
            worker = Worker(contend, name, size, args)
            first = [worker.step() for _ in range(1 if args.device == "cpu" else 3)][-1]
            if isinstance(first, str):
                print(f"{name}: not measured, {first}", flush=True)
                worker.close()
            elif first.ms > 1000 * args.limit_s / 10:
                print(f"{name}: slow, measured once", flush=True)
                turns[name] = {0: first}
                worker.close()
            else:
                turns[name], workers[name] = {}, worker
        rates = [play(workers, turns, number) for number in range(-1, args.rounds)][1:]  # the first is to warm up
    finally:
        for worker in workers.values():
            worker.close()
    return turns, rates


def play(workers: dict[str, Worker], turns: Turns, number: int) -> list[float]:
    """A round: one turn of each; gives the rates of products."""
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
    return rates


def available_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**20
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def summary(turns: Turns, rates: list[list[float]], flops: float) -> dict[str, dict[str, float]]:
    """The numbers of a table's lines; the first contender that was measured is what the others are compared with."""
    lines = {}
    base = next(iter(turns.values()), {})
    for name, measured in turns.items():
        if not measured:
            continue
        rate = CONTENDERS[name].bf16
        shared = [(turn.ms / base[number].ms) for number, turn in measured.items() if number in base]
        lines[name] = {
            "ms": statistics.median(turn.ms for turn in measured.values()),
            "ms_best": min(turn.ms for turn in measured.values()),
            "processor_ms": statistics.median(turn.processor_ms for turn in measured.values()),
            "ratio": statistics.median(shared) if shared else float("nan"),
            "of_floor": statistics.median(
                1000 * flops / rates[number][rate] / turn.ms for number, turn in measured.items()
            ),
            "added_mb": max(turn.added_mb for turn in measured.values()),
            "peak_mb": max(turn.peak_mb for turn in measured.values()),
            "loss": next(iter(measured.values())).loss,
        }
    return lines


def disagreements(turns: Turns) -> list[str]:
    """Contenders whose loss or gradients are not those of the first float32 one of their lattice."""
    found, references = [], {}
    for name, measured in turns.items():
        contender, one = CONTENDERS[name], next(iter(measured.values()), None)
        if one is None:
            continue
        other, reference = references.setdefault(contender.lattice, (name, one))
        differences = (
            abs(one.loss / reference.loss - 1),
            max(abs(a / b - 1) for a, b in zip(one.norms, reference.norms, strict=True)),
        )
        for what, difference, allowed in zip(WHAT, differences, TOLERANCE[contender.bf16], strict=True):
            if not difference <= allowed:
                found.append(f"!!! {name} and {other} DISAGREE: {what}, relative difference {difference:.1e}")
    return found


def report(lines: dict[str, dict[str, float]], rates: list[list[float]]) -> None:
    for kind, measured in zip(("float32", "bf16"), zip(*rates, strict=True)):
        print(f"{kind} products: {statistics.median(measured) / 1e9:.0f} GFLOP/s, at best {max(measured) / 1e9:.0f}")
    print(f"{'':20s} {'ms':>9s} {'best':>9s} {'processor':>9s} {'ratio':>6s} {'of floor':>8s} {'+MB':>7s} "
          f"{'peak MB':>8s} {'loss':>11s}")  # fmt: skip
    for name, line in lines.items():
        print(f"{name:20s} {line['ms']:9.1f} {line['ms_best']:9.1f} {line['processor_ms']:9.1f} {line['ratio']:6.2f} "
              f"{line['of_floor']:8.1%} {line['added_mb']:7.0f} {line['peak_mb']:8.0f} {line['loss']:11.5f}")  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", help=f"NxTxSxV, with commas; default {CPU_SIZES}, on a GPU {CUDA_SIZES}")
    parser.add_argument("--only", help="contenders, with commas; the first is compared with: " + ", ".join(CONTENDERS))
    parser.add_argument("--bf16", action="store_true", help="measure every contender under bf16 autocast, too")
    parser.add_argument("--ragged", action="store_true", help="utterances of different lengths")
    parser.add_argument("--cuda", dest="device", action="store_const", const="cuda", default="cpu", help="on a GPU")
    parser.add_argument("--threads", type=int, default=2)
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
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(args.threads))
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    results = {"machine": machine, "torch": torch.__version__, "ragged": args.ragged, "sizes": {}}
    for size in args.sizes:
        problem = Problem.random(size, args.ragged, "cpu")
        own = sum(leaf.numel() for leaf in problem.leaves()) * 4 / 2**20
        print(f"\nN = {size.N}, T = {size.T}, S = {size.S}, V = {size.V}; {machine}, torch {torch.__version__}; "
              f"{problem.flops() / 1e9:.0f} GFLOP, gradients {own:.0f} MB", flush=True)  # fmt: skip
        turns, rates = measure(size, args)
        lines = summary(turns, rates, problem.flops())
        report(lines, rates)
        print("\n".join(disagreements(turns)), end="\n", flush=True)
        results["sizes"][str(size)] = {"products": rates, "contenders": lines}
        if args.json:
            write_json(args.json, results)


if __name__ == "__main__":
    run_main(main)
