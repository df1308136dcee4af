"""Updates of the trainer: time per update and per epoch, and where it goes; this checkout, or it against another one.

    . ./path.sh && python benchmarks/trainer_profile.py --config conf/an4/residual.yaml --data egs/an4/data \
        [--threads 1] [--updates 30] [--model exp/shared/model.safetensors] [--against ../other/checkout]

The updates are those of `residualformer/train/loop.py`, in a process for each checkout; these take turns. They start
where SpecAugment does, from random weights or those of `--model`: the better the model, the cheaper the exact loss.
Times are processor time unless they say otherwise.

The first `--batches` batches of a training are gone through again and again. What the first turn takes more is told
apart: there oneDNN makes its operators for new shapes, which a long training does ever more rarely.

The profile is taken over another turn. The share of a kind in it, by torch.profiler's time of operators without what
they call, is applied to the time of updates that are not watched. Watching makes small operators look larger.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from residualformer.errors import run_main
from residualformer.workflow.options import OptionParser

OURS = Path(__file__).resolve().parent.parent
UPDATE = "trainer update"
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear", "_linear_pointwise"}
ATTENTION = ("_scaled_dot_product",)  # products and softmax in one operator
COPIES = {"copy_", "clone", "contiguous", "cat", "stack", "constant_pad_nd", "zero_", "fill_", "roll", "index",
          "index_select", "gather", "scatter", "masked_select", "transpose", "view", "reshape", "as_strided", "slice",
          "slice_backward", "select_backward", "empty", "empty_strided", "_to_copy", "to", "t", "permute", "expand",
          "unflatten", "flatten", "detach", "resolve_conj", "_unsafe_view", "new_zeros", "zeros", "zeros_like",
          "empty_like", "embedding", "embedding_dense_backward", "nonzero", "scatter_", "index_put_"}  # fmt: skip
KINDS = ("products of the layers", "products of attention", "products of the optimizer", "products of the loss",
         "convolutions", "recurrent predictor", "normalization", "softmax", "copies and layout",
         "element-wise and sums", "loss", "optimizer", "autograd and Python")  # fmt: skip
IN_PRODUCTS = KINDS[:6]


def kind_of(event: Any, losses: set[str]) -> str:
    """Of KINDS, for a profiler's event: by its name, and by what called it."""
    name = event.name.removeprefix("aten::").removeprefix("mkldnn::").removesuffix("_")
    ancestors = {event.name}
    parent = event.cpu_parent
    while parent is not None:
        ancestors.add(parent.name)
        parent = parent.cpu_parent
    of_optimizer = any(each.startswith(("Optimizer.", "aten::_foreach", "aten::linalg")) for each in ancestors)
    of_loss = any(each.split(": ")[-1] in losses or "ctc_loss" in each for each in ancestors)
    if "conv" in name:
        return "convolutions"
    if "rnn" in name or "lstm" in name or any("aten::lstm" in each or "Rnn" in each for each in ancestors):
        return "recurrent predictor"
    if name in PRODUCTS:
        layers = "products of attention" if name in ("bmm", "baddbmm") else "products of the layers"
        return "products of the optimizer" if of_optimizer else "products of the loss" if of_loss else layers
    if name.startswith(ATTENTION):
        return "products of attention"
    if of_optimizer or of_loss:
        return "optimizer" if of_optimizer else "loss"
    if not event.name.startswith("aten::"):
        return "autograd and Python"
    if "norm" in name:
        return "normalization"
    if "softmax" in name:
        return "softmax"
    return "copies and layout" if name in COPIES or name + "_" in COPIES else "element-wise and sums"


class Worker:
    """A trainer of the checkout that `residualformer` is imported from."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        from residualformer.config.loading import load_config
        from residualformer.data.batches import Position
        from residualformer.data.features import read_cmvn
        from residualformer.data.tokenizer import Tokenizer
        from residualformer.model import checkpoint
        from residualformer.train.loop import Trainer

        torch.set_num_threads(args.threads)
        config = load_config(args.config, args.set)
        cuts = {name: args.data / "fbank" / f"cuts_{name}.jsonl.gz" for name in ("train", "dev")}
        tokenizer = Tokenizer.load(args.data / "lang" / "tokenizer.json")
        self.trainer = Trainer(config, tokenizer, cuts, read_cmvn(args.data / "fbank"), Path(folder), {})
        if args.model:
            self.trainer.warm_start(checkpoint.read_model(args.model).weights, str(args.model))
        self.trainer.step = config.data.specaugment.start_step
        self.losses = functions_of("residualformer.loss")
        source = self.trainer.batches
        list(source.plan.epoch(0))  # the first takes longer
        started = time.process_time()
        self.plan = [batch for update in source.plan.epoch(0) for batch in update]
        planning, started = time.process_time() - started, time.process_time()
        plans = enumerate(self.plan[: args.batches])
        self.batches = [source.loader.batch(items, Position(0, i), 0)[0] for i, items in plans]
        self.making_s = planning / len(self.plan) + (time.process_time() - started) / len(self.batches)

    def update(self, number: int) -> dict[str, float]:
        """One update: seconds of processor and by the clock; of its batch frames, frames with padding and the loss."""
        batch = self.batches[number % len(self.batches)]
        started, clock = time.process_time(), time.perf_counter()
        ((_, losses),), _ = self.trainer.update([(0, batch)])
        ended = time.process_time(), time.perf_counter()
        self.trainer.step += 1
        frames = int(batch.feature_lens.sum())
        return {"cpu": ended[0] - started, "wall": ended[1] - clock, "frames": frames,
                "padded": batch.features[..., 0].numel(), "loss": float(losses.sums["loss"].detach())}  # fmt: skip

    def describe(self) -> dict[str, float]:
        """Of an epoch: frames and updates; seconds to make a batch; peak memory of the process so far, in MB."""
        seconds = sum(item.duration for batch in self.plan for item in batch)
        return {"frames": 100 * seconds, "updates": len(self.plan), "making_s": self.making_s, "peak_mb": peak_mb()}

    def profile(self) -> dict[str, Any]:
        """Seconds of each kind and of the single operators, and what the process took, all per update."""
        kinds, operators = defaultdict(float), defaultdict(float)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
            for batch in self.batches:
                with torch.profiler.record_function(UPDATE):
                    self.trainer.update([(0, batch)])
                self.trainer.step += 1
        for event in profile.events():
            if not inside_update(event):
                continue
            seconds, kind = event.self_cpu_time_total / 1e6 / len(self.batches), kind_of(event, self.losses)
            kinds[kind] += seconds
            operators[f"{event.name.split('#')[0]} ({kind})"] += seconds
        return {"kinds": kinds, "operators": operators}


def inside_update(event: Any) -> bool:
    while event is not None:
        if event.name == UPDATE:
            return True
        event = event.cpu_parent
    return False


def functions_of(package: str) -> set[str]:
    """Names under which the profiler shows the autograd functions of `package`, which has been imported."""
    modules = [module for name, module in sys.modules.items() if name.startswith(package + ".")]
    classes = [value for module in modules for value in vars(module).values() if inspect.isclass(value)]
    functions = [each for each in classes if issubclass(each, torch.autograd.Function)]
    return {name for each in functions for name in (each.__name__, each.__name__ + "Backward")}


def peak_mb() -> float:
    """Peak resident memory since this process began (Linux); that of the process that began it does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


class Checkout:
    """A worker process in which `residualformer` is that of `root`."""

    def __init__(self, root: Path, args: argparse.Namespace) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(args.threads))
        environment = {**os.environ, **threads, "PYTHONPATH": str(root), "KINETO_LOG_LEVEL": "9"}  # 9: nothing
        command = [sys.executable, __file__, "--worker", *sys.argv[1:]]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.root = root

    def ask(self, method: str, *arguments: Any) -> Any:
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"error: the updates of {self.root} failed; what they wrote is above.")
        return json.loads(answer)


def work(args: argparse.Namespace) -> None:
    """Answer the requests on stdin, one JSON line each; all else that is printed goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(args, folder)
        for line in sys.stdin:
            method, *arguments = json.loads(line)
            print(json.dumps(getattr(worker, method)(*arguments)), file=answers, flush=True)


def total(turns: list[dict[str, float]], name: str) -> float:
    return sum(turn[name] for turn in turns)


def report_updates(root: Path, first: list[dict], turns: list[dict], epoch: dict[str, float], threads: int) -> float:
    """Times of an update and of an epoch, which is as long as its frames at the measured rate; gives ms per update."""
    frames, cpu, wall = (total(turns, name) for name in ("frames", "cpu", "wall"))
    update, making = 1000 * cpu / len(turns), 1000 * epoch["making_s"]
    seconds = epoch["frames"] / frames * cpu + epoch["updates"] * epoch["making_s"]
    new = 1000 * statistics.median(turn["cpu"] for turn in first[1:]) - update  # the very first begins much else
    print(f"\n{root}: {len(turns)} updates of {frames / len(turns):.0f} frames, {threads} threads")
    print(f"  per update {update:.1f} ms, by the clock {1000 * wall / len(turns):.1f} ms; the first of its shape "
          f"{new:.0f} ms more; to make its batch (in another thread) {making:.1f} ms")  # fmt: skip
    print(f"  per epoch of {epoch['updates']} updates {seconds:.1f} s; {frames / cpu:.0f} frames a second")
    print(f"  padding {1 - frames / total(turns, 'padded'):.1%}; peak memory {epoch['peak_mb']:.0f} MB; "
          f"loss {total(turns, 'loss') / frames:.6f} nats a frame")  # fmt: skip
    return update


def report_profile(profile: dict[str, Any], update: float, operators: int) -> None:
    """The table of kinds, of an update of so many ms, and the largest operators."""
    watched = sum(profile["kinds"].values())
    table = {kind: seconds / watched for kind, seconds in profile["kinds"].items()}
    print(f"  while watched {1000 * watched:.1f} ms an update by the clock; in matrix products "
          f"{sum(table.get(kind, 0) for kind in IN_PRODUCTS):.1%}:")  # fmt: skip
    for kind in KINDS:
        print(f"    {kind:28s} {update * table.get(kind, 0):8.2f} ms {table.get(kind, 0):7.1%}")
    print("  the largest operators:")
    for name, seconds in sorted(profile["operators"].items(), key=lambda item: -item[1])[:operators]:
        print(f"    {name:70.70s} {update * seconds / watched:8.2f} ms {seconds / watched:7.1%}")


def parse() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="experiment, a YAML in conf/")
    parser.add_argument("--data", type=Path, required=True, help="folder with fbank/ and lang/ of the recipe")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a configuration key")
    parser.add_argument("--model", type=Path, help="start from the weights of this model file")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this repository")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=6, help="how many there are, 2 at least")
    parser.add_argument("--updates", type=int, default=30, help="timed updates of each checkout")
    parser.add_argument("--operators", type=int, default=12, help="single operators that are shown; 0: no profile")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.worker:
        return work(args)
    roots = [OURS] + ([args.against.resolve()] if args.against else [])
    checkouts = [Checkout(root, args) for root in roots]
    turns = [[checkout.ask("update", i) for checkout in checkouts] for i in range(args.batches + args.updates)]
    first, later = turns[: args.batches], turns[args.batches :]
    for checkout, *own in zip(checkouts, zip(*first, strict=True), zip(*later, strict=True), strict=True):
        update = report_updates(checkout.root, *own, checkout.ask("describe"), args.threads)
        if args.operators:
            report_profile(checkout.ask("profile"), update, args.operators)
    if args.against:
        ratios = [before["cpu"] / now["cpu"] for now, before in later]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"\n{roots[0]} is {middle:.2f} times as fast as {roots[1]} (quartiles {low:.2f} and {high:.2f})")


if __name__ == "__main__":
    run_main(main)
