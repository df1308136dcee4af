"""Processes that take turns at a transducer loss: each waits until it is told to take its next turn."""

from __future__ import annotations

import argparse
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from loss_peers import CONTENDERS, DIM, PRUNE_RANGE, WARM_UP, Contender, Loss, Problem, Size
from torch import Tensor

ROWS = {"cpu": 2048, "cuda": 2**16}  # rows of a product from which larger ones are no faster
DIED = "its process died; out of memory?"


class Turn(NamedTuple):
    """One forward and backward pass."""

    ms: float
    processor_ms: float
    loss: float
    norms: list[float]  # of the gradients of `Problem.leaves`, where there are any
    added_mb: float = 0.0  # peak memory so far, minus the memory before the first turn
    peak_mb: float = 0.0


class Clock:
    """A clock in milliseconds; with `processor` of processor time, which does not count waiting."""

    def __init__(self, device: str, processor: bool) -> None:
        self.processor = processor
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []

    def time(self, work: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
        """Return (ms, ms of processor time, result of `work`)."""
        self._synchronize()
        started = time.perf_counter(), time.process_time()
        if self.events:
            self.events[0].record()
        result = work()
        if self.events:
            self.events[1].record()
        self._synchronize()
        ended = time.perf_counter(), time.process_time()
        wall, processor = (1000 * (end - start) for start, end in zip(started, ended, strict=True))
        wall = self.events[0].elapsed_time(self.events[1]) if self.events else wall
        return processor if self.processor else wall, processor, result

    def _synchronize(self) -> None:
        if self.events:
            torch.cuda.synchronize()


class Memory:
    """Peak memory in MB since creation: resident (Linux), or on a GPU that of tensors."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self.before = self.peak()

    def peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def contend(connection: Connection, name: str, size: Size, args: argparse.Namespace) -> None:
    """Run a contender's process: send a Turn of the warm-up, then one per command, or the reason why there is none."""
    try:
        torch.set_flush_denormal(args.flush_denormals)  # before there are other threads, which inherit it
        torch.set_num_threads(args.threads)
        contender = CONTENDERS[name]
        loss = contender.load()
        clock = Clock(args.device, args.clock == "cpu")
        problem, small = (Problem.random(each, args.ragged, args.spread, args.device) for each in (size, WARM_UP))
        connection.send(turn(contender, loss, small, clock))
        memory = Memory(args.device)
        while connection.recv():
            result = turn(contender, loss, problem, clock)
            peak = memory.peak()
            connection.send(result._replace(added_mb=peak - memory.before, peak_mb=peak))
            if args.device == "cuda" and contender.lattice == "full":
                torch.cuda.empty_cache()  # leaves memory for the others
    except EOFError:
        pass
    except Exception as error:
        if args.trace:
            traceback.print_exc()
        connection.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def turn(contender: Contender, loss: Loss, problem: Problem, clock: Clock) -> Turn:
    for leaf in problem.leaves():
        leaf.grad = None

    def work() -> Tensor:
        with torch.autocast(problem.am.device.type, torch.bfloat16, enabled=contender.bf16):
            value = loss(problem)
        value.backward()
        return value.detach()

    ms, processor_ms, value = clock.time(work)
    norms = [leaf.grad.double().norm().item() for leaf in problem.leaves() if leaf.grad is not None]
    return Turn(ms, processor_ms, value.item(), norms)


def multiply(connection: Connection, _: str, size: Size, args: argparse.Namespace) -> None:
    """Run the process that sends the FLOP/s of the tanh joiner's products, the best of several, in [float32, bf16]."""
    torch.set_num_threads(args.threads)
    clock = Clock(args.device, args.clock == "cpu")
    rows = min(size.N * size.T * PRUNE_RANGE, ROWS[args.device])
    matrices = torch.randn(rows, DIM), torch.randn(size.V, DIM), torch.randn(rows, size.V)
    types = [torch.float32, torch.bfloat16] if args.bf16 else [torch.float32]
    while connection.recv():
        rates = []
        for dtype in types:
            x, w, y = (matrix.to(args.device, dtype) for matrix in matrices)
            pairs = (x, w.T), (y, w), (y.T, x)  # forward, gradient of the input, gradient of the weight
            ms = min(clock.time(lambda: a @ b)[0] for a, b in pairs for _ in range(args.products))  # noqa: B023
            rates.append(2 * rows * DIM * size.V / ms * 1000)
        connection.send(rates)


class Worker:
    """A process of `contend` or `multiply`."""

    def __init__(self, target: Callable, name: str, size: Size, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=target, args=(there, name, size, args), daemon=True)
        self.process.start()
        there.close()
        self.limit_s = args.limit_s

    def step(self) -> Turn | list[float] | str:
        """Request a turn and return what the process sends; a string is the reason why there is no turn."""
        try:
            self.connection.send(True)
        except OSError:
            return DIED
        return self.receive()

    def receive(self) -> Turn | list[float] | str:
        try:
            if self.connection.poll(self.limit_s):
                return self.connection.recv()
        except (EOFError, OSError):
            return DIED
        return f"stopped, it took more than {self.limit_s:g} s"

    def close(self) -> None:
        self.process.kill()
        self.process.join()
