"""Mutate inputs of every loader: each must be read, or end in one sentence; nothing is run, and memory stays bounded.

    python benchmarks/mutate_inputs.py --count 10000          (in all, spread over the loaders)
    python benchmarks/mutate_inputs.py --only tokens --first 17 --count 1      (one input again)

Prints a table by loader: inputs, how many were read, how many ended in a sentence, and faults, which are listed; with
the growth of memory. The exit status is 1 if there are faults.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402  # after the path
from mutated_loaders import LOADERS, Loader  # noqa: E402
from mutations import CANARY, mutate_file  # noqa: E402

from residualformer.errors import UserError  # noqa: E402
from residualformer.workflow.options import OptionParser  # noqa: E402

MEMORY = 1 << 30  # bytes that reading an input may allocate
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "pickle.find_class")
ROW = "{:24}{:>8}{:>8}{:>10}{:>8}{:>9}"
WORK, DATA = "work", "data"  # folders of the mutated copy
CONNECTS = ("socket.connect", "socket.getaddrinfo", "urllib.Request")


class Result(NamedTuple):
    """What came of an input: `read`, `sentence` or `fault`, and a description."""

    outcome: str
    detail: str = ""
    growth_mb: int = 0


class Watch:
    """A record of what Python code did that reading of data must not do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = str(folder), list[str]()
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in RUNS or event in CONNECTS:
            self.seen.append(f"{event} {arguments!r:.100}")
        elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = os.path.abspath(arguments[0])
            if not path.startswith((self.folder, "/dev/")):
                self.seen.append(f"writes {path}")


def attempt(loader: Loader, sample: Path, folder: Path, seed: int, watch: Watch) -> Result:
    """Mutate a copy of a sample by the seed, and read it."""
    rng = random.Random(seed)
    data = folder / DATA
    shutil.rmtree(folder)
    shutil.copytree(sample, data)
    os.chdir(folder)
    files = sorted(path for path in data.rglob(loader.pattern) if path.is_file())
    done = [mutate_file(path, rng) for path in rng.sample(files, k=min(len(files), rng.choice([1, 1, 1, 2])))]
    watch.seen.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome, detail = _outcome(loader, data)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    if watch.seen or any(folder.rglob(CANARY)) or Path(CANARY).exists():
        outcome, detail = "fault", f"side effect: {watch.seen[:1]}"
    return Result(outcome, f"{detail}  [{'; '.join(done)}]", growth)


def _outcome(loader: Loader, data: Path) -> tuple[str, str]:
    try:
        loader.read(data)
    except UserError as error:
        return "sentence", str(error)
    except OSError as error:  # of which `run_main` makes a sentence, if they name a file
        if error.filename and error.strerror:
            return "sentence", str(error)
        return "fault", _where(error)
    except BaseException as error:
        return "fault", _where(error)
    return "read", ""


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
    place = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {error!s:.120}"


def work(name: str, sample: Path, seeds: list[int], pipe: int) -> None:
    """Read mutated inputs, and write a line before and after each to `pipe`; never return."""
    folder = sample.with_name(WORK)
    shutil.rmtree(folder)
    _print_to(Path(os.devnull))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    shutil.copytree(sample, folder / DATA)
    LOADERS[name].read(folder / DATA)  # so that Numba has compiled, or unpickled from its cache, all it will need
    watch = Watch(folder)
    with open(pipe, "w", buffering=1) as out:
        for seed in seeds:
            out.write(json.dumps(seed) + "\n")
            result = attempt(LOADERS[name], sample, folder, seed, watch)
            out.write(json.dumps(result) + "\n")
    os._exit(0)


def _print_to(path: Path) -> None:
    """Write standard output and errors of this process to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)


def results(name: str, sample: Path, seeds: list[int], limit_s: float) -> Iterator[tuple[int, Result]]:
    """Yield the result of each seed, from child processes; one that hangs or dies is replaced by another."""
    left = list(seeds)
    while left:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                work(name, sample, left, writing)
            finally:
                os._exit(99)
        os.close(writing)
        with open(reading, "rb", buffering=0) as lines:
            while left:
                ready, _, _ = select.select([lines], [], [], limit_s)
                line = lines.readline() if ready else b""
                if line and not line.startswith(b"["):
                    continue  # the seed that is begun
                seed = left.pop(0)
                if not line:
                    os.kill(child, signal.SIGKILL)
                    yield seed, Result("fault", f"no answer in {limit_s:g} s" if not ready else "the process died")
                    break
                yield seed, Result(*json.loads(line))
        os.waitpid(child, 0)


def build(loader: Loader, folder: Path) -> Path:
    """Write the sample in a child process, so that this one starts no threads; check that it is read.

    It is written where its mutated copies will be, since manifests hold absolute paths.
    """
    data, sample, printed = folder / WORK / DATA, folder / "sample", folder / "printed"
    data.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        _print_to(printed)
        try:
            loader.build(data)
            shutil.copytree(data, sample)
            loader.read(data)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"the sample is not read:\n{printed.read_text()}")
    return sample


def main() -> int:
    parser = OptionParser(__doc__)
    parser.add_argument("--count", type=int, default=270, help="inputs in all (default: %(default)s)")
    parser.add_argument("--each", type=int, metavar="N", help="inputs of each loader, instead of --count")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of a loader (0)")
    loaders = "may be repeated; one of: " + "; ".join(LOADERS)
    parser.add_argument("--only", action="append", metavar="LOADER", choices=LOADERS, help=loaders)
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="seconds per input (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only or list(LOADERS)
    each = args.each or -(-args.count // len(names))
    print(ROW.format("loader", "inputs", "read", "sentence", "faults", "MB more"), flush=True)
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            sample = build(LOADERS[name], Path(temporary).resolve() / str(zlib.crc32(name.encode())))
            seeds = [zlib.crc32(f"{name} {number}".encode()) for number in range(args.first, args.first + each)]
            totals += report(name, results(name, sample, seeds, args.limit), args.first)
    print(ROW.format("all", totals.total(), totals["read"], totals["sentence"], totals["fault"], ""))
    return 1 if totals["fault"] else 0


def report(name: str, found: Iterator[tuple[int, Result]], first: int) -> Counter[str]:
    """Print the line of a loader, and its faults, each kind once; return the counts."""
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}
    growth = 0
    for number, (_, result) in enumerate(found, start=first):
        counts[result.outcome] += 1
        growth = max(growth, result.growth_mb)
        if result.outcome == "fault":
            faults.setdefault(result.detail.partition(":")[0] + result.detail[:40], f"    {number}: {result.detail}")
    print(
        f"{name:24}{counts.total():8}{counts['read']:8}{counts['sentence']:10}{counts['fault']:8}{growth:9}", flush=True
    )
    for line in faults.values():
        print(line, flush=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
